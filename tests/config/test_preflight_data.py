"""Test refusals of data that do not fit a method, search or batch, and the plan's label count."""

from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from methods import METHODS
from methods.influence_weighting import InfluenceWeighting
from methods.kd import KD
from methods.kd_aif import KDAIF
from orchestrator.config import plan
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.store.store import Store
from orchestrator.sweep.preflight._data import check_batches
from orchestrator.sweep.preflight.configuration import check_search, check_train
from orchestrator.sweep.preflight.preflight import show_plan
from search_spaces import SPACES
from tests.data_summary import data_summary
from tests.refusal import refused

FEW = ("data.limit.train=400", "data.labelled=40")
SUMMARY = data_summary(train=400, labelled=40)


class WeightingPlan(KD):
    """KD that declares sample weights."""

    def weighting_plan(self, epochs: int) -> InfluenceWeighting:
        """Return the plan of KD-AIF."""
        return KDAIF(KDAIF.Settings()).weighting_plan(epochs)


@pytest.fixture(autouse=True)
def weighting_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "weighing", WeightingPlan)
    monkeypatch.setitem(SPACES, "weighing", SPACES["kd"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("data.mixing=cutmix", ("data.mixing", "cutmix", ("none",))),
        ("data.validation_in_training=true", ("data.validation_in_training", True, (False,))),
        ("data.class_weights=balanced", ("data.class_weights", "balanced", (None,))),
        ("data.sampling=balanced", ("data.sampling", "balanced", ("uniform",))),
    ],
)
def test_data_that_do_not_fit_sample_weights_are_refused(
    change: str, expected: tuple[Any, ...]
) -> None:
    with refused(*expected) as refusal:
        check_train(load(None, ["method.name=weighing", change]))
    assert "method weighing" in str(refusal.value) and "\n" not in str(refusal.value)
    check_train(load(None, ["method.name=weighing"]))
    check_train(load(None, ["method.name=kd", change]))


def test_one_of_several_methods_may_use_sample_weights() -> None:
    several = ("method.name=kd", "search.methods=[kd, weighing]")
    check_search(load(None, [*several]))
    with refused("data.mixing", "mixup", ("none",)):
        check_search(load(None, [*several, "data.mixing=mixup"]))


def test_blended_images_are_refused_for_a_method_of_single_samples() -> None:
    with refused("data.mixing", "cutmix", ("none",)):
        check_train(load(None, ["method.name=crd", "data.mixing=cutmix"]))
    check_train(load(None, ["method.name=crd", "data.sampling=balanced"]))


def test_a_sweep_with_validation_in_training_is_refused() -> None:
    joined = load(None, ["data.validation_in_training=true"])
    with refused("data.validation_in_training", True, (False,)):
        check_search(joined)
    check_train(joined)


def test_another_number_of_class_weights_than_classes_is_refused() -> None:
    configuration = load(None, ["data.class_weights=[1, 2, 3]"])
    with refused("data.class_weights", (1, 2, 3), "2 weights"):
        check_batches(configuration, searching=False, summary=data_summary(train=400))


def data_line(store: Path, *pairs: str) -> str:
    console = Console(file=StringIO(), width=300)
    show_plan(Store(store), load(None, list(pairs)), "train", True, console)
    return str(console.file.getvalue().splitlines()[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "data_text"),
    [
        ((), "digits: train 400, validation 216, test 359; "),
        (FEW[1:], "digits: train 40 labelled of 400, validation 216, test 359; "),
        (
            ("data.validation_in_training=true",),
            "digits: train 616 with the validation part, validation 216, test 359; ",
        ),
        (
            (FEW[1], "data.validation_in_training=true"),
            "digits: train 256 labelled of 616 with the validation part, validation 216",
        ),
    ],
)
def test_the_plan_gives_the_number_of_labelled_samples(
    digits_store: Path, change: tuple[str, ...], data_text: str
) -> None:
    small = ("training.batch_size=32", "teacher.training.batch_size=32")
    assert data_text in data_line(digits_store, FEW[0], *small, *change)


