"""Test the arithmetic of a plan against counting one by one, with influence actors and without."""

import itertools
from fractions import Fraction
from typing import Any

import pytest

from orchestrator.config import plan, sizes
from orchestrator.config.influence_actors import count_influence_actors
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration, Search
from orchestrator.core.errors import ConfigurationError, PreflightError
from tests.pairs import weighing_method
from tests.refusal import refused


def resources(**values: Any) -> Configuration:
    return Configuration.model_validate({"resources": values})


def pairs(*changes: str, workers: int = 2) -> Configuration:
    """Return students a and b with their own workers, unless a change overrides it."""
    return load(None, ["peers.b.network.name=cnn", f"resources.workers={workers}", *changes])


def counted(cpus: float, gpus: float, workers: int, cpus_each: float, gpus_each: float) -> int:
    """Count groups placed one after another, in exact arithmetic."""
    left = [Fraction(str(cpus)), Fraction(str(gpus))]
    need = [workers * Fraction(str(cpus_each)), workers * Fraction(str(gpus_each))]
    number = 0
    while all(have >= wanted for have, wanted in zip(left, need, strict=True)):
        left = [have - wanted for have, wanted in zip(left, need, strict=True)]
        number += 1
    return number


def counted_on_gpus(
    cpus: float, gpus: float, workers: int, cpus_each: float, gpus_each: float
) -> int:
    """Count groups if each worker's fraction of a GPU lies on one GPU."""
    each = int(Fraction(1) / Fraction(str(gpus_each))) if gpus_each else None
    by_cpus = counted(cpus, 0.0, workers, cpus_each, 0.0)
    return by_cpus if each is None else min(by_cpus, int(gpus) * each // workers)


MACHINES = list(
    itertools.product(
        (0.9, 1.0, 2.0, 7.0, 16.0),
        (0.0, 1.0, 3.0, 8.0),
        (1, 2, 3),
        (0.1, 0.5, 1.0, 3.0),
        (0.0, 0.25, 0.3, 1.0),
    )
)


def test_as_many_groups_as_fit() -> None:
    refused = fewer = 0
    for cpus, gpus, workers, cpus_each, gpus_each in MACHINES:
        expected = counted(cpus, gpus, workers, cpus_each, gpus_each)
        wanted = resources(workers=workers, cpus_per_worker=cpus_each, gpus_per_worker=gpus_each)
        machine = {"CPU": cpus, "GPU": gpus}
        on_gpus = counted_on_gpus(cpus, gpus, workers, cpus_each, gpus_each)
        fewer += on_gpus < expected
        for nodes, count in (((), expected), ((machine,), on_gpus)):
            if count:
                assert plan.plan_groups(wanted, machine, 1000, nodes).groups == count, (
                    machine,
                    wanted,
                )
                continue
            refused += not nodes
            with pytest.raises((PreflightError, ConfigurationError) if nodes else PreflightError):
                plan.plan_groups(wanted, machine, 1000, nodes)
    assert 0 < refused < len(MACHINES) and fewer, (
        "0.3 of a GPU goes three times into each, ten times into three by the sum"
    )


def test_never_more_groups_than_trials_or_than_configured() -> None:
    machine = {"CPU": 8.0}
    assert plan.plan_groups(resources(), machine, trials=3).groups == 3
    assert plan.plan_groups(resources(groups=2), machine, trials=3).groups == 2
    assert plan.plan_groups(resources(groups=8), machine, trials=100).groups == 8
    assert plan.plan_groups(resources(), machine, trials=0).groups == 1


@pytest.mark.parametrize(
    ("gpus", "workers", "each"), [(0.0, 1, 0.0), (1.0, 1, 1.0), (0.0, 2, 0.0), (4.0, 2, 1.0)]
)
def test_workers_get_gpus_if_a_whole_group_can_have_them(
    gpus: float, workers: int, each: float
) -> None:
    made = plan.plan_groups(resources(workers=workers), {"CPU": 16.0, "GPU": gpus}, trials=9)
    assert made.bundles == ({"CPU": 1.0} | ({"GPU": each} if each else {}),) * workers
    assert (
        made.mean == made.bundles[0] and not made.is_heterogeneous and made.whole_gpus is bool(each)
    )


@pytest.mark.parametrize(
    "peers",
    [
        (),
        ("peers.b.network.name=cnn",),
        ("peers.b.network.name=cnn", "peers.b.gpus_per_worker=0.5"),
    ],
)
def test_too_few_gpus_are_refused_instead_of_training_on_cpus(peers: tuple[str, ...]) -> None:
    with refused("resources.gpus_per_worker", None, (0, 0.5), error=PreflightError):
        plan.plan_groups(
            load(None, ["resources.workers=2", *peers]), {"CPU": 16.0, "GPU": 1.0}, trials=9
        )


def test_a_refusal_contains_the_arithmetic() -> None:
    with refused("resources.workers", 2, "4 CPU", error=PreflightError) as refusal:
        plan.plan_groups(resources(groups=3, workers=2), {"CPU": 4.0}, trials=9)
    assert "3 x 2 workers need 6 CPU" in str(refusal.value)
    with refused("resources.workers", 2, "1 GPU", error=PreflightError):
        plan.plan_groups(
            resources(workers=2, gpus_per_worker=1), {"CPU": 4.0, "GPU": 1.0}, trials=9
        )
    with refused("resources.workers", 1, "0 CPU", error=PreflightError):
        plan.plan_groups(resources(), {}, trials=9)


def test_the_error_contains_the_arithmetic() -> None:
    made = plan.plan_groups(
        resources(workers=2, gpus_per_worker=0.5), {"CPU": 7.0, "GPU": 2.0}, trials=9
    )
    assert made.arithmetic == "floor(7 CPU / 2 per group , 2 GPU / 1 per group) = 2"


def test_ranks_alternate_between_students_with_their_own_resources() -> None:
    made = plan.plan_groups(pairs("peers.b.cpus_per_worker=0.5", workers=4), {"CPU": 7.0}, trials=9)
    assert (
        made.bundles == ({"CPU": 1.0}, {"CPU": 0.5}) * 2
        and made.is_heterogeneous
        and made.workers == 4
    )
    assert made.mean == {"CPU": 0.75} and made.groups == 2
    assert made.arithmetic == "floor(7 CPU / 3 (2 x 1 of a + 2 x 0.5 of b) per group) = 2"
    three = plan.plan_groups(
        pairs("peers.c.network.name=mlp", "peers.c.cpus_per_worker=2", workers=3),
        {"CPU": 4.0},
        trials=9,
    )
    assert [bundle["CPU"] for bundle in three.bundles] == [1, 1, 2]


def test_a_peer_inherits_the_resources_of_student_a() -> None:
    made = plan.plan_groups(
        pairs("resources.cpus_per_worker=2", "resources.gpus_per_worker=0.5"),
        {"CPU": 8.0, "GPU": 2.0},
        trials=9,
    )
    assert (
        made.bundles == ({"CPU": 2.0, "GPU": 0.5},) * 2
        and not made.is_heterogeneous
        and made.groups == 2
    )


@pytest.mark.parametrize("pair", ["peers.b.network.name=cnn", "resources.peer_placement=colocated"])
def test_students_in_one_worker_are_one_role(pair: str) -> None:
    made = plan.plan_groups(pairs(pair, workers=1), {"CPU": 4.0}, trials=9)
    assert made.bundles == ({"CPU": 1.0},) and made.arithmetic == "floor(4 CPU / 1 per group) = 4"


@pytest.mark.parametrize(
    ("changes", "gpus", "held", "whole"),
    [
        ((), 2.0, [1, 1], True),
        ((), 0.0, [0, 0], False),
        (("peers.b.gpus_per_worker=0",), 1.0, [1, 0], False),
        (("resources.gpus_per_worker=0", "peers.b.gpus_per_worker=0.5"), 1.0, [0, 0.5], False),
        (("peers.b.gpus_per_worker=0.5",), 1.5, [1, 0.5], False),
        (("resources.gpus_per_worker=1", "peers.b.gpus_per_worker=2"), 3.0, [1, 2], True),
    ],
)
def test_nccl_needs_a_whole_gpu_for_every_worker(
    changes: tuple[str, ...], gpus: float, held: list[float], whole: bool
) -> None:
    made = plan.plan_groups(pairs(*changes), {"CPU": 4.0, "GPU": gpus}, trials=9)
    assert [bundle.get("GPU", 0) for bundle in made.bundles] == held and made.whole_gpus is whole
    assert made.mean.get("GPU", 0) * 2 == sum(held), "Ray's own check of the sum is right"


SMALL, BIG = {"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (("peers.b.cpus_per_worker=8",), ("peers.b.cpus_per_worker", 8.0, (0, 2.0))),
        (("resources.cpus_per_worker=3",), ("resources.cpus_per_worker", 3.0, (0, 2.0))),
        (("peers.b.gpus_per_worker=2",), ("peers.b.gpus_per_worker", 2.0, (0, 1.0))),
        (
            (
                "peers.b.gpus_per_worker=1",
                "resources.gpus_per_worker=0",
                "peers.b.cpus_per_worker=2",
            ),
            ("peers.b.gpus_per_worker", 1.0, "what one node has"),
        ),
    ],
)
def test_a_worker_that_fits_no_node_is_refused(
    changes: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    with refused(*expected):
        plan.plan_groups(pairs(*changes), {"CPU": 30.0, "GPU": 9.0}, 9, [SMALL, BIG])


def test_groups_are_counted_on_the_existing_nodes() -> None:
    """Three nodes of 3 CPUs have 9 together, but room for only three workers of 2."""
    wanted, nodes = resources(cpus_per_worker=2), [{"CPU": 3.0}] * 3
    made = plan.plan_groups(wanted, {"CPU": 9.0}, 9, nodes)
    assert made.groups == 3 and made.arithmetic == "floor(9 CPU / 2 per group) = 4, 3 on 3 nodes"
    with refused("resources.workers", 1, "3 groups", error=PreflightError):
        plan.plan_groups(resources(cpus_per_worker=2, groups=4), {"CPU": 9.0}, 9, nodes)
    assert (
        plan.plan_groups(pairs("peers.b.cpus_per_worker=2"), {"CPU": 9.0}, 9, nodes).groups == 3
    ), "each on a node of its own"


def test_a_refusal_names_the_keys_to_reduce_for_each_student() -> None:
    with refused("resources.workers", 2, "4 CPU", error=PreflightError) as refusal:
        plan.plan_groups(
            pairs("resources.groups=2", "peers.b.cpus_per_worker=2"),
            {"CPU": 4.0},
            9,
            [{"CPU": 4.0}],
        )
    assert "resources.cpus_per_worker or peers.b.cpus_per_worker" in str(refusal.value)


def test_groups_reserve_resources_for_their_influence_actors() -> None:
    for cpus, workers, cpus_each, actor_cpus in itertools.product(
        (1.0, 2.0, 7.0, 16.0), (1, 2), (0.5, 1.0), (0.1, 1.0, 2.0)
    ):
        wanted = resources(workers=workers, cpus_per_worker=cpus_each, influence_cpus=actor_cpus)
        need = workers * Fraction(str(cpus_each)) + Fraction(str(actor_cpus))
        expected, fits = int(Fraction(str(cpus)) / need), cpus >= workers * cpus_each
        if expected:
            for nodes in ((), ({"CPU": cpus},)):
                assert (
                    plan.plan_groups(
                        wanted, {"CPU": cpus}, 1000, nodes, num_influence_actors=1
                    ).groups
                    == expected
                )
        else:
            with pytest.raises(ConfigurationError if fits else PreflightError):
                plan.plan_groups(wanted, {"CPU": cpus}, 1000, num_influence_actors=1)


def test_the_arithmetic_includes_influence_actors() -> None:
    made = plan.plan_groups(resources(), {"CPU": 2.0}, trials=9, num_influence_actors=1)
    assert made.groups == 1 and made.bundles == ({"CPU": 1.0},)
    assert (
        made.arithmetic
        == "floor(2 CPU / 2 (1 x 1 of the workers + an influence actor of 1 CPU) per group) = 1"
    )
    of_pairs = plan.plan_groups(
        pairs("resources.influence_cpus=0.5"), {"CPU": 7.0}, trials=9, num_influence_actors=2
    )
    assert (
        of_pairs.arithmetic
        == "floor(7 CPU / 3 (1 x 1 of a + 1 x 1 of b + 2 influence actors of 0.5 CPU) per "
        "group) = 2"
    )
    shared = resources(gpus_per_worker=0.5, influence_gpus=0.25)
    assert (
        plan.plan_groups(shared, {"CPU": 8.0, "GPU": 1.5}, trials=9, num_influence_actors=1).groups
        == 2
    )
    assert plan.plan_groups(
        resources(influence_gpus=0.5), {"CPU": 8.0, "GPU": 1.5}, trials=9, num_influence_actors=1
    ).bundles == ({"CPU": 1.0, "GPU": 1.0},)


def test_methods_without_sample_weights_have_no_influence_actors() -> None:
    held = resources(influence_cpus=99, influence_gpus=99)
    assert (
        plan.plan_groups(held, {"CPU": 2.0}, 9, [{"CPU": 2.0}]).arithmetic
        == "floor(2 CPU / 1 per group) = 2"
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), 1),
        (("peers.b.network.name=mlp",), 1),
        (("peers.b.network.name=mlp", "resources.workers=4"), 2),
        (("resources.workers=4",), 1),
        (
            (
                "resources.influence_backend=inline",
                "peers.b.network.name=mlp",
                "resources.workers=4",
            ),
            0,
        ),
    ],
)
def test_one_influence_actor_for_each_student_with_workers_of_its_own(
    changes: tuple[str, ...], expected: int
) -> None:
    assert plan.influence_actors_per_group(load(None, list(changes))) == expected


