"""Test the group count on a changing cluster, with a simulated clock and cluster, without Ray."""

from dataclasses import dataclass, field

from orchestrator.cluster.group_autoscaler import (
    HEAD_S,
    MAX_FAILED_STARTS,
    RETURN_S,
    START_S,
    ClusterSnapshot,
    GroupAutoscaler,
    ScalingPolicy,
)
from orchestrator.config.plan import Groups
from orchestrator.core.errors import PreflightError
from tests.refusal import refused

CPU = {"CPU": 1.0}
LOOK = 2.0


@dataclass
class Ray:
    """Simulated cluster: a group is placed at its start if it fits, and serves if `at_once`."""

    nodes: dict[str, float]
    at_once: bool = True
    influence_needs: float = 0.0
    head: bool = True
    influence_actors: int = 0
    trials: int = 99
    notes: list[str] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)
    now: float = 0.0
    where: dict[int, str] = field(default_factory=dict)
    serving_groups: set[int] = field(default_factory=set)

    def autoscaler(
        self, groups: int, most: int = 9, max_starting: int | None = None
    ) -> GroupAutoscaler:
        influence_needs = ({"CPU": self.influence_needs},) if self.influence_needs else ()
        policy = ScalingPolicy(
            most,
            lambda: self.trials,
            self.notes.append,
            heartbeat_warning_s=20,
            heartbeat_timeout_s=60,
            max_starting=max_starting,
        )
        self.autoscaler_under_test = GroupAutoscaler(
            Groups(groups, (CPU,), "", influence_needs), policy, self, self.stop, lambda: self.now
        )
        self.autoscaler_under_test.start()
        return self.autoscaler_under_test

    def stop(self, reason: str) -> None:
        assert reason
        self.stopped.append(self.now)

    def is_head_responsive(self) -> bool:
        return self.head

    def free(self, node: str) -> float:
        return self.nodes[node] - sum(place == node for place in self.where.values())

    def snapshot(self) -> ClusterSnapshot:
        return ClusterSnapshot(
            frozenset(self.nodes),
            [{"CPU": self.free(node)} for node in self.nodes],
            self.influence_actors,
        )

    def add_group(self, number: int) -> None:
        node = next((node for node in self.nodes if self.free(node) >= 1), None)
        if node:
            self.where[number] = node
            self.serving_groups |= {number} if self.at_once else set()

    def list_serving_groups(self) -> set[int]:
        return set(self.serving_groups)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += LOOK
            self.autoscaler_under_test.step()

    def remove(self, node: str) -> None:
        """Remove the node and end its groups."""
        del self.nodes[node]
        for number in [number for number, place in self.where.items() if place == node]:
            self.end(number, "no place", placed=False)

    def end(self, number: int, error: str, placed: bool = True) -> None:
        self.where.pop(number, None)
        self.autoscaler_under_test.group_ended(number, error, number in self.serving_groups, placed)


def test_groups_follow_the_nodes() -> None:
    ray = Ray({"a": 1, "b": 1, "c": 1})
    autoscaler = ray.autoscaler(3)
    ray.step(5)
    assert autoscaler.max_concurrent_trials() == 3 and ray.notes == []
    ray.remove("c")
    assert autoscaler.max_concurrent_trials() == 2, "fewer trials run from now on"
    ray.step(5)
    assert autoscaler.max_concurrent_trials() == 2 and ray.notes == [
        "a node left: 2 worker groups now"
    ]
    ray.nodes |= {"d": 1, "e": 2}
    ray.step(5)
    assert autoscaler.max_concurrent_trials() == 5 and ray.notes[1:] == [
        "a node joined: 5 worker groups now"
    ]
    assert ray.where[3] == "d" and ray.where[4] == ray.where[5] == "e"
    assert not ray.stopped


def test_a_restarting_group_keeps_its_resources() -> None:
    """A group has no resources between two checks of Ray Train; its former ones stay reserved."""
    ray = Ray({"a": 1})
    autoscaler = ray.autoscaler(1)
    ray.step()
    place = ray.where.pop(0)
    ray.step()
    ray.where[0] = place
    ray.step(5)
    assert autoscaler.live_groups == {0} and ray.notes == []


def test_groups_are_limited_by_the_policy_and_the_remaining_trials() -> None:
    ray = Ray({"a": 8})
    autoscaler = ray.autoscaler(1, most=4)
    ray.step(5)
    assert autoscaler.max_concurrent_trials() == 4 and ray.notes == [
        "resources are available: 4 worker groups now"
    ]
    few = Ray({"a": 8}, trials=2)
    autoscaler = few.autoscaler(1)
    few.step(5)
    assert autoscaler.max_concurrent_trials() == 2
    few.trials = 1
    few.end(0, "its node fell")
    few.step(5)
    assert (
        autoscaler.max_concurrent_trials() == 1
        and few.notes[-1] == "a worker group ended (its node fell): 1 worker group now"
    )


