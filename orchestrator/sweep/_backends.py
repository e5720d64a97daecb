"""Open what trains the trials: Ray's worker groups, this process or several local processes."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.plan import plan_groups
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import trial_name
from orchestrator.core import signals
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.events import StepDisplay

if TYPE_CHECKING:
    from orchestrator.cluster.local_backend import LocalBackend

LOCAL_S = 8.0  # for the steps in progress in local processes
# a dispatcher client, and a function that returns the number of concurrent trials
SharedGroups = tuple[Any, Callable[[], int]]


def open_own_groups(
    store: Store,
    sweep: Sweep,
    local_processes: int,
    display: StepDisplay,
    note: Callable[[str], None],
    num_influence_actors: int,
) -> contextlib.AbstractContextManager[SharedGroups]:
    """Open worker groups for the trials of one sweep or training."""
    return open_dispatcher(
        store,
        sweep.configuration,
        sweep.folder / "groups",
        sweep.num_trials,
        local_processes,
        display,
        note,
        lambda: sweep.num_trials - sweep.count_ended(),
        num_influence_actors,
    )


@contextlib.contextmanager
def use_shared_groups(shared_groups: SharedGroups, sweep: Sweep) -> Iterator[SharedGroups]:
    """Yield shared worker groups; after a normal exit none trains a trial of this sweep."""
    yield shared_groups
    dispatcher_client = shared_groups[0]
    heartbeat_timeout_s = sweep.configuration.resources.heartbeat_timeout_s
    for number in sweep.trials:
        dispatcher_client.stop(trial_name(number))
    for number in sweep.trials:
        dispatcher_client.wait_until_released(trial_name(number), heartbeat_timeout_s)


def open_dispatcher(
    store: Store,
    configuration: Configuration,
    folder: Path,
    trials: int,
    local_processes: int,
    display: StepDisplay,
    note: Callable[[str], None],
    count_unfinished: Callable[[], int],
    num_influence_actors: int = 0,
) -> contextlib.AbstractContextManager[SharedGroups]:
    """Open a dispatcher client and a function that returns the number of concurrent trials.

    Use it within `stoppable`.

    Args:
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        note: Receives warnings, from any thread.
        count_unfinished: Returns the number of trials still to train.
        num_influence_actors: Influence actors in each group.
    """
    if local_processes:
        return _open_locally(configuration, local_processes, display, note, count_unfinished)
    return _open_on_ray(
        store, configuration, folder, trials, display, note, count_unfinished, num_influence_actors
    )


@contextlib.contextmanager
def _open_locally(
    configuration: Configuration,
    local_processes: int,
    display: StepDisplay,
    note: Callable[[str], None],
    count_unfinished: Callable[[], int],
) -> Iterator[SharedGroups]:
    """Yield a backend that trains in this process, or in several others."""
    processes = min(local_processes, max(count_unfinished(), 1))
    backend: LocalBackend
    if processes == 1:
        from orchestrator.cluster.local_backend import LocalDispatcher

        backend = LocalDispatcher(note)
    else:
        from orchestrator.cluster.local_pool import LocalPool

        display.preparing(f"starting {processes} processes")
        backend = LocalPool(processes, configuration.resources, note)
    try:
        yield backend, lambda: local_processes
    finally:
        backend.close(signals.remaining_timeout(LOCAL_S))


@contextlib.contextmanager
def _open_on_ray(
    store: Store,
    configuration: Configuration,
    folder: Path,
    trials: int,
    display: StepDisplay,
    note: Callable[[str], None],
    count_unfinished: Callable[[], int],
    num_influence_actors: int,
) -> Iterator[SharedGroups]:
    """Connect to Ray and yield the dispatcher client of its worker groups."""
    display.preparing("starting Ray")  # the imports of its libraries take a second
    from orchestrator.cluster.connect import connect_to_ray, free_nodes, list_nodes
    from orchestrator.cluster.descendants import end_leftover_processes, record_descendants
    from orchestrator.cluster.group_autoscaler import ScalingPolicy
    from orchestrator.cluster.groups import worker_groups
    from orchestrator.config.resources import cluster_address
    from orchestrator.sweep._watchdog import watch_trials

    resources = configuration.resources
    if ended := end_leftover_processes(store.root):
        display.preparing(f"ended {len(ended)} processes that a run left behind when it died")
    address = cluster_address(resources)
    with record_descendants(folder), connect_to_ray(address) as available:
        signals.reinstall_handlers()  # Ray has installed its own signal handlers
        plan = plan_groups(
            configuration,
            available,
            trials,
            list_nodes(),
            num_influence_actors,
            free_nodes(),
            elastic=bool(address),
        )
        groups = "group" if plan.groups == 1 else "groups"
        workers = "worker" if plan.workers == 1 else "workers"
        display.preparing(f"starting {plan.groups} worker {groups} of {plan.workers} {workers}")
        policy = ScalingPolicy(
            resources.groups or trials,
            count_unfinished,
            note,
            resources.heartbeat_warning_s,
            resources.heartbeat_timeout_s,
        )
        with (
            worker_groups(
                plan, folder, resources.max_failures, own_cluster=not address, policy=policy
            ) as dispatcher_client,
            watch_trials(dispatcher_client, resources, note),
        ):
            signals.reinstall_handlers()
            yield dispatcher_client, dispatcher_client.max_concurrent_trials