OR_INLINE = "or set resources.influence_backend=inline"


@pytest.mark.parametrize(
    ("changes", "nodes", "expected"),
    [
        ((), [{"CPU": 1.0}], ("resources.influence_cpus", 1.0, "1 CPU")),
        (
            ("resources.groups=2", "resources.workers=2"),
            [{"CPU": 5.0}],
            ("resources.influence_cpus", 1.0, "5 CPU"),
        ),
        (
            ("resources.influence_gpus=0.25",),
            [{"CPU": 5.0, "GPU": 1.0}],
            ("resources.influence_gpus", 0.25, "1 GPU"),
        ),
        (
            ("resources.influence_cpus=2", "resources.cpus_per_worker=2"),
            [{"CPU": 3.0}, {"CPU": 1.0}],
            ("resources.influence_cpus", 2.0, "0 groups"),
        ),
        (
            ("resources.influence_cpus=4",),
            [{"CPU": 3.0}] * 2,
            ("resources.influence_cpus", 4.0, (0, 3.0)),
        ),
        (
            ("resources.influence_gpus=1", "resources.influence_cpus=3"),
            [{"CPU": 3.0}, {"CPU": 1.0, "GPU": 2.0}],
            ("resources.influence_gpus", 1.0, "what one node has"),
        ),
        (
            ("resources.influence_gpus=1.5",),
            [{"CPU": 9.0, "GPU": 9.0}],
            ("resources.influence_gpus", 1.5, "a fraction of one GPU or a whole number of GPUs"),
        ),
    ],
)
def test_an_influence_actor_that_cannot_be_placed_is_refused(
    changes: tuple[str, ...], nodes: list[dict[str, float]], expected: tuple[Any, ...]
) -> None:
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    wanted = load(None, list(changes))
    with refused(*expected) as refusal:
        plan.plan_groups(wanted, total, 9, nodes, num_influence_actors=1)
    if "resources.influence_gpus=1.5" not in changes:
        assert OR_INLINE in str(refusal.value)
        assert plan.plan_groups(wanted, total, 9, nodes).groups, "the groups alone fit"


