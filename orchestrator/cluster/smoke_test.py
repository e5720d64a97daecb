"""Test that two Ray Train workers can sum a tensor, as the groups of a sweep do."""

import os
import threading
import uuid
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig

from orchestrator.cluster._lean_trainer import LeanTrainer
from orchestrator.cluster._rendezvous import torch_config
from orchestrator.core.errors import PreflightError

WORKERS = 2
LENGTH = 1000
WORKER_RESOURCES = {"memory": 50 * 2**20}  # no CPU: also fits on a cluster that runs a sweep
POLL_S = 0.5


def run_two_workers(folder: Path, timeout_s: float) -> None:
    """Start two workers with gloo between them, let them sum a tensor, and end them.

    Ray is connected.

    Args:
        folder: Folder to which Ray Train writes; all nodes of a cluster must reach it.
        timeout_s: Time limit in seconds.

    Raises:
        PreflightError: The workers were not placed or did not respond in time, one failed, or the
            sum is wrong.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _trainer(folder).fit()
        except Exception as error:  # Ray Train wraps worker errors in types of its own
            failures.append(error)

    thread = threading.Thread(target=run, name="probe", daemon=True)
    thread.start()
    waited_s = 0.0
    while thread.is_alive() and waited_s < timeout_s:  # in slices, so that Ctrl-C is handled
        thread.join(POLL_S)
        waited_s += POLL_S
    if thread.is_alive():
        raise PreflightError(
            f"two workers did not respond within {timeout_s:g} s: check the load of the machine "
            "or the cluster (`ray status`), and the ports that a firewall closes"
        ).with_details("workers", None, f"a response within {timeout_s:g} s")
    if failures:
        reason = " ".join(str(failures[0]).split())[:500]
        raise PreflightError(f"two workers could not sum a tensor: {reason}").with_details(
            "workers", reason
        )


def sum_over_workers(rank: int, world_size: int) -> None:
    """Sum (rank + 1) * [0, 1, 2, ...] over the ranks and check the sum.

    Raises:
        PreflightError: The sum is wrong.
    """
    values = torch.arange(LENGTH, dtype=torch.float64)
    total = (rank + 1) * values
    torch.distributed.all_reduce(total)
    expected = values * (world_size * (world_size + 1) // 2)
    if not torch.equal(total, expected):
        index = int((total != expected).nonzero()[0])
        raise PreflightError(
            f"the sum of {world_size} workers is wrong at {index}: {total[index]} instead of "
            f"{expected[index]}"
        ).with_details("workers", float(total[index]), float(expected[index]))


def _run_worker(settings: dict[str, Any]) -> None:
    train_context = ray.train.get_context()
    sum_over_workers(train_context.get_world_rank(), train_context.get_world_size())


def _trainer(folder: Path) -> LeanTrainer:
    return LeanTrainer(
        _run_worker,
        train_loop_config={},
        backend_config=torch_config("gloo", folder),
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker=WORKER_RESOURCES),
        run_config=RunConfig(
            name=f"probe-{uuid.uuid4().hex[:8]}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            worker_runtime_env={"env_vars": {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}},
        ),
    )
