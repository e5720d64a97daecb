"""Import the training code into processes of a cluster of our own before Ray Train needs them."""

import importlib
import os
from typing import Any

import ray


def import_training_code(num_workers: int, cpus: float, runtime_env: dict[str, Any]) -> None:
    """Import torch and the training code in processes that the next workers then run in.

    Ray runs an actor in an idle process of the same runtime environment. The imports take place
    while the controller of the group starts, which takes as long. Without an idle process Ray
    starts one, so nothing depends on this.

    Args:
        num_workers: Number of processes.
        cpus: CPUs of a worker, which set its number of OpenMP threads.
        runtime_env: Runtime environment of the workers.
    """
    task = ray.remote(num_cpus=0, max_retries=0, runtime_env=runtime_env)(_import_worker)
    for _ in range(num_workers):
        task.remote(max(int(cpus), 1))


def _import_worker(threads: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torch reads it at its import
    importlib.import_module("orchestrator.cluster._worker")
