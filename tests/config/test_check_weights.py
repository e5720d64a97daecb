"""What is refused of a method that weighs samples, before anything starts; and what is not."""

import pytest

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.sweep.preflight._sample_weights import check_memory
from orchestrator.sweep.preflight.configuration import check_search, check_train

DIGITS = (1222, 10, (1, 8, 8))


def configured(*pairs: str) -> Configuration:
    return load(None, ["method.name=kd_aif", *pairs])


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["method.update=ssl"], r"learns from unlabelled samples too, and all have labels: set data\.labelled"),
        (["method.update=static", "training.epochs=1"], r"for which 1 epochs leave no room: give training\.epochs of 2"),
        (["method.warmup=1.0"], "and a warmup below 1"),
        (["method.update=both", "peers.b.network.name=cnn"], "trains the teacher by what one student needs, and there are peers"),
        (["data.mixing=mixup"], "blends two samples in a picture"),
        (["data.validation_in_training=true"], "trains on the labels that the weights of method kd_aif come from"),
        (["method.lag=4"], "lag = 4 is more than every = 2"),
        (["teacher=null"], "needs a teacher"),
    ],
)
def test_what_cannot_be_weighed_is_refused(pairs: list[str], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        check_train(configured(*pairs))


def test_a_search_is_refused_for_what_it_would_choose() -> None:
    """The space chooses `static` too; what is held decides the rest."""
    short = configured("training.epochs=1", "search.scheduler=none")
    with pytest.raises(ConfigurationError, match=r"training\.epochs"):
        check_search(short)
    with pytest.raises(ConfigurationError, match=r"set data\.labelled"):
        check_search(configured("method.update=ssl"))
    check_search(configured("method.update=ssl", "data.labelled=100"))
    check_search(configured())


def test_peers_are_weighed_each_for_itself() -> None:
    check_train(configured("peers.b.network.name=cnn"))


@pytest.mark.parametrize("estimator", ["last_layer", "cg", "lissa", "identity", "kfac"])
def test_what_fits_is_not_refused(estimator: str) -> None:
    check_memory(configured(f"method.estimator={estimator}"), False, *DIGITS)


@pytest.mark.parametrize(
    ("pairs", "samples", "needed"),
    [
        # mlp of 1 x 256 on 64 inputs: 19,210 parameters, so twice 8 bytes x their square
        (["method.estimator=exact", "student.width=256"], 1222, r"5\.5 GiB"),
        # the input factor of 40,000 x 40,000 and its decomposition: 9 times 4 bytes each
        (["method.estimator=kfac", "student.width=40000"], 1222, r"59\.9 GiB"),
        # features of ten million samples alone: 16 of student, 40 of logits and targets, 4 bytes each
        (["method.weigh_by=loss"], 10_000_000, r"2\.09 GiB"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_estimate(pairs: list[str], samples: int, needed: str) -> None:
    configuration = configured(*pairs)
    with pytest.raises(ConfigurationError, match=f"{needed} of memory .* resources.influence_gib = 2: raise it, or take less"):
        check_memory(configuration, False, samples, *DIGITS[1:])
    more = configured(*pairs, "resources.influence_gib=100")
    check_memory(more, False, samples, *DIGITS[1:])


def test_the_largest_network_of_a_search_counts() -> None:
    pairs = ("method.estimator=exact", "search.extra_space.student.width=[16, 256]")
    check_memory(configured(*pairs), False, *DIGITS)
    with pytest.raises(ConfigurationError, match=r"for search\.extra_space: student with student\.width = 256"):
        check_memory(configured(*pairs), True, *DIGITS)


def test_a_method_without_weights_needs_no_memory() -> None:
    check_memory(load(None, ["method.name=kd", "resources.influence_gib=0.0001"]), False, *DIGITS)