def test_number_of_influence_actors_by_method_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    weighing_method(monkeypatch)

    def found(kind: str, *changes: str) -> int:
        return count_influence_actors(load(None, list(changes)), kind)

    among = "search.methods=[kd,weighing]"
    assert (
        found("sweep", among) == 1
        and found("train", among) == 0
        and found("teacher", "method.name=weighing") == 0
    )
    assert found("sweep", "method.name=weighing") == found("train", "method.name=weighing") == 1
    assert (
        found("sweep", among, "resources.influence_backend=inline")
        == found("sweep", "method.name=kd")
        == 0
    )


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [
        (2, 3, 18, [2, 6, 18]),
        (2, 3, 20, [2, 6, 18, 20]),
        (1, 2, 8, [1, 2, 4, 8]),
        (5, 3, 4, [4]),
        (4, 3, 4, [4]),
        (1, 4, 1, [1]),
    ],
)
def test_rungs(grace: int, factor: int, epochs: int, expected: list[int]) -> None:
    search = Search(grace_epochs=grace, reduction_factor=factor)
    assert plan.asha_rungs(search, epochs) == expected
    assert plan.asha_rungs(search.model_copy(update={"scheduler": "none"}), epochs) == [epochs]


@pytest.mark.parametrize(
    ("scheduler", "description"),
    [
        ("none", "no trial is stopped"),
        ("asha", "asha compares after 2, 6, 12"),
        ("median", "median compares after every epoch from epoch 2 on"),
        (
            "pbt",
            "pbt compares a population of 10 trials after 5, 10; the worst 25% copy the "
            "weights of the best",
        ),
        (
            "hyperband",
            "hyperband: trials in brackets: 3 trained to the end; 5 compared after 4; 2 "
            "compared after 1, 3",
        ),
    ],
)
def test_descriptions_of_the_comparisons_of_trials(scheduler: str, description: str) -> None:
    search = load(None, [f"search.scheduler={scheduler}", "search.trials=10"]).search
    assert plan.describe_comparisons(search, 12) == description


