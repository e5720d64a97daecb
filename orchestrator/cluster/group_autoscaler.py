"""Scale the number of worker groups on a cluster whose nodes come and go.

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

LOOK_S = 2.0
HEAD_S = 30.0  # a head may be restarted; Ray ends the driver a minute after losing it
HEADLESS = "the head of the Ray cluster does not answer any more"
NODELESS = "no node of the Ray cluster is alive any more"
PAUSE_S = 15.0  # doubled with every group that could not be placed
RETURN_S = 120.0  # least time that a group has to start or restart
LATELY_S = 60.0  # a node that left longer ago is not the reason why a group ends
BARREN = 3  # groups in a row that end before they take a trial: all have the same fault
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
        most: Largest number of groups.
        left: Returns the number of trials that have not ended.
        note: Reports a sentence to the user, from any thread.
        heartbeat_warning_s: Seconds between two warnings while no group serves.
        heartbeat_timeout_s: Seconds without a serving group after which the run ends.
    """

    most: int
    left: Callable[[], int]
    note: Callable[[str], None]
    heartbeat_warning_s: float = 120.0
    heartbeat_timeout_s: float = 600.0


class Cluster(Protocol):
    """Cluster on which the groups run."""

    def answers(self) -> bool:
        """Return whether the cluster's head answers, within a second or two."""

    def look(self) -> ClusterSnapshot:
        """Return a snapshot of the cluster."""

    def add_group(self, number: int) -> None:
        """Start a group; its end is reported to `GroupAutoscaler.ended`."""

    def serving(self) -> set[int]:
        """Return the groups whose workers have requested a trial."""


