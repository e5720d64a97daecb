"""Test that each wrong configuration is refused in one sentence before a start."""

import re
from typing import Any

import pytest

from orchestrator.config.loader import build, load
from orchestrator.config.objectives import BETTER
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.sweep.preflight.configuration import check_network, check_search, check_train
from tests.refusal import refused

PEER, NONE = "peers.b.network.name=mlp", "search.scheduler=none"
HELD = (
    "search.scheduler=pbt",
    "search.freeze=[training.learning_rate]",
    "method.temperature=4",
    "method.alpha=0.9",
)


def check(*pairs: str) -> None:
    configuration = load(None, list(pairs))
    check_train(configuration)
    check_search(configuration)


def test_the_defaults_pass() -> None:
    check_train(Configuration())
    check_search(Configuration())


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (("method.name=kdd",), ("method.name", "kdd")),
        (("method.name=zzz",), ("method.name", "zzz")),
        (("method.temperatur=3",), ("method.temperatur", 3)),
        (("method.temperature=0",), ("method.temperature", 0, (0.001, 10000.0))),
        (("method.temperature=-1",), ("method.temperature", -1, (0.001, 10000.0))),
        (("method.temperature=hot",), ("method.temperature", "hot", (0.001, 10000.0))),
        (("method.temperature=true",), ("method.temperature", True, (0.001, 10000.0))),
        (("method.alpha=1.5",), ("method.alpha", 1.5, (0, 1))),
        (("method.form=other",), ("method.form", "other", ("convex", "additive"))),
        (("method.name=ttm", "method.normalize=1"), ("method.normalize", 1, bool)),
        (("training.learning_rate=-0.1",), ("training.learning_rate", -0.1, (0, 1e30))),
        (("teacher=null",), ("method.name", "kd", "with a teacher, or cross_entropy")),
        (("student.name=resnet2",), ("student.name", "resnet2")),
        (("teacher.network.name=vgg",), ("teacher.network.name", "vgg")),
        (("student.width=0",), ("student.width", 0, (1, 1000000))),
        (("student.hight=3",), ("student.hight", 3, ("width", "depth", "dropout"))),
        (("student.name=resnet8", "student.width=3"), ("student.width", 3, ())),
        (("search.methods=[kd, tmm]",), ("search.methods", "tmm")),
        (("search.methods=[kd, kd]",), ("search.methods", ("kd", "kd"), "each once")),
        (
            ("method.name=cross_entropy", "search.methods=[cross_entropy, ttm]", "teacher=null"),
            ("search.methods", "ttm", "with a teacher, or cross_entropy"),
        ),
        (("method.name=dual_student",), ("method.name", "dual_student", "with peers, or kd")),
        (
            ("method.name=dml", "teacher=null"),
            ("method.name", "dml", "with peers, or cross_entropy"),
        ),
        (
            ("method.name=dual_student", "teacher=null", "peers.b.network.name=mlp"),
            ("method.name", "dual_student", "with a teacher, or dml"),
        ),
        (("search.methods=[kd, dml]",), ("search.methods", "dml", "with peers, or kd")),
        (
            ("search.freeze=[training.rate]",),
            ("search.freeze", "training.rate", "keys of the configuration"),
        ),
        (
            ("search.freeze=[temperature]",),
            ("search.freeze", "temperature", "keys of the configuration"),
        ),
        (("search.freeze=[seed.low]",), ("search.freeze", "seed.low", "keys of the configuration")),
        (("search.objective=accuracy",), ("search.objective", "accuracy")),
        (("search.objective=test/last/accuracy",), ("search.objective", "test/last/accuracy")),
        ((PEER, "search.objective=b/validation/nll"), ("search.objective", "b/validation/nll")),
        (
            ("search.objective=a/validation/accuracy",),
            ("search.objective", "a/validation/accuracy"),
        ),
        (("search.objective=parameters",), ("search.objective", "parameters")),
        (
            (
                "search.objectives=[validation/accuracy, parameters]",
                NONE,
                "search.extra_space={training.momentum: [0.5, 0.9]}",
            ),
            ("search.objectives", "parameters", "with search.extra_space.student"),
        ),
        (
            (
                PEER,
                "search.objectives=[train/loss, b/parameters]",
                NONE,
                "search.extra_space={student.width: [8, 16]}",
            ),
            ("search.objectives", "b/parameters", "with search.extra_space.peers.b.network"),
        ),
        (("search.direction=minimize",), ("search.direction", "minimize", ("maximize",))),
        (
            ("search.objective=validation/nll", "search.direction=maximize"),
            ("search.direction", "maximize", ("minimize",)),
        ),
        (
            ("search.objective=validation/agreement", "teacher=null", "method.name=cross_entropy"),
            ("search.objective", "validation/agreement"),
        ),
        (("search.scheduler=pbt", "search.trials=1"), ("search.trials", 1, (2, 100000))),
        (
            ("search.scheduler=pbt", "training.epochs=5", "search.perturb_epochs=5"),
            ("search.perturb_epochs", 5, (1, 4)),
        ),
        (HELD, ("search.scheduler", "pbt", "with a continuous setting that is searched")),
        (
            ("search.scheduler=median", "search.grace_epochs=5", "training.epochs=4"),
            ("search.grace_epochs", 5, (1, 4)),
        ),
        (("search.grace_epochs=5", "training.epochs=4"), ("search.grace_epochs", 5, (1, 4))),
        (("search.students=min",), ("search.students", "min", ("mean",))),
        (("search.students=a",), ("search.students", "a", ("mean",))),
        ((PEER, "search.students=c"), ("search.students", "c", ("mean", "min", "a", "b"))),
        ((PEER, "search.students=worst"), ("search.students", "worst", ("mean", "min", "a", "b"))),
        (
            (PEER, "search.freeze=[peers.c.training.learning_rate]"),
            ("search.freeze", "peers.c.training.learning_rate", "keys of the configuration"),
        ),
        (
            ("search.objectives=[validation/accuracy]", NONE),
            ("search.objectives", ("validation/accuracy",), "two or more, each once"),
        ),
        (
            ("search.objectives=[parameters, parameters]", NONE),
            ("search.objectives", ("parameters", "parameters"), "two or more, each once"),
        ),
        (
            ("search.objectives=[parameters, validation/acc]", NONE),
            ("search.objectives", "validation/acc"),
        ),
        (
            ("search.objectives=[parameters, b/parameters]", NONE),
            ("search.objectives", "b/parameters"),
        ),
        (
            (PEER, "search.objectives=[parameters, c/parameters]", NONE),
            ("search.objectives", "c/parameters"),
        ),
        (
            ("search.objectives=[parameters, validation/entropy]", NONE),
            ("search.objectives", "validation/entropy"),
        ),
        (
            (PEER, "search.objectives=[parameters, b/validation/entropy]", NONE),
            ("search.objectives", "b/validation/entropy"),
        ),
        (
            ("search.objectives=[parameters, test/last/accuracy]", NONE),
            ("search.objectives", "test/last/accuracy"),
        ),
        (
            ("search.objectives=[parameters, train/loss]", "search.scheduler=asha"),
            ("search.scheduler", "asha", ("none",)),
        ),
        (
            ("search.objectives=[parameters, train/loss]", "search.scheduler=pbt"),
            ("search.scheduler", "pbt", ("none",)),
        ),
        (
            (
                "search.objectives=[parameters, validation/agreement]",
                NONE,
                "teacher=null",
                "method.name=cross_entropy",
            ),
            ("search.objectives", "validation/agreement"),
        ),
    ],
)
def test_invalid_configurations_are_refused_with_field_and_value(
    pairs: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    with refused(*expected) as refusal:
        check(*pairs)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("pairs", "hint"),
    [
        (("method.name=kdd",), "did you mean 'kd'"),
        (("method.temperatur=3",), "did you mean 'temperature'"),
        (("student.name=resnet2",), "did you mean 'resnet"),
        (("search.methods=[kd, tmm]",), "did you mean 'ttm'"),
        (("search.objective=accuracy",), "did you mean 'validation/accuracy'"),
        (("search.objective=a/validation/accuracy",), "did you mean 'validation/accuracy'"),
        (
            ("search.objectives=[parameters, validation/acc]", NONE),
            "did you mean 'validation/accuracy'",
        ),
        (
            (PEER, "search.objective=b/validation/nll"),
            "search.objective=validation/nll and search.students=b",
        ),
        (("search.objective=parameters",), "search.objectives=[validation/accuracy, "),
        (("search.objectives=[parameters, validation/entropy]", NONE), "direction"),
        ((PEER, "search.objectives=[parameters, b/validation/entropy]", NONE), "direction"),
        (("search.grace_epochs=5", "training.epochs=4"), "training.epochs = 4"),
    ],
)
def test_a_refusal_contains_the_next_step(pairs: tuple[str, ...], hint: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(hint)):
        check(*pairs)


