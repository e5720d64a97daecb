"""Scale the number of worker groups on a cluster with a changing number of nodes.

The autoscaler only decides. It reads the cluster and starts groups through the `Cluster` protocol,
independent of Ray and of trials.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.config.bin_packing import Resources, count_fitting_groups
from orchestrator.config.plan import Groups
from orchestrator.core.errors import PreflightError

CHECK_S = 2.0
START_CHECK_S = 0.2  # while groups of the plan wait for the start of others
START_S = 8.0  # a group that takes longer to start does not delay the next one
HEAD_S = 30.0  # a head may be restarted; Ray ends the driver a minute after losing it
HEAD_LOST = "the head node of the Ray cluster does not respond"
NO_NODES = "the Ray cluster has no live nodes"
PAUSE_S = 15.0  # doubled for each group that could not be placed
RETURN_S = 120.0  # least time that a group has to start or restart
RECENT_S = 60.0  # a node that left longer ago is not the reason why a group ends
MAX_FAILED_STARTS = 3  # groups in a row that end before they take a trial: all have the same cause
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterSnapshot:
    """State of a cluster.

    Attributes:
        nodes: Ids of the live nodes.
        free: Free resources of each node.
        influence_actors: Number of influence actors that run for us.
    """

    nodes: frozenset[str]
    free: Sequence[Resources]
    influence_actors: int = 0


@dataclass(frozen=True)
class ScalingPolicy:
    """Demand of a run for groups.

    Attributes:
        max_groups: Largest number of groups.
        remaining_trials: Returns the number of trials that have not ended.
        note: Reports a message to the user, from any thread.
        heartbeat_warning_s: Seconds between two warnings while no group serves.
        heartbeat_timeout_s: Seconds without a serving group after which the run ends.
        max_starting: Number of groups of the plan that may start at a time; None for all.
    """

    max_groups: int
    remaining_trials: Callable[[], int]
    note: Callable[[str], None]
    heartbeat_warning_s: float = 120.0
    heartbeat_timeout_s: float = 600.0
    max_starting: int | None = None


class Cluster(Protocol):
    """Cluster on which the groups run."""

    def is_head_responsive(self) -> bool:
        """Return whether the cluster's head responds within a second or two."""

    def snapshot(self) -> ClusterSnapshot:
        """Return a snapshot of the cluster."""

    def add_group(self, number: int) -> None:
        """Start a group; its end is reported to `GroupAutoscaler.group_ended`."""

    def list_serving_groups(self) -> set[int]:
        """Return the groups whose workers have requested a trial."""


