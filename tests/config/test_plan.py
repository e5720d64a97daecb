"""The arithmetic of a plan against counting one by one. Knows no Ray."""

import itertools
from fractions import Fraction
from typing import Any

import pytest

from orchestrator import plan
from orchestrator.config import Resources, Search
from orchestrator.errors import ConfigurationError, EnvironmentUnfitError
from orchestrator.reading import load


def resources(**values: Any) -> Resources:
    return Resources.model_validate(values)


def counted(cpus: float, gpus: float, workers: int, cpus_each: float, gpus_each: float) -> int:
    """Groups placed one after another, in exact arithmetic."""
    left = [Fraction(str(cpus)), Fraction(str(gpus))]
    need = [workers * Fraction(str(cpus_each)), workers * Fraction(str(gpus_each))]
    number = 0
    while all(have >= wanted for have, wanted in zip(left, need, strict=True)):
        left = [have - wanted for have, wanted in zip(left, need, strict=True)]
        number += 1
    return number


MACHINES = list(
    itertools.product((0.9, 1.0, 2.0, 7.0, 16.0), (0.0, 1.0, 3.0, 8.0), (1, 2, 3), (0.1, 0.5, 1.0, 3.0), (0.0, 0.25, 0.3, 1.0))
)


def test_as_many_groups_as_fit() -> None:
    refused = 0
    for cpus, gpus, workers, cpus_each, gpus_each in MACHINES:
        expected = counted(cpus, gpus, workers, cpus_each, gpus_each)
        wanted = resources(workers=workers, cpus_per_worker=cpus_each, gpus_per_worker=gpus_each)
        machine = {"CPU": cpus, "GPU": gpus}
        if expected == 0:
            refused += 1
            with pytest.raises(EnvironmentUnfitError):
                plan.groups(wanted, machine, trials=1000)
            continue
        assert plan.groups(wanted, machine, trials=1000).groups == expected, (machine, wanted)
    assert 0 < refused < len(MACHINES)


def test_never_more_groups_than_trials_or_than_were_asked_for() -> None:
    machine = {"CPU": 8.0}
    assert plan.groups(resources(), machine, trials=3).groups == 3
    assert plan.groups(resources(groups=2), machine, trials=3).groups == 2
    assert plan.groups(resources(groups=8), machine, trials=100).groups == 8
    assert plan.groups(resources(), machine, trials=0).groups == 1


@pytest.mark.parametrize(("gpus", "workers", "each"), [(0.0, 1, 0.0), (1.0, 1, 1.0), (1.0, 2, 0.0), (4.0, 2, 1.0)])
def test_a_worker_gets_a_gpu_where_a_whole_group_can_have_them(gpus: float, workers: int, each: float) -> None:
    made = plan.groups(resources(workers=workers), {"CPU": 16.0, "GPU": gpus}, trials=9)
    assert made.gpus_per_worker == each
    assert made.per_worker == {"CPU": 1.0} | ({"GPU": each} if each else {})


def test_a_refusal_holds_the_arithmetic() -> None:
    with pytest.raises(EnvironmentUnfitError, match=r"3 x 2 workers need 6 CPU and the cluster has 4: lower .*cpus_per_worker"):
        plan.groups(resources(groups=3, workers=2), {"CPU": 4.0}, trials=9)
    with pytest.raises(EnvironmentUnfitError, match=r"1 x 2 workers need 2 GPU and the cluster has 1: lower .*gpus_per_worker"):
        plan.groups(resources(workers=2, gpus_per_worker=1), {"CPU": 4.0, "GPU": 1.0}, trials=9)
    with pytest.raises(EnvironmentUnfitError, match="need 1 CPU and the cluster has 0"):
        plan.groups(resources(), {}, trials=9)


def test_the_arithmetic_is_told() -> None:
    made = plan.groups(resources(workers=2, gpus_per_worker=0.5), {"CPU": 7.0, "GPU": 2.0}, trials=9)
    assert made.arithmetic == "floor(7 CPU / 2 per group , 2 GPU / 1 per group) = 2"


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "expected"),
    [(2, 3, 18, [2, 6, 18]), (2, 3, 20, [2, 6, 18, 20]), (1, 2, 8, [1, 2, 4, 8]), (5, 3, 4, [4]), (4, 3, 4, [4]), (1, 4, 1, [1])],
)
def test_rungs(grace: int, factor: int, epochs: int, expected: list[int]) -> None:
    search = Search(grace_epochs=grace, reduction_factor=factor)
    assert plan.rungs(search, epochs) == expected
    assert plan.rungs(search.model_copy(update={"scheduler": "none"}), epochs) == [epochs]


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("none", "every trial trains them all"),
        ("asha", "asha compares after 2, 6, 12"),
        ("median", "median compares after every epoch from 2 on"),
        ("pbt", "pbt: a population of 10 is compared after 5, 10, its worst 25% take over"),
        ("hyperband", "hyperband: trials in brackets: 3 trained to the end; 5 compared after 4; 2 compared after 1, 3"),
    ],
)
def test_when_trials_are_compared_in_words(scheduler: str, said: str) -> None:
    search = load(None, [f"search.scheduler={scheduler}", "search.trials=10"]).search
    assert plan.comparisons(search, 12) == said


def test_more_trials_than_one_band_of_brackets_holds() -> None:
    search = load(None, ["search.scheduler=hyperband", "search.trials=20"]).search
    assert plan.comparisons(search, 12).endswith("9 compared after 1, 3; the other 3 in brackets anew")


@pytest.mark.parametrize(("views", "epochs", "expected"), [("null", 5, 5), ("3", 5, 3), ("9", 5, 5)])
def test_a_trial_sees_no_more_views_than_it_has_epochs(views: str, epochs: int, expected: int) -> None:
    assert plan.views(load(None, [f"data.views={views}", f"training.epochs={epochs}"])) == expected


def test_bytes_of_the_cache() -> None:
    def size(*pairs: str, augmentation: str = "crop") -> int:
        return plan.cache_bytes(load(None, ["training.epochs=6", *pairs]), samples=1000, classes=10, augmentation=augmentation)

    assert size() == (6 + 1) * 1000 * 10 * 2
    assert size("teacher.dtype=float32", "data.views=4") == (4 + 1) * 1000 * 10 * 4
    assert size(augmentation="none") == 1000 * 10 * 2
    assert size("data.mix=cutmix", augmentation="none") == size()
    assert size("teacher=null") == 0


def test_a_batch_that_workers_cannot_share_is_refused() -> None:
    configuration = load(None, ["resources.workers=3", "training.batch_size=64", "teacher=null"])
    with pytest.raises(ConfigurationError, match=r"training.batch_size = 64 .*resources.workers = 3: give a multiple of 3"):
        plan.require_batches(configuration, samples=1000)
    plan.require_batches(load(None, ["resources.workers=2"]), samples=64)


@pytest.mark.parametrize("part", ["training", "teacher.training"])
def test_a_batch_that_the_training_part_cannot_fill_is_refused(part: str) -> None:
    configuration = load(None, ["resources.workers=2", f"{part}.batch_size=128"])
    with pytest.raises(ConfigurationError, match=rf"^the training part has 101 samples and {part}.batch_size = 128 .*at most 100"):
        plan.require_batches(configuration, samples=101)
    plan.require_batches(configuration, samples=128)