def test_a_starting_group_counts_as_if_it_held_its_resources() -> None:
    ray = Ray({"a": 3}, at_once=False)
    autoscaler = ray.autoscaler(1, most=3)
    ray.where.clear()  # reserved later
    ray.step(2)
    assert autoscaler.max_concurrent_trials() == 3
    ray.where.clear()
    ray.step(5)
    assert autoscaler.max_concurrent_trials() == 3


def test_resources_are_reserved_for_pending_influence_actors() -> None:
    ray = Ray({"a": 2, "b": 2}, influence_needs=1.0)
    autoscaler = ray.autoscaler(1)
    ray.step(5)
    assert autoscaler.max_concurrent_trials() == 2 and ray.where == {0: "a", 1: "a"}, (
        "two CPUs are reserved for the actors"
    )
    ray.nodes |= {"b": 0, "c": 2}  # the actors now hold the CPUs of b
    ray.influence_actors = 2
    ray.step(5)
    assert autoscaler.max_concurrent_trials() == 3 and ray.where[2] == "c"


def test_without_groups_trials_wait_and_a_note_names_the_missing_resources() -> None:
    ray = Ray({"head": 0, "a": 1})
    autoscaler = ray.autoscaler(1)
    ray.step()
    ray.remove("a")
    ray.step(11)
    assert ray.notes == [
        "a node left: no worker groups now",
        "trials are waiting because no worker group can be placed: a group needs 1 CPU; "
        "1 node has 0 CPU free",
    ]
    ray.nodes |= {"b": 1}
    ray.step(2)
    assert autoscaler.max_concurrent_trials() == 1 and ray.notes[2:] == [
        "a node joined: 1 worker group now"
    ]
    ray.remove("b")
    ray.step(29)
    assert not ray.stopped, "the timeout starts when the last group served"
    ray.step(2)
    assert len(ray.stopped) == 1
    with refused("resources.heartbeat_timeout_s", 60, error=PreflightError):
        autoscaler.raise_reason()
    ray.step(3)
    assert len(ray.stopped) == 1, "stopped once"


def test_a_starting_group_gets_its_start_timeout_despite_a_shorter_heartbeat_timeout() -> None:
    ray = Ray({"a": 1}, at_once=False)
    autoscaler = ray.autoscaler(1)
    ray.step(int(RETURN_S / LOOK) - 1)
    assert not ray.stopped and autoscaler.policy.heartbeat_timeout_s < RETURN_S
    ray.step()
    assert len(ray.stopped) == 1 and autoscaler.reason.startswith(
        f"no worker group started within {RETURN_S:g} s: a group needs 1 CPU"
    )


def test_failed_placements_are_retried_until_the_timeout() -> None:
    """Groups are retried repeatedly, and the wait still ends."""
    ray = Ray({"a": 1})
    autoscaler = ray.autoscaler(1)
    ray.step()
    ray.serving_groups.clear()
    for _ in range(40):
        for number in list(autoscaler.live_groups):
            ray.end(number, "no place", placed=False)
        ray.serving_groups.clear()
        ray.at_once = False
        ray.step()
    assert len(ray.stopped) == 1 and "could be placed" in autoscaler.reason
    assert autoscaler.num_started == 2, "not at every check"


def test_a_failed_placement_is_retried_after_a_pause_or_on_a_new_node() -> None:
    ray = Ray({"a": 2})
    autoscaler = ray.autoscaler(1, most=2)
    ray.step(2)
    assert autoscaler.max_concurrent_trials() == 2
    ray.end(1, "no place", placed=False)
    ray.step(int(30 / LOOK) - 1)
    assert autoscaler.max_concurrent_trials() == 1
    ray.step(2)
    assert autoscaler.max_concurrent_trials() == 2
    ray.end(2, "no place", placed=False)
    ray.nodes |= {"b": 1}
    ray.step(2)
    assert autoscaler.max_concurrent_trials() == 2


def test_consecutive_failed_starts_end_the_run() -> None:
    ray = Ray({"a": 2}, at_once=False)
    autoscaler = ray.autoscaler(2, most=2)
    for _ in range(20):
        ray.step()
        for number in list(autoscaler.live_groups):
            ray.end(number, "No module named 'orchestrator'")
    assert (
        len(ray.stopped) == 1
        and MAX_FAILED_STARTS <= autoscaler.num_started <= 2 * MAX_FAILED_STARTS
    )
    with refused("resources.groups", "No module named 'orchestrator'", error=PreflightError):
        autoscaler.raise_reason()


