"""Define the overview of a dispatcher, from which the watchdog decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TrialOverview:
    """A trial that a group holds or that waits for one.

    Attributes:
        name: The name of the trial.
        group: The group that holds the trial; None for a queued trial.
        workers: The number of workers of the group.
        activity: The last activity that a worker reported.
        silent_s: The seconds since the last heartbeat.
    """

    name: str
    group: int | None
    workers: int
    activity: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class ReaderOverview:
    """A process that reads the reports on a trial, with the seconds since its last heartbeat."""

    reader: str
    trial: str
    silent_s: float


@dataclass(frozen=True, slots=True)
class DispatcherOverview:
    """State of a dispatcher.

    Attributes:
        instance_id: Differs after a restart of the dispatcher.
        has_group_list: Whether the dispatcher knows the groups.
        unreported_groups: The groups that have not reported since the restart.
        groups: The live groups.
        serving_groups: The groups whose workers have requested a trial.
        waiting: The number of queued trials.
        last_error: The error of the group that ended last.
        trials: The trials that a group holds. If no group holds one, it is the queued trial that
            has waited least.
        readers: The processes that read reports.
        processes: Each reader's trial and the handle of its process.
        notes: The messages for the user since the last overview.
    """

    instance_id: str
    has_group_list: bool
    unreported_groups: tuple[int, ...]
    groups: tuple[int, ...]
    serving_groups: tuple[int, ...]
    waiting: int
    last_error: str
    trials: tuple[TrialOverview, ...] = ()
    readers: tuple[ReaderOverview, ...] = ()
    processes: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
