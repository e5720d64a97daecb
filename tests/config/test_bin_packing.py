"""Test the placement of workers: fractions of GPUs, unequal nodes, resources of other jobs."""

import pytest

from orchestrator.config import plan
from orchestrator.config.bin_packing import count_fitting_groups, has_space
from orchestrator.config.loader import load
from orchestrator.core.errors import PreflightError
from tests.refusal import refused


@pytest.mark.parametrize(
    ("bundles", "nodes", "expected"),
    [
        ([{"CPU": 1.0}], [{"CPU": 1.0}, {"CPU": 2.5}, {}], 3),
        ([{"CPU": 1.0, "GPU": 0.6}], [{"CPU": 9.0, "GPU": 2.0}], 2),  # 3 by the sum
        ([{"CPU": 1.0, "GPU": 0.5}] * 2, [{"CPU": 9.0, "GPU": 1.5}], 1),
        ([{"CPU": 1.0, "GPU": 2.0}], [{"CPU": 9.0, "GPU": 2.7}, {"CPU": 9.0, "GPU": 1.9}], 1),
        # the small one holds the fraction
        ([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.3}], [{"CPU": 9.0, "GPU": 2.3}], 1),
        ([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.3}], [{"CPU": 9.0, "GPU": 1.3}], 1),
        ([{"CPU": 0.1}], [{"CPU": 0.3}], 3),
        ([{"CPU": 2.0}, {"CPU": 1.0}], [{"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 3.0}], 2),
    ],
)
def test_groups_are_placed_worker_by_worker(
    bundles: list[dict[str, float]], nodes: list[dict[str, float]], expected: int
) -> None:
    assert count_fitting_groups(bundles, nodes, 99) == expected
    assert count_fitting_groups(bundles, nodes, 1) == 1, "no more than are wanted"


def test_held_workers_are_placed_first_and_those_that_do_not_fit_take_no_resources() -> None:
    assert (
        count_fitting_groups([{"CPU": 1.0}], [{"CPU": 2.0}, {"CPU": 1.0}], 9, held=[{"CPU": 1.0}])
        == 2
    )
    assert (
        count_fitting_groups([{"CPU": 1.0}], [{"CPU": 2.0}, {"CPU": 1.0}], 9, held=[{"CPU": 3.0}])
        == 3
    )
    assert not has_space({"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 2.0}) and has_space(
        {"CPU": 1.0}, {"CPU": 1.0}
    )


def test_resources_of_other_jobs_are_not_available() -> None:
    """Three nodes of two CPUs with four of six free, in two distributions."""
    nodes, wanted = [{"CPU": 2.0}] * 3, load(None, ["resources.cpus_per_worker=2"])
    together, spread = [{"CPU": 2.0}, {"CPU": 2.0}, {}], [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 2.0}]
    assert plan.plan_groups(wanted, {"CPU": 4.0}, 9, nodes, free=together).groups == 2
    assert plan.plan_groups(wanted, {"CPU": 4.0}, 9, nodes, free=spread).groups == 1
    with refused("resources.workers", 1, "0 groups", error=PreflightError):
        plan.plan_groups(wanted, {"CPU": 3.0}, 9, nodes, free=[{"CPU": 1.0}] * 3)


def test_the_plan_counts_influence_actors_of_a_group() -> None:
    wanted = load(None, ["resources.influence_cpus=0.5"])
    assert plan.plan_groups(
        wanted, {"CPU": 3.0}, 9, [{"CPU": 3.0}], num_influence_actors=1
    ).influence_needs == ({"CPU": 0.5},)
    assert plan.plan_groups(wanted, {"CPU": 3.0}, 9, [{"CPU": 3.0}]).influence_needs == ()


def test_an_elastic_sweep_may_start_with_fewer_groups_than_configured() -> None:
    wanted = load(None, ["resources.groups=3"])
    nodes = [{"CPU": 1.0}] * 2
    assert plan.plan_groups(wanted, {"CPU": 2.0}, 9, nodes, elastic=True).groups == 2
    assert (
        plan.plan_groups(
            load(None, ["resources.groups=1"]), {"CPU": 2.0}, 9, nodes, elastic=True
        ).groups
        == 1
    )
    with refused("resources.workers", 1, "2 CPU", error=PreflightError):
        plan.plan_groups(wanted, {"CPU": 2.0}, 9, nodes)
    with refused("resources.workers", 1, "0.5 CPU", error=PreflightError):
        plan.plan_groups(wanted, {"CPU": 0.5}, 9, nodes, free=[{"CPU": 0.5}, {}], elastic=True)


def test_cpus_do_not_replace_gpus_used_by_other_jobs() -> None:
    nodes, free = [{"CPU": 4.0, "GPU": 2.0}], [{"CPU": 4.0}]
    with refused("resources.workers", 1, "0 GPU", error=PreflightError):
        plan.plan_groups(load(None, []), {"CPU": 4.0}, 9, nodes, free=free)
    assert (
        plan.plan_groups(
            load(None, ["resources.gpus_per_worker=0"]), {"CPU": 4.0}, 9, nodes, free=free
        ).groups
        == 4
    )
