"""Run warm worker groups, whose workers request trial after trial from the dispatcher.

Each group is one long Ray Train run.
"""

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster._lean_trainer import LeanTrainer
from orchestrator.cluster._placement_groups import (
    PlacementGroupCallback,
    forget_run,
    remove_run_placement_group,
)
from orchestrator.cluster._rendezvous import torch_config
from orchestrator.cluster._worker_entry import serve
from orchestrator.cluster.connect import alive_nodes, free_nodes, is_head_responsive, running_actors
from orchestrator.cluster.dispatcher_client import (
    NAMESPACE,
    DispatcherActor,
    DispatcherClient,
    run_name,
)
from orchestrator.cluster.group_autoscaler import ClusterSnapshot, GroupAutoscaler, ScalingPolicy
from orchestrator.config.plan import Groups
from orchestrator.core.errors import UNFIT_ENVIRONMENT, PreflightError
from orchestrator.core.signals import give_up, remaining_timeout
from orchestrator.extensions.shipping import pack_code

CLOSE_S = 20.0
CALL_S = 10.0
SPARE_S = 6.0  # of the time after a signal, reserved for Ray and MLflow after the groups
PROCESSES = 2  # of a group that start at a time: its controller and its worker
RESUME_HINT = ": restore the cluster, then continue with `--resume`"
INFLUENCE_ACTOR = "InfluenceActor"  # the class, whose module imports torch
RESTARTS = 100  # limit of one group; `resources.max_failures` is that of one trial


@contextlib.contextmanager
def worker_groups(
    plan: Groups,
    folder: Path,
    max_failures: int,
    own_cluster: bool,
    policy: ScalingPolicy | None = None,
) -> Iterator[DispatcherClient]:
    """Start the groups and keep them warm until the block ends.

    Call this in the main thread, with Ray connected.

    Args:
        plan: Groups to start, and the resources of their workers.
        folder: Folder to which Ray Train writes.
        max_failures: Deaths that one trial may have.
        own_cluster: Whether the cluster is our own, so that no node joins it.
        policy: Number of groups and receiver of notes; None: the groups of the plan, and no
            receiver.

    Yields:
        A client of the dispatcher.

    Raises:
        PreflightError: The installed Ray cannot give the workers different resources, or no group
            can run any more.
    """
    _callbacks(plan)  # fails here rather than in the thread of a group
    policy = policy or ScalingPolicy(plan.groups, lambda: plan.groups, lambda text: None)
    policy = _limit_to_machine(policy, plan) if own_cluster else policy
    name = f"dispatcher-{uuid.uuid4().hex[:8]}"
    actor = ray.remote(num_cpus=0, max_concurrency=1000, max_restarts=-1)(DispatcherActor)
    # the dispatcher is lost only with the driver's node
    driver_node = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    options = {"name": name, "namespace": NAMESPACE, "scheduling_strategy": driver_node}
    dispatcher = actor.options(**options).remote(0, max_failures)  # `add_group` follows
    running = _RayCluster(plan, folder, name, dispatcher, own_cluster)
    autoscaler = running.autoscaler = GroupAutoscaler(
        plan,
        policy,
        running,
        lambda reason: give_up(f"error: {reason}{RESUME_HINT}", UNFIT_ENVIRONMENT),
    )
    autoscaler.start()
    watch = threading.Thread(target=autoscaler.watch, name="groups", daemon=True)
    watch.start()
    try:
        yield DispatcherClient(
            name, dispatcher, max_concurrent_trials=autoscaler.max_concurrent_trials
        )
    except (KeyboardInterrupt, ray.exceptions.RayError) as error:
        autoscaler.raise_reason(failed=not isinstance(error, KeyboardInterrupt))
        raise
    finally:
        autoscaler.close()
        if not autoscaler.head_lost:
            running.close()
            watch.join(remaining_timeout(CALL_S, SPARE_S))  # Ray ends next: no calls after this