@dataclass
class GroupAutoscaler:
    """Controller of the number of worker groups of a run.

    `stop` ends the run from outside, for the reason that it is given.
    """

    plan: Groups
    rules: ScalingPolicy
    cluster: Cluster
    stop: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    reason: str = ""
    headless: bool = False
    """True once the head of the cluster is gone: no process in it answers any more."""
    live: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.begun = self.barren = self.misses = self.room = 0
        self.told = False
        self.gone: list[str] = []  # errors of groups that ended since the last look
        self.error = ""
        self.field = "resources.address"
        self.value: object = None  # the value that `reason` refers to
        self.served: set[int] = set()
        self.nodes: frozenset[str] | None = None
        self.joined = self.left = -LATELY_S  # time of the last such event
        self.peopled = self.heard = self.alone = self.noted = self.not_before = self.clock()

    def at_once(self) -> int:
        """Return the number of trials that train at a time."""
        return len(self.live)

    def begin(self) -> None:
        """Start the groups of the plan."""
        for _ in range(self.plan.groups):
            self._start()

    def watch(self) -> None:
        """Check the cluster repeatedly until the run is over."""
        while not (self.headless or self.closing.wait(LOOK_S)):
            try:
                self.step()
            except Exception:  # a faulty cluster fails in many ways; the next check decides
                log.info("the cluster could not be looked at", exc_info=True)

    def ended(self, number: int, error: str, served: bool, placed: bool = True) -> None:
        """Record that a group has ended.

        Args:
            number: Number of the group.
            error: Error that ended the group; empty if there was none.
            served: Whether the group had ever taken a trial.
            placed: Whether the group was placed in the cluster before it failed.
        """
        with self.lock:
            self.live.discard(number)
            if served:
                self.alone = self.noted = self.clock()
            if error:
                self.gone.append(" ".join(error.split())[:200])
                self.error = error if placed else self.error
                self.barren = 0 if served else self.barren + placed
            # the arithmetic may find room where Ray has none: wait longer before each new attempt
            if error and not placed:
                self.misses += 1
                self.not_before = self.clock() + PAUSE_S * 2**self.misses

    def close(self) -> None:
        """Mark the run as over: no group is started or stopped any more."""
        with self.lock:
            self.closing.set()

    def step(self) -> None:
        """Check the cluster once, and start groups or end the run accordingly."""
        now = self.clock()
        if self._headless(now):
            return
        missing = min(self.rules.most, self.rules.left()) - len(self.live)
        if self.live - self.served:
            before, self.served = self.served, self.served | self.cluster.serving()
            self.misses = 0 if self.served - before else self.misses
        if self.live & self.served:
            self.alone = self.noted = now
            if missing <= 0 and not self.gone and self.nodes is not None:
                self.peopled = now
                return
        seen = self.cluster.look()
        self._compare(seen, now)
        if now - self.peopled >= HEAD_S:
            self._tell(NODELESS)
            self._give_up(NODELESS, value="nodes")
            return
        with self.lock:
            gone, self.gone = self.gone, []
        if gone:
            cause = (
                "a node left"
                if now - self.left < LATELY_S
                else f"a worker group ended, as {gone[-1]}"
            )
            self._tell(f"{cause}: {self._groups()}")
        if missing > 0:
            self._grow(seen, missing, now)
        self._alone(seen, now)

    def _headless(self, now: float) -> bool:
        if self.cluster.answers():
            self.heard, self.told = now, False
            return False
        if now - self.heard >= HEAD_S:
            self._tell(HEADLESS)
            self._give_up(HEADLESS, value="head")
            self.headless = True
        elif now - self.heard >= HEAD_S / 3 and not self.told:
            self.told = True
            self._tell(
                f"{HEADLESS}: if it does not come back within {HEAD_S:g} s, the run ends, to "
                f"be gone on with later"
            )
        return True

    def _compare(self, seen: ClusterSnapshot, now: float) -> None:
        if self.nodes is not None and seen.nodes - self.nodes:
            # a group may succeed on the new node
            self.joined, self.not_before, self.barren, self.misses = now, now, 0, 0
        if self.nodes is not None and self.nodes - seen.nodes:
            self.left = now
        self.nodes = seen.nodes
        self.peopled = now if seen.nodes else self.peopled

    def _grow(self, seen: ClusterSnapshot, missing: int, now: float) -> None:
        """Start groups where two checks in a row found room.

        One check is not enough: a group that restarts holds no resources for a moment.
        """
        serving = self.served & self.live
        starting = len(self.live) - len(serving)
        owed = [each for each in self.plan.influence_needs for _ in range(len(serving))][
            seen.influence_actors :
        ]
        room = (
            count_fitting_groups(
                (*self.plan.bundles, *self.plan.influence_needs),
                seen.free,
                missing + starting,
                owed,
            )
            - starting
        )
        more, self.room = min(room, self.room), room
        if more <= 0 or self.barren >= BARREN or now < self.not_before:
            return
        for _ in range(more):
            self._start()
        self.room = 0
        cause = "a node joined" if now - self.joined < LATELY_S else "there is room"
        self._tell(f"{cause}: {self._groups()}")

    def _start(self) -> None:
        with self.lock:
            if self.closing.is_set():
                return
            number, self.begun = self.begun, self.begun + 1
            self.live.add(number)
        self.cluster.add_group(number)

    def _alone(self, seen: ClusterSnapshot, now: float) -> None:
        """Report repeatedly that no group serves, and end the run in time.

        A group that is still starting gets more time.
        """
        if not self.live and self.barren >= BARREN:
            self._give_up(
                f"{self.barren} worker groups in a row ended before they took a trial: "
                f"{self.error}",
                "resources.groups",
                self.error,
            )
        elif self.live and now - self.alone >= max(self.rules.heartbeat_timeout_s, RETURN_S):
            self._give_up(
                f"no worker group began for {now - self.alone:.0f} s: {self._lacks(seen)}",
                "resources.groups",
                now - self.alone,
            )
        elif not self.live and now - self.alone >= self.rules.heartbeat_timeout_s:
            self._give_up(
                f"no worker group had a place for {self.rules.heartbeat_timeout_s:g} s "
                f"(resources.heartbeat_timeout_s): "
                f"{self._lacks(seen)}",
                "resources.heartbeat_timeout_s",
                self.rules.heartbeat_timeout_s,
            )
        elif now - self.noted >= self.rules.heartbeat_warning_s:
            self.noted = now
            why = (
                "the worker groups have not begun yet"
                if self.live
                else "no worker group has a place"
            )
            self._tell(f"trials wait, as {why}: {self._lacks(seen)}")

    def _lacks(self, seen: ClusterSnapshot) -> str:
        """Return the needs of a group and the free resources, in words."""
        needs = _sum((*self.plan.bundles, *self.plan.influence_needs))
        nodes = "1 node has" if len(seen.nodes) == 1 else f"{len(seen.nodes)} nodes have"
        free = _sum(seen.free)
        has = ", ".join(f"{free.get(name, 0):g} {name}" for name in needs)
        return (
            f"a group needs "
            f"{', '.join(f'{value:g} {name}' for name, value in needs.items())}; {nodes} {has} free"
        )

    def _groups(self) -> str:
        count = len(self.live)
        return f"{count or 'no'} worker group{'s' * (count != 1)} now"

    def _tell(self, text: str) -> None:
        if not self.closing.is_set():
            self.rules.note(text)

    def _give_up(self, reason: str, field: str = "resources.address", value: object = None) -> None:
        with self.lock:
            if self.closing.is_set() or self.reason:
                return
            self.reason, self.field, self.value = reason, field, value
            self.stop(reason)

    def raise_reason(self, failed: bool = True) -> None:
        """Raise PreflightError if the autoscaler ended the run.

        Raise it also if the run has `failed` because the head is gone.
        """
        if failed and not self.reason and not self.cluster.answers():
            self.reason, self.headless, self.field, self.value = (
                HEADLESS,
                True,
                "resources.address",
                "head",
            )
        if self.reason:
            raise PreflightError(
                f"{self.reason}: see that the cluster is fit again",
                field=self.field,
                value=self.value,
                allowed="a cluster with room for a worker group",
            )


def _sum(bundles: Sequence[Resources]) -> dict[str, float]:
    names = ("CPU", "GPU")
    sums = {name: round(sum(bundle.get(name, 0) for bundle in bundles), 4) for name in names}
    return {name: value for name, value in sums.items() if value}