@pytest.mark.parametrize(
    "pairs",
    [
        ("teacher=null", "method.name=cross_entropy"),
        ("method.temperature=3", "method.alpha=1"),
        ("method.name=dual_student", "peers.b.network.name=mlp"),
        (
            "method.name=dual_student",
            "method.lambda_peer=0",
            "method.peer_weight=1-w",
            "peers.b.network.name=mlp",
        ),
        ("method.name=dml", "teacher=null", "peers.b.network.name=mlp"),
        (
            "search.methods=[kd, dual_student, dml]",
            "peers.b.network.name=mlp",
            "peers.c.network.name=cnn",
        ),
        ("method.name=ttm", "method.form=additive", "method.beta=0"),
        ("search.methods=[kd, ttm, wttm, cross_entropy]", "method.temperature=3"),
        ("search.freeze=[training.learning_rate, seed, data.limit.train]",),
        ("search.freeze=[training.learning_rate]", "search.methods=[cross_entropy, akd]"),
        ("search.objective=validation/entropy", "search.direction=minimize"),
        ("search.objective=validation/entropy", "search.direction=maximize"),
        ("search.grace_epochs=5", "training.epochs=4", "search.scheduler=none"),
        ("search.scheduler=pbt", "search.trials=2", "search.grace_epochs=50"),
        ("search.scheduler=pbt", "method.temperature=4", "method.alpha=0.9"),
        (
            "search.scheduler=pbt",
            "search.methods=[kd, ttm]",
            "method.temperature=4",
            "search.freeze=[training.learning_rate]",
        ),
        (
            "search.scheduler=hyperband",
            "search.grace_epochs=50",
            "search.trials=1",
            "training.epochs=1",
        ),
        (
            "search.objectives=[validation/accuracy, parameters]",
            NONE,
            "search.extra_space={student.width: [8, 16]}",
        ),
        (
            PEER,
            "search.objectives=[train/loss, parameters]",
            NONE,
            "search.extra_space={peers.b.network.width: [8, 16]}",
        ),
        (
            PEER,
            NONE,
            "search.extra_space={peers.b.network.width: [8, 16]}",
            "search.objectives=[a/validation/accuracy, b/validation/nll, train/loss, b/parameters]",
        ),
        (PEER, "search.students=min"),
        (PEER, "search.students=b", "search.freeze=[peers.b.training.learning_rate]"),
        (*HELD, PEER),
        ("student.name=resnet110", "teacher.network.name=cnn", "teacher.network.width=8"),
    ],
)
def test_valid_configurations_pass(pairs: tuple[str, ...]) -> None:
    configuration = load(None, list(pairs))
    check_train(configuration)
    check_search(configuration)