def test_more_trials_than_one_hyperband_iteration() -> None:
    search = load(None, ["search.scheduler=hyperband", "search.trials=20"]).search
    assert plan.describe_comparisons(search, 12).endswith(
        "9 compared after 1, 3; the other 3 in further brackets"
    )


@pytest.mark.parametrize(
    ("views", "epochs", "expected"), [("null", 5, 5), ("3", 5, 3), ("9", 5, 5)]
)
def test_a_trial_uses_no_more_views_than_epochs(views: str, epochs: int, expected: int) -> None:
    assert sizes.views(load(None, [f"data.views={views}", f"training.epochs={epochs}"])) == expected


def test_bytes_of_the_cache() -> None:
    def size(*pairs: str, augmentation: str = "crop") -> int:
        return sizes.cache_bytes(
            load(None, ["training.epochs=6", *pairs]),
            samples=1000,
            classes=10,
            augmentation=augmentation,
        )

    assert size() == (6 + 1) * 1000 * 10 * 2
    assert size("teacher.dtype=float32", "data.views=4") == (4 + 1) * 1000 * 10 * 4
    assert size(augmentation="none") == 1000 * 10 * 2
    assert size("data.mixing=cutmix", augmentation="none") == size()
    assert size("teacher=null") == 0


def test_a_batch_size_that_workers_cannot_divide_is_refused() -> None:
    configuration = load(None, ["resources.workers=3", "training.batch_size=64", "teacher=null"])
    with refused("training.batch_size", 64, "a multiple of 3"):
        plan.require_batches(configuration, samples=1000)
    plan.require_batches(load(None, ["resources.workers=2"]), samples=64)


@pytest.mark.parametrize("part", ["training", "teacher.training"])
def test_a_batch_larger_than_the_training_set_is_refused(part: str) -> None:
    configuration = load(None, ["resources.workers=2", f"{part}.batch_size=128"])
    with refused(f"{part}.batch_size", 128, (2, 100)):
        plan.require_batches(configuration, samples=101)
    plan.require_batches(configuration, samples=128)


def test_a_batch_is_shared_by_the_workers_of_one_student_and_the_teachers_by_all() -> None:
    shared = pairs("training.batch_size=6", "teacher.training.batch_size=12", workers=6)
    plan.require_batches(shared, samples=100)
    with refused("training.batch_size", 8, "a multiple of 3"):
        plan.require_batches(pairs("training.batch_size=8", "teacher=null", workers=6), samples=100)
    with refused("teacher.training.batch_size", 9, "a multiple of 6"):
        plan.require_batches(
            pairs("training.batch_size=6", "teacher.training.batch_size=9", workers=6), samples=100
        )
    plan.require_batches(pairs("training.batch_size=7", "teacher=null", workers=1), samples=100)