def _limit_to_machine(policy: ScalingPolicy, plan: Groups) -> ScalingPolicy:
    """Return the policy on a cluster of our own, to which no node is added.

    A part of the groups starts at a time, because the other CPUs serve the driver, Ray and the
    training of the first group.
    """
    max_starting = max(int(ray.cluster_resources().get("CPU", 0)) // PROCESSES, 1)
    return replace(policy, max_groups=plan.groups, max_starting=max_starting)


class _RayCluster:
    """Groups of a run in Ray, which a `GroupAutoscaler` observes and starts."""

    autoscaler: GroupAutoscaler

    def __init__(
        self, plan: Groups, folder: Path, name: str, dispatcher: Any, own_cluster: bool
    ) -> None:
        self.plan, self.folder, self.name, self.dispatcher = plan, folder, name, dispatcher
        self.own_cluster = own_cluster
        self.threads: list[threading.Thread] = []
        self.is_head_responsive = is_head_responsive

    def snapshot(self) -> ClusterSnapshot:
        """Return the nodes, their free resources, and our number of influence actors."""
        return ClusterSnapshot(
            alive_nodes(),
            free_nodes(),
            running_actors(INFLUENCE_ACTOR) if self.plan.influence_needs else 0,
        )

    def list_serving_groups(self) -> set[int]:
        """Return the groups that have requested a trial, or none if the call exceeds `CALL_S`."""
        with contextlib.suppress(ray.exceptions.RayError):
            return set(ray.get(self.dispatcher.list_serving_groups.remote(), timeout=CALL_S))
        return set()

    def add_group(self, number: int) -> None:
        """Start a group in its own thread."""
        self.dispatcher.add_group.remote(number)
        thread = threading.Thread(
            target=self._run, args=(number,), name=f"group-{number}", daemon=True
        )
        self.threads.append(thread)
        thread.start()

    def close(self) -> None:
        """End all groups within `CLOSE_S` in total, or sooner after an interruption."""
        until = time.monotonic() + remaining_timeout(CLOSE_S, SPARE_S)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(self.dispatcher.close.remote(), timeout=remaining_timeout(CLOSE_S, SPARE_S))
        for thread in self.threads:
            thread.join(max(until - time.monotonic(), 0.0))

    def _run(self, number: int) -> None:
        """Run one group, and always report its end to the dispatcher.

        Without the report, callers would wait for the group. Another group resumes the trial that
        this one trained when it failed. The worker reports a trial's own faults.
        """
        error, placed = "", True
        run = run_name(self.name, number)
        try:
            trainer = _trainer(number, self.plan, self.name, self.folder)
            trainer.own_cluster = self.own_cluster
            trainer.fit()
        except Exception as failure:  # Ray Train wraps worker errors in types of its own
            error = " ".join(str(failure).split())[:500] or type(failure).__name__
            if (
                type(getattr(failure, "controller_failure", None)).__name__
                == "WorkerGroupStartupTimeoutError"
            ):
                error, placed = "its workers could not be placed in the cluster", False
            if isinstance(failure, ray.exceptions.RayActorError):
                remove_run_placement_group(run)
        served = False
        forget_run(run)
        with contextlib.suppress(ray.exceptions.RayError, PreflightError):
            served = DispatcherClient(self.name, self.dispatcher).group_ended(
                number, error or "it was closed", lost=bool(error)
            )
        self.autoscaler.group_ended(number, error, served, placed)


def _trainer(number: int, plan: Groups, name: str, folder: Path) -> LeanTrainer:
    # NCCL refuses two ranks on one GPU ("Duplicate GPU detected")
    backend = "nccl" if plan.whole_gpus else "gloo"
    run = run_name(name, number)
    settings = {"group": number, "name": name, "namespace": NAMESPACE, "code": pack_code()}
    return LeanTrainer(
        # a function without parameters: the controller would unpickle a configuration
        partial(serve, settings),
        backend_config=torch_config(backend, folder),
        scaling_config=ScalingConfig(
            num_workers=plan.workers,
            use_gpu="GPU" in plan.mean,
            resources_per_worker=plan.mean,
            placement_strategy="PACK",  # reserve a group as a whole, on as few nodes as possible
        ),
        run_config=RunConfig(
            name=run,
            storage_path=str(folder),
            # a group that cannot be placed ends; `GroupAutoscaler` starts another when it fits
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=0),
            worker_runtime_env={"env_vars": {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}},
            callbacks=[PlacementGroupCallback(run), *_callbacks(plan)],
        ),
    )


def _callbacks(plan: Groups) -> list[Any]:
    """Return the callback that gives unequal workers their own resources, if they are unequal.

    Ray then receives the mean of their resources, so that its totals are correct.
    """
    if not plan.is_heterogeneous:
        return []
    try:
        from orchestrator.cluster._heterogeneous_workers import HeterogeneousWorkers, require_hooks

        require_hooks()
    except (ImportError, PreflightError) as error:
        raise PreflightError(
            f"Ray {ray.__version__} does not support workers with different resources ({error}): "
            "install the Ray version in constraints.txt, or give all students the same "
            "cpus_per_worker and gpus_per_worker"
        ).with_details(
            "ray", getattr(error, "value", str(error)), "the Ray of constraints.txt"
        ) from error
    return [HeterogeneousWorkers(plan.bundles)]
