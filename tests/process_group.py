"""Run a function in several processes of one gloo group, like the workers of a trial."""

import contextlib
import faulthandler
import multiprocessing
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, TypeVarTuple

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from orchestrator.core.reports import EpochRecord

ROOT = Path(__file__).parents[1]
PRELOADED = [
    "torch._dynamo",  # every optimizer imports it: 1.7 s of CPU time in each rank
    "torch.distributed",
    "torch.nn.parallel",
    "pytest",
    "orchestrator.training._trainer",
    "orchestrator.cluster._pair",
]
LONGEST_S = 300  # limit in case of a deadlock between the ranks

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


def on_every_rank(
    world_size: int, function: Callable[[int, int, *Arguments], Result], *arguments: *Arguments
) -> list[Result]:
    """Run `function(rank, world_size, *arguments)` in `world_size` new processes.

    The function must be defined at the top level of a module. It returns tensors, plain values, and
    lists, tuples and dicts of them. If a rank fails, its error is raised here with its traceback,
    and the other ranks are ended. They are also ended after LONGEST_S.

    Returns:
        The results in the order of the ranks.
    """
    start_server()
    with TemporaryDirectory() as name:
        folder = Path(name)
        start_processes(  # type: ignore[no-untyped-call]
            _rank,
            (world_size, folder, function, arguments),
            world_size,
            daemon=True,
            start_method="forkserver",
        )
        with torch.serialization.safe_globals([EpochRecord]):
            return [
                torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)
            ]


def start_server() -> None:
    """Start the fork server of this process, once.

    It imports the modules of the ranks in advance: importing torch in each rank takes seconds.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    with contextlib.chdir(ROOT):  # the server finds the modules there
        forkserver.ensure_running()


def _rank(
    rank: int,
    world_size: int,
    folder: Path,
    function: Callable[..., Result],
    arguments: tuple[object, ...],
) -> None:
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    torch.save(function(rank, world_size, *arguments), folder / f"{rank}.pt")
    dist.barrier()  # a rank that leaves during gloo's communication may abort
    dist.destroy_process_group()