def test_a_group_that_served_is_always_replaced() -> None:
    ray = Ray({"a": 1})
    autoscaler = ray.autoscaler(1, most=1)
    for _ in range(3 * MAX_FAILED_STARTS):
        ray.step(3)
        ray.end(next(iter(autoscaler.live_groups)), "its controller died")
    ray.step(3)
    assert not ray.stopped and autoscaler.num_started == 3 * MAX_FAILED_STARTS + 1


def test_a_lost_head_ends_the_run_and_a_recovered_one_does_not() -> None:
    ray = Ray({"a": 1})
    autoscaler = ray.autoscaler(1)
    ray.head = False
    ray.step(int(HEAD_S / LOOK) - 1)
    ray.head = True
    ray.step()
    ray.head = False
    ray.step(int(HEAD_S / LOOK) - 1)
    assert not ray.stopped and not autoscaler.head_lost
    assert len(ray.notes) == 2 and all(
        f"does not recover within {HEAD_S:g} s" in note for note in ray.notes
    ), "one note per outage"
    ray.step(2)
    assert len(ray.stopped) == 1 and autoscaler.head_lost
    with refused("resources.address", "head", error=PreflightError):
        autoscaler.raise_reason()


def test_a_cluster_without_nodes_ends_the_run_before_the_heartbeat_timeout() -> None:
    """As on our own cluster after its raylet was stopped: the head responds and reports no node."""
    ray = Ray({"a": 1})
    autoscaler = ray.autoscaler(1)
    ray.step(100)
    ray.remove("a")
    ray.step(int(HEAD_S / LOOK) - 1)
    assert not ray.stopped
    ray.step(2)
    assert len(ray.stopped) == 1 and ray.notes[-1] == "the Ray cluster has no live nodes"
    with refused("resources.address", "nodes", error=PreflightError):
        autoscaler.raise_reason()


def test_a_closed_autoscaler_does_nothing() -> None:
    ray = Ray({"a": 3})
    autoscaler = ray.autoscaler(1)
    autoscaler.close()
    ray.end(0, "it was closed")
    ray.head = False
    ray.step(100)
    assert autoscaler.num_started == 1 and not ray.stopped and ray.notes == []
    ray.head = True
    autoscaler.raise_reason()


def test_a_failure_without_a_head_is_reported_as_a_lost_head() -> None:
    ray = Ray({"a": 1})
    autoscaler = ray.autoscaler(1)
    autoscaler.raise_reason()
    ray.head = False
    with refused("resources.address", "head", error=PreflightError):
        autoscaler.raise_reason()
    assert autoscaler.head_lost


def test_groups_of_the_plan_start_after_the_groups_before_them_serve() -> None:
    ray = Ray({"a": 5}, at_once=False)
    autoscaler = ray.autoscaler(5, most=5, max_starting=2)
    assert set(ray.where) == {0, 1} and autoscaler.max_concurrent_trials() == 5, "planned groups"
    ray.step()
    assert set(ray.where) == {0, 1}, "both are still starting"
    ray.serving_groups = {1}
    ray.step()
    assert set(ray.where) == {0, 1, 2}, "two start at a time"
    ray.serving_groups = {0, 1, 2}
    ray.step()
    assert set(ray.where) == set(range(5))
    ray.step(9)
    assert set(ray.where) == set(range(5)) and ray.notes == [] and not ray.stopped


def test_a_slow_start_does_not_delay_the_next_group_for_ever() -> None:
    ray = Ray({"a": 2}, at_once=False)
    ray.autoscaler(2, most=2, max_starting=1)
    ray.step(int(START_S / LOOK) - 1)
    assert set(ray.where) == {0}
    ray.step()
    assert set(ray.where) == {0, 1}


def test_no_group_starts_without_a_trial_for_it() -> None:
    ray = Ray({"a": 3})
    autoscaler = ray.autoscaler(3, most=3, max_starting=1)
    ray.trials = 1
    ray.step(9)
    assert set(ray.where) == {0} and autoscaler.max_concurrent_trials() == 1
    ray.trials = 2
    ray.step(3)
    assert set(ray.where) == {0, 1}, "as after a failure that brings a trial back"


def test_after_a_failed_start_the_other_groups_start_only_where_they_fit() -> None:
    ray = Ray({"a": 1})
    autoscaler = ray.autoscaler(3, most=3, max_starting=1)
    ray.end(0, "its workers could not be placed in the cluster", placed=False)
    assert autoscaler.max_concurrent_trials() == 0
    ray.step(30)
    assert len(ray.where) == autoscaler.max_concurrent_trials() == 1
