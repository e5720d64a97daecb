"""Warm worker groups: each is one long Ray Train run whose workers take trial after trial from the dispatcher.

Knows Ray Train and the dispatcher; not what is searched.
"""

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from orchestrator.actors.desk import NAMESPACE, Desk
from orchestrator.actors.dispatcher import Dispatcher
from orchestrator.actors.worker import serve
from orchestrator.errors import EnvironmentUnfitError
from orchestrator.interrupt import left
from orchestrator.plan import Groups

CLOSE_S = 20.0
SPARE_S = 6.0  # of an interruption, for Ray and MLflow after the groups
RESTARTS = 100  # of one group over its life; what one trial may cost is `resources.max_failures`


@contextlib.contextmanager
def worker_groups(plan: Groups, folder: Path, max_failures: int, own_cluster: bool) -> Iterator[Desk]:
    """Start the groups and leave them warm until the block ends; Ray is connected already.

    `own_cluster`: Ray ends with this process, so nobody has to clean up after a group.
    EnvironmentUnfitError: the workers hold different resources, and the installed Ray cannot give them.
    """
    _callbacks(plan)  # refused here rather than in the thread of a group
    name = f"dispatcher-{uuid.uuid4().hex[:8]}"
    actor = ray.remote(num_cpus=0, max_concurrency=1000)(Dispatcher)
    dispatcher = actor.options(name=name, namespace=NAMESPACE).remote(plan.groups, max_failures)
    threads = [
        threading.Thread(
            target=_run_group, args=(number, plan, name, dispatcher, folder, own_cluster), name=f"group-{number}", daemon=True
        )
        for number in range(plan.groups)
    ]
    for thread in threads:
        thread.start()
    try:
        yield Desk(name, dispatcher)
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(dispatcher.close.remote(), timeout=left(CLOSE_S, SPARE_S))
        for thread in threads:
            thread.join(left(CLOSE_S, SPARE_S))


def _run_group(number: int, plan: Groups, name: str, dispatcher: Any, folder: Path, own_cluster: bool) -> None:
    """The life of one group; however it ends, the dispatcher hears of it, so that nobody waits for it."""
    error = "it was closed"
    try:
        _trainer(number, plan, name, folder, own_cluster).fit()
    except Exception as failure:  # Ray Train wraps what its workers raise in types of its own
        error = " ".join(str(failure).split())[:500]
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(dispatcher.group_ended.remote(number, error), timeout=60)


class _LeanTrainer(TorchTrainer):
    """A TorchTrainer without the actors that a warm group never uses, each a process that costs the start a second or two.

    The data set manager serves Ray Data, which we do not use; the cleaner removes placement groups that outlive a run, and on
    a cluster of our own nothing does. Ray has no setting for either; if it renames them, they are started as before.
    """

    unused: tuple[str, ...] = ("DatasetsCallback",)

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in self.unused]


class _LeanestTrainer(_LeanTrainer):
    unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")


def _trainer(number: int, plan: Groups, name: str, folder: Path, own_cluster: bool) -> TorchTrainer:
    # NCCL refuses two ranks on one GPU ("Duplicate GPU detected")
    backend = "nccl" if plan.whole_gpus else "gloo"
    trainer = _LeanestTrainer if own_cluster else _LeanTrainer
    return trainer(
        serve,
        train_loop_config={"group": number, "name": name, "namespace": NAMESPACE},
        torch_config=TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=plan.workers,
            use_gpu="GPU" in plan.mean,
            resources_per_worker=plan.mean,
            placement_strategy="PACK",  # a group is reserved as a whole, its workers on as few nodes as possible
        ),
        run_config=RunConfig(
            name=f"{name}-group-{number}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=3),
            worker_runtime_env={"env_vars": {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}},
            callbacks=_callbacks(plan),
        ),
    )


def _callbacks(plan: Groups) -> list[Any]:
    """What gives each worker its own resources where they differ; Ray is told their mean then, so that its sums are right."""
    if not plan.uneven:
        return []
    try:
        from orchestrator.actors.uneven import UnevenWorkers, require_hooks

        require_hooks()
    except (ImportError, EnvironmentUnfitError) as error:
        raise EnvironmentUnfitError(
            f"workers of different resources are not possible with Ray {ray.__version__} ({error}): "
            "install the Ray of constraints.txt, or give all students the same cpus_per_worker and gpus_per_worker"
        ) from error
    return [UnevenWorkers(plan.bundles)]