def test_too_few_labelled_samples_for_a_batch_are_refused(digits_store: Path) -> None:
    with refused("teacher.training.batch_size", 64, (1, 40)):
        data_line(digits_store, *FEW)


def batched(name: str, size: int, teacher: int = 32, *pairs: str) -> Configuration:
    sizes = (f"training.batch_size={size}", f"teacher.training.batch_size={teacher}")
    return load(None, [f"method.name={name}", *sizes, *pairs])


def searching(configuration: Configuration, *methods: str) -> Configuration:
    """Return the configuration of a search over these methods."""
    return configuration.model_copy(
        update={"search": configuration.search.model_copy(update={"methods": methods})}
    )


@pytest.mark.parametrize(
    ("configuration", "methods", "expected"),
    [
        (batched("kd", 64), ["kd"], None),
        (batched("kd", 64, 48), ["kd"], ("teacher.training.batch_size", 48, (1, 40))),
        (batched("cross_entropy", 40), ["cross_entropy"], None),
        (batched("cross_entropy", 64), ["cross_entropy"], ("training.batch_size", 64, (1, 40))),
        (batched("kd", 64), ["kd", "cross_entropy"], ("training.batch_size", 64, (1, 40))),
        (batched("kd", 64, 32, "teacher=null"), ["kd"], None),
        (batched("kd", 401), ["kd"], ("training.batch_size", 401, (1, 400))),
        (batched("kd", 400, 32, "data.labelled_share=0.05"), ["kd"], ("training.batch_size", 400)),
        (batched("kd", 2, 32, "resources.workers=2"), ["kd"], ("training.batch_size", 2)),
        (batched("cross_entropy", 2, 32, "resources.workers=2"), ["cross_entropy"], None),
    ],
)
def test_batches_are_counted_over_the_samples_used_in_training(
    configuration: Configuration, methods: list[str], expected: tuple[Any, ...] | None
) -> None:
    with refused(*expected) if expected else nullcontext():
        check_batches(searching(configuration, *methods), True, SUMMARY)


def test_fully_labelled_data_are_used_by_every_method() -> None:
    check_batches(searching(load(None, []), "kd", "cross_entropy"), True, data_summary(train=64))
    with refused("training.batch_size", 64, (1, 63)):
        check_batches(load(None, ["method.name=cross_entropy"]), False, data_summary(train=63))
    plan.require_batches(load(None, []), 64)


@pytest.mark.parametrize(
    ("settings", "learns"),
    [
        ("name: kd, alpha: 0.5", True),
        ("name: kd, alpha: 0", False),
        ("name: kd, form: additive, alpha: 0, beta: 1", True),
        ("name: kd, form: additive, alpha: 0.5, beta: 0", False),
        ("name: dist", True),
        ("name: dist, beta: 0, gamma: 0", False),
        ("name: mlkd, instance: 0, batch_level: 0", True),
        ("name: mlkd, instance: 0, batch_level: 0, class_level: 0", False),
        ("name: review_kd, alpha: 0", False),
        ("name: review_kd, alpha: 0.5", True),
        ("name: crd, alpha: 0", False),
        ("name: dkd", False),
    ],
)
def test_without_labels_a_term_of_the_teacher_is_required(settings: str, learns: bool) -> None:
    given = load(None, [f"method={{{settings}}}", "teacher.network.weights=w.safetensors"])
    with nullcontext() if learns else refused("method.name", given.method.name):
        check_batches(given, False, data_summary(train=400, labelled=0))


def test_without_labels_every_teacher_needs_weights() -> None:
    teachers = "teachers=[{network: {name: mlp, weights: w}}, {network: {name: cnn}}]"
    given = load(None, ["method.name=kd", teachers])
    with refused("teachers.1.network.weights", None):
        check_batches(given, False, data_summary(train=400, labelled=0))
