"""Test the refusals of a method with sample weights before a start."""

from typing import Any

import pytest

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.sweep.preflight.configuration import check_search, check_train
from orchestrator.training.capabilities.sample_weights_checks import check_memory
from tests.refusal import refused

DIGITS = (1222, 10, (1, 8, 8))


def configured(*pairs: str) -> Configuration:
    return load(None, ["method.name=kd_aif", *pairs])


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["method.update=ssl"], ("data.labelled", None, int)),
        (
            ["method.update=static", "training.epochs=1"],
            ("method.update", "static", "training.epochs of 2 or more"),
        ),
        (["method.warmup=1.0"], ("method.update", "iterative", "training.epochs of 2 or more")),
        (["method.update=both", "peers.b.network.name=cnn"], ("peers", ("b",), ())),
        (["data.mixing=mixup"], ("data.mixing", "mixup", ("none",))),
        (["data.validation_in_training=true"], ("data.validation_in_training", True, (False,))),
        (["method.lag=4"], ("method.lag", 4, (0, 2))),
        (["teacher=null"], ("method.name", "kd_aif", "with a teacher, or cross_entropy")),
    ],
)
def test_invalid_sample_weight_settings_are_refused(
    pairs: list[str], expected: tuple[Any, ...]
) -> None:
    with refused(*expected):
        check_train(configured(*pairs))


def test_a_search_is_refused_for_what_it_would_choose() -> None:
    """The space also chooses `static`; fixed values decide the rest."""
    short = configured("training.epochs=1", "search.scheduler=none")
    with refused("method.update", "iterative", "training.epochs of 2 or more"):
        check_search(short)
    with refused("data.labelled", None, int):
        check_search(configured("method.update=ssl"))
    check_search(configured("method.update=ssl", "data.labelled=100"))
    check_search(configured())


def test_each_peer_has_its_own_sample_weights() -> None:
    check_train(configured("peers.b.network.name=cnn"))


@pytest.mark.parametrize("estimator", ["last_layer", "cg", "lissa", "identity", "kfac"])
def test_what_fits_is_not_refused(estimator: str) -> None:
    check_memory(configured(f"method.estimator={estimator}"), False, *DIGITS)


@pytest.mark.parametrize(
    ("pairs", "samples", "needed_gib"),
    [
        # mlp of 1 x 256 on 64 inputs: 19,210 parameters, so twice 8 bytes x their square
        (["method.estimator=exact", "student.width=256"], 1222, 5.5),
        # the input factor of 40,000 x 40,000 and its decomposition: 9 times 4 bytes each
        (["method.estimator=kfac", "student.width=40000"], 1222, 59.9),
        # only features of ten million samples: 16 of student, 40 of logits and targets, 4 B each
        (["method.weigh_by=loss"], 10_000_000, 2.09),
    ],
)
def test_what_does_not_fit_is_refused_with_the_estimate(
    pairs: list[str], samples: int, needed_gib: float
) -> None:
    configuration = configured(*pairs)
    with refused("resources.influence_gib", 2) as refusal:
        check_memory(configuration, False, samples, *DIGITS[1:])
    assert refusal.value.allowed == (pytest.approx(needed_gib, rel=2e-3), None)
    more = configured(*pairs, "resources.influence_gib=100")
    check_memory(more, False, samples, *DIGITS[1:])


def test_the_largest_network_of_a_search_counts() -> None:
    pairs = ("method.estimator=exact", "search.extra_space.student.width=[16, 256]")
    check_memory(configured(*pairs), False, *DIGITS)
    with refused("resources.influence_gib", 2) as refusal:
        check_memory(configured(*pairs), True, *DIGITS)
    assert "student.width = 256" in str(refusal.value)


def test_a_method_without_weights_needs_no_memory() -> None:
    check_memory(load(None, ["method.name=kd", "resources.influence_gib=0.0001"]), False, *DIGITS)