@pytest.mark.parametrize("objective", BETTER)
def test_every_objective_has_a_direction_that_passes(objective: str) -> None:
    for direction in ("maximize", "minimize"):
        pairs = [f"search.objective={objective}", f"search.direction={direction}"]
        if direction in BETTER[objective]:
            check_search(load(None, pairs))
        else:
            with refused("search.direction", direction, BETTER[objective]) as refusal:
                check_search(load(None, pairs))
            assert objective in str(refusal.value)


def test_a_network_is_checked_without_memory() -> None:
    check_network(
        load(None, ["student.name=mlp", "student.width=200000", "student.depth=3"]).student,
        "student",
        10,
        (3, 32, 32),
    )


def test_a_search_without_the_configured_method_is_refused() -> None:
    """The default method need not be searched or have its teacher; its settings must be valid."""
    others: dict[str, Any] = {"search": {"methods": ["cross_entropy"]}}
    check_search(build(others | {"teacher": None}))
    refusals: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"name": "kdd"}, ("method.name", "kdd")),
        ({"name": "kd", "temperature": 0}, ("method.temperature", 0)),
        ({"name": "kd", "temperature": 2}, ("method.name", "kd", ("cross_entropy",))),
    ]
    for method, expected in refusals:
        with refused(*expected):
            check_search(build(others | {"method": method}))
