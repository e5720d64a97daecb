"""Run a function in several processes that form one group (gloo), as the workers of a trial do."""

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

ROOT = Path(__file__).parents[1]
PRELOADED = ["torch.distributed", "torch.nn.parallel", "pytest", "orchestrator.training._trainer", "orchestrator.cluster._pair"]
LONGEST_S = 300  # instead of for ever, should the ranks wait for each other

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


def on_every_rank(world_size: int, function: Callable[[int, int, *Arguments], Result], *arguments: *Arguments) -> list[Result]:
    """What `function(rank, world_size, *arguments)` gives in each of `world_size` new processes, in the order of the ranks.

    The function stands at the top of a module; it gives tensors, plain values, and lists, tuples and dicts of them. What a rank
    fails with is raised here with its traceback, and the others are ended; so it is when they take longer than LONGEST_S.
    """
    _start_server()
    with TemporaryDirectory() as name:
        folder = Path(name)
        start_processes(  # type: ignore[no-untyped-call]
            _rank, (world_size, folder, function, arguments), world_size, daemon=True, start_method="forkserver"
        )
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _start_server() -> None:
    """Start the process that every rank is forked from, once.

    It has imported what the ranks need and run none of it; a rank that imports torch by itself takes seconds.
    """
    multiprocessing.set_forkserver_preload(PRELOADED)
    with contextlib.chdir(ROOT):  # where it finds the modules
        forkserver.ensure_running()


def _rank(rank: int, world_size: int, folder: Path, function: Callable[..., Result], arguments: tuple[object, ...]) -> None:
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    torch.save(function(rank, world_size, *arguments), folder / f"{rank}.pt")
    dist.barrier()  # a rank that leaves while gloo still talks to it may abort
    dist.destroy_process_group()