@dataclass
class GroupAutoscaler:
    """Controller of the number of worker groups of a run.

    `stop` ends the run from outside and receives the reason.
    """

    plan: Groups
    policy: ScalingPolicy
    cluster: Cluster
    stop: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    reason: str = ""
    head_lost: bool = False
    """True once the cluster's head is lost: none of its processes responds any more."""
    live_groups: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.num_started = self.failed_starts = self.placement_failures = self.capacity = 0
        self.num_waiting = self.plan.groups  # groups of the plan that have not started yet
        self.last_start = self.clock()
        self.head_warning_sent = False
        self.group_errors: list[str] = []  # errors of groups that ended since the last check
        self.error = ""
        self.field = "resources.address"
        self.value: object = None  # the value that `reason` refers to
        self.served_groups: set[int] = set()
        self.nodes: frozenset[str] | None = None
        self.last_join = self.last_leave = -RECENT_S  # time of the last such event
        self.last_populated = self.last_response = self.last_served = self.last_note = (
            self.next_start
        ) = self.clock()

    def max_concurrent_trials(self) -> int:
        """Return the number of trials that train at a time, in groups that live or will start."""
        return len(self.live_groups) + self.num_waiting

    def start(self) -> None:
        """Start the first groups of the plan; the checks of `watch` start the others."""
        self._start_planned(self.clock(), max(self.policy.remaining_trials(), 1))

    def watch(self) -> None:
        """Check the cluster repeatedly until the run is over."""
        while not (
            self.head_lost or self.closing.wait(START_CHECK_S if self.num_waiting else CHECK_S)
        ):
            try:
                self.step()
            except Exception:  # a faulty cluster fails in many ways; retry at the next check
                log.info("the cluster state could not be read", exc_info=True)

    def group_ended(self, number: int, error: str, served: bool, placed: bool = True) -> None:
        """Record that a group has ended.

        Args:
            number: Number of the group.
            error: Error that ended the group; empty if there was none.
            served: Whether the group had ever taken a trial.
            placed: Whether the group was placed in the cluster before it failed.
        """
        with self.lock:
            self.live_groups.discard(number)
            if served:
                self.last_served = self.last_note = self.clock()
            if error:
                self.num_waiting = 0  # the plan does not hold: `_add_groups` measures what fits
                self.group_errors.append(" ".join(error.split())[:200])
                self.error = error if placed else self.error
                self.failed_starts = 0 if served else self.failed_starts + placed
            # Ray may not place a group that fits by arithmetic: wait longer before each new attempt
            if error and not placed:
                self.placement_failures += 1
                self.next_start = self.clock() + PAUSE_S * 2**self.placement_failures

    def close(self) -> None:
        """Mark the run as finished: no more groups are started or stopped."""
        with self.lock:
            self.closing.set()

    def step(self) -> None:
        """Check the cluster once, and start groups or end the run accordingly."""
        now = self.clock()
        if self._is_head_silent(now):
            return
        remaining = self.policy.remaining_trials()
        if self.live_groups - self.served_groups:
            previously_served = self.served_groups
            self.served_groups = self.served_groups | self.cluster.list_serving_groups()
            self.placement_failures = (
                0 if self.served_groups - previously_served else self.placement_failures
            )
        self._start_planned(now, remaining)
        missing = min(self.policy.max_groups, remaining) - self.max_concurrent_trials()
        if self.live_groups & self.served_groups:
            self.last_served = self.last_note = now
            if missing <= 0 and not self.group_errors and self.nodes is not None:
                self.last_populated = now
                return
        snapshot = self.cluster.snapshot()
        self._track_nodes(snapshot, now)
        if now - self.last_populated >= HEAD_S:
            self._note(NO_NODES)
            self._give_up(NO_NODES, value="nodes")
            return
        with self.lock:
            group_errors, self.group_errors = self.group_errors, []
        if group_errors:
            if now - self.last_leave < RECENT_S:
                cause = "a node left"
            else:
                cause = f"a worker group ended ({group_errors[-1]})"
            self._note(f"{cause}: {self._format_group_count()}")
        if missing > 0:
            self._add_groups(snapshot, missing, now)
        self._check_starvation(snapshot, now)

    def _is_head_silent(self, now: float) -> bool:
        if self.cluster.is_head_responsive():
            self.last_response, self.head_warning_sent = now, False
            return False
        if now - self.last_response >= HEAD_S:
            self._note(HEAD_LOST)
            self._give_up(HEAD_LOST, value="head")
            self.head_lost = True
        elif now - self.last_response >= HEAD_S / 3 and not self.head_warning_sent:
            self.head_warning_sent = True
            self._note(
                f"{HEAD_LOST}: if it does not recover within {HEAD_S:g} s, the run ends and can be "
                f"resumed later"
            )
        return True

    def _track_nodes(self, snapshot: ClusterSnapshot, now: float) -> None:
        if self.nodes is not None and snapshot.nodes - self.nodes:
            # a group may succeed on the new node
            self.last_join = now
            self.next_start = now
            self.failed_starts = 0
            self.placement_failures = 0
        if self.nodes is not None and self.nodes - snapshot.nodes:
            self.last_leave = now
        self.nodes = snapshot.nodes
        self.last_populated = now if snapshot.nodes else self.last_populated

    def _add_groups(self, snapshot: ClusterSnapshot, missing: int, now: float) -> None:
        """Start groups that fit in two consecutive checks.

        One check is not enough: a group that restarts holds no resources for a moment.
        """
        serving = self.served_groups & self.live_groups
        starting = len(self.live_groups) - len(serving)
        pending_influence_needs = [
            each for each in self.plan.influence_needs for _ in range(len(serving))
        ][snapshot.influence_actors :]
        capacity = (
            count_fitting_groups(
                (*self.plan.bundles, *self.plan.influence_needs),
                snapshot.free,
                missing + starting,
                pending_influence_needs,
            )
            - starting
        )
        num_new_groups, self.capacity = min(capacity, self.capacity), capacity
        if num_new_groups <= 0 or self.failed_starts >= MAX_FAILED_STARTS or now < self.next_start:
            return
        for _ in range(num_new_groups):
            self._start()
        self.capacity = 0
        cause = "a node joined" if now - self.last_join < RECENT_S else "resources are available"
        self._note(f"{cause}: {self._format_group_count()}")

    def _start_planned(self, now: float, remaining_trials: int) -> None:
        """Start groups of the plan that trials need, as many at a time as the policy allows.

        A group imports torch and Ray Train in several processes, which compete for the CPUs.
        """
        with self.lock:
            needed = max(remaining_trials - len(self.live_groups), 0)
            self.num_waiting = needed = min(self.num_waiting, needed)
            if self.policy.max_starting is not None:
                starting = self.live_groups - self.served_groups
                num_starting = len(starting) if now - self.last_start < START_S else 0
                needed = min(needed, max(self.policy.max_starting - num_starting, 0))
            self.num_waiting -= needed
            self.last_start = now if needed else self.last_start
        for _ in range(needed):
            self._start()

    def _start(self) -> None:
        with self.lock:
            if self.closing.is_set():
                return
            number, self.num_started = self.num_started, self.num_started + 1
            self.live_groups.add(number)
        self.cluster.add_group(number)

    def _check_starvation(self, snapshot: ClusterSnapshot, now: float) -> None:
        """Report repeatedly that no group serves, and end the run after the timeout.

        A group that is still starting gets more time.
        """
        if not self.live_groups and self.failed_starts >= MAX_FAILED_STARTS:
            self._give_up(
                f"{self.failed_starts} consecutive worker groups ended before they took a trial: "
                f"{self.error}",
                "resources.groups",
                self.error,
            )
        elif self.live_groups and now - self.last_served >= max(
            self.policy.heartbeat_timeout_s, RETURN_S
        ):
            self._give_up(
                f"no worker group started within {now - self.last_served:.0f} s: "
                f"{self._describe_shortage(snapshot)}",
                "resources.groups",
                now - self.last_served,
            )
        elif not self.live_groups and now - self.last_served >= self.policy.heartbeat_timeout_s:
            self._give_up(
                f"no worker group could be placed for {self.policy.heartbeat_timeout_s:g} s "
                f"(resources.heartbeat_timeout_s): {self._describe_shortage(snapshot)}",
                "resources.heartbeat_timeout_s",
                self.policy.heartbeat_timeout_s,
            )
        elif now - self.last_note >= self.policy.heartbeat_warning_s:
            self.last_note = now
            if self.live_groups:
                why = "no worker group has started yet"
            else:
                why = "no worker group can be placed"
            self._note(f"trials are waiting because {why}: {self._describe_shortage(snapshot)}")

    def _describe_shortage(self, snapshot: ClusterSnapshot) -> str:
        """Return the needs of a group and the free resources, as text."""
        needs = _sum((*self.plan.bundles, *self.plan.influence_needs))
        nodes = "1 node has" if len(snapshot.nodes) == 1 else f"{len(snapshot.nodes)} nodes have"
        free = _sum(snapshot.free)
        has = ", ".join(f"{free.get(name, 0):g} {name}" for name in needs)
        return (
            f"a group needs "
            f"{', '.join(f'{value:g} {name}' for name, value in needs.items())}; {nodes} {has} free"
        )

    def _format_group_count(self) -> str:
        count = len(self.live_groups)
        return f"{count or 'no'} worker group{'s' * (count != 1)} now"

    def _note(self, text: str) -> None:
        if not self.closing.is_set():
            self.policy.note(text)

    def _give_up(self, reason: str, field: str = "resources.address", value: object = None) -> None:
        with self.lock:
            if self.closing.is_set() or self.reason:
                return
            self.reason, self.field, self.value = reason, field, value
            self.stop(reason)

    def raise_reason(self, failed: bool = True) -> None:
        """Raise PreflightError if the autoscaler ended the run.

        Raise it also if the run has `failed` because the head is lost.
        """
        if failed and not self.reason and not self.cluster.is_head_responsive():
            self.reason = HEAD_LOST
            self.head_lost = True
            self.field = "resources.address"
            self.value = "head"
        if self.reason:
            raise PreflightError(f"{self.reason}: check that the cluster is healthy").with_details(
                self.field, self.value, "a cluster with room for a worker group"
            )


def _sum(bundles: Sequence[Resources]) -> dict[str, float]:
    names = ("CPU", "GPU")
    sums = {name: round(sum(bundle.get(name, 0) for bundle in bundles), 4) for name in names}
    return {name: value for name, value in sums.items() if value}
