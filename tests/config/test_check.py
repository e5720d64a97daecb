"""What is refused before anything starts, each in one sentence. Knows no data."""

from typing import Any

import pytest

from orchestrator.config.loader import build, load
from orchestrator.config.objectives import BETTER
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.sweep.preflight.configuration import check_network, check_search, check_train

PEER, NONE = "peers.b.network.name=mlp", "search.scheduler=none"
HELD = ("search.scheduler=pbt", "search.freeze=[training.learning_rate]", "method.temperature=4", "method.alpha=0.9")


def refusal(*pairs: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        configuration = load(None, list(pairs))
        check_train(configuration)
        check_search(configuration)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_defaults_pass() -> None:
    check_train(Configuration())
    check_search(Configuration())


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (("method.name=kdd",), ("method.name = 'kdd'", "did you mean 'kd'?")),
        (("method.name=zzz",), ("method.name = 'zzz'", "known: ", "cross_entropy")),
        (("method.temperatur=3",), ("'temperatur'", "did you mean 'temperature'?")),
        (("method.temperature=0",), ("method kd", "temperature = 0", "[0.001, 10000]")),
        (("method.temperature=-1",), ("temperature = -1",)),
        (("method.temperature=hot",), ("temperature = 'hot'", "a number")),
        (("method.temperature=true",), ("temperature = True",)),
        (("method.alpha=1.5",), ("alpha = 1.5", "[0, 1]")),
        (("method.form=other",), ("form = 'other'", "one of convex, additive")),
        (("method.name=ttm", "method.normalize=1"), ("normalize = 1", "true or false")),
        (("training.learning_rate=-0.1",), ("training.learning_rate = -0.1",)),
        (("teacher=null",), ("method.name = 'kd' needs a teacher", "cross_entropy")),
        (("student.name=resnet2",), ("student: ", "'resnet2'", "did you mean 'resnet")),
        (("teacher.network.name=vgg",), ("teacher.network: ", "'vgg'")),
        (("student.width=0",), ("student: ", "width = 0")),
        (("student.hight=3",), ("student: ", "'hight'", "width")),
        (("student.name=resnet8", "student.width=3"), ("student: ", "'width'")),
        (("search.methods=[kd, tmm]",), ("search.methods = 'tmm'", "did you mean 'ttm'?")),
        (("search.methods=[kd, kd]",), ("names a method twice",)),
        (
            ("method.name=cross_entropy", "search.methods=[cross_entropy, ttm]", "teacher=null"),
            ("search.methods = 'ttm' needs a teacher",),
        ),
        (("method.name=dual_student",), ("method.name = 'dual_student'", "no peers", "peers.b.network", "or take kd")),
        (("method.name=dml", "teacher=null"), ("method.name = 'dml'", "no peers", "peers.b.network", "or take cross_entropy")),
        (
            ("method.name=dual_student", "teacher=null", "peers.b.network.name=mlp"),
            ("method.name = 'dual_student' needs a teacher", "or take dml"),
        ),
        (("search.methods=[kd, dml]",), ("search.methods = 'dml'", "no peers", "peers.b.network")),
        (("search.freeze=[training.rate]",), ("search.freeze = 'training.rate' is no key",)),
        (("search.freeze=[temperature]",), ("search.freeze = 'temperature' is no key",)),
        (("search.freeze=[seed.low]",), ("search.freeze = 'seed.low' is no key",)),
        (("search.objective=accuracy",), ("search.objective = 'accuracy'", "did you mean 'validation/accuracy'?")),
        (("search.objective=test/last/accuracy",), ("search.objective = 'test/last/accuracy' is not reported",)),
        ((PEER, "search.objective=b/validation/nll"), ("set search.objective=validation/nll and search.students=b",)),
        (("search.objective=a/validation/accuracy",), ("is not reported: did you mean 'validation/accuracy'",)),
        (("search.objective=parameters",), ("search.objective = 'parameters' alone", "search.objectives=[validation/accuracy, ")),
        (
            ("search.objectives=[validation/accuracy, parameters]", NONE, "search.extra_space={training.momentum: [0.5, 0.9]}"),
            ("search.objectives = 'parameters' is the same in every trial", "search.extra_space.student.width=[8, 16, 32]"),
        ),
        (
            (PEER, "search.objectives=[train/loss, b/parameters]", NONE, "search.extra_space={student.width: [8, 16]}"),
            ("search.objectives = 'b/parameters' is the same", "search.extra_space.peers.b.network.width=[8, 16, 32]"),
        ),
        (("search.direction=minimize",), ("search.direction = 'minimize'", "set maximize")),
        (
            ("search.objective=validation/nll", "search.direction=maximize"),
            ("search.direction = 'maximize'", "set minimize"),
        ),
        (("search.objective=validation/agreement", "teacher=null", "method.name=cross_entropy"), ("is not reported",)),
        (("search.scheduler=pbt", "search.trials=1"), ("search.trials = 1", "no population", "at least 2")),
        (
            ("search.scheduler=pbt", "training.epochs=5", "search.perturb_epochs=5"),
            ("search.perturb_epochs = 5", "training.epochs = 5", "at most 4"),
        ),
        (
            HELD,
            ("search.scheduler = 'pbt'", "all of them are held", "search.freeze"),
        ),
        (("search.scheduler=median", "search.grace_epochs=5", "training.epochs=4"), ("search.grace_epochs = 5", "at most 4")),
        (("search.grace_epochs=5", "training.epochs=4"), ("search.grace_epochs = 5", "training.epochs = 4", "at most 4")),
        (("search.students=min",), ("search.students = 'min'", "there is one", "mean")),
        (("search.students=a",), ("search.students = 'a'", "there is one")),
        ((PEER, "search.students=c"), ("search.students = 'c'", "mean, min", "(a, b)")),
        ((PEER, "search.students=worst"), ("search.students = 'worst'", "(a, b)")),
        ((PEER, "search.freeze=[peers.c.training.learning_rate]"), ("'peers.c.training.learning_rate' is no key",)),
        (("search.objectives=[validation/accuracy]", NONE), ("['validation/accuracy'] is not several", "search.objective")),
        (("search.objectives=[parameters, parameters]", NONE), ("is not several", "each once")),
        (("search.objectives=[parameters, validation/acc]", NONE), ("'validation/acc'", "did you mean 'validation/accuracy'")),
        (("search.objectives=[parameters, b/parameters]", NONE), ("'b/parameters' is not reported",)),
        ((PEER, "search.objectives=[parameters, c/parameters]", NONE), ("'c/parameters' is not reported", "b/parameters")),
        (("search.objectives=[parameters, validation/entropy]", NONE), ("'validation/entropy'", "direction")),
        ((PEER, "search.objectives=[parameters, b/validation/entropy]", NONE), ("'b/validation/entropy'", "direction")),
        (("search.objectives=[parameters, test/last/accuracy]", NONE), ("is not reported",)),
        (
            ("search.objectives=[parameters, train/loss]", "search.scheduler=asha"),
            ("search.scheduler = 'asha'", "names 2", "search.scheduler=none"),
        ),
        (
            ("search.objectives=[parameters, train/loss]", "search.scheduler=pbt"),
            ("search.scheduler = 'pbt'", "search.scheduler=none"),
        ),
        (
            ("search.objectives=[parameters, validation/agreement]", NONE, "teacher=null", "method.name=cross_entropy"),
            ("'validation/agreement' is not reported",),
        ),
    ],
)
def test_what_cannot_be_is_refused_with_field_and_value(pairs: tuple[str, ...], said: tuple[str, ...]) -> None:
    sentence = refusal(*pairs)
    assert all(part in sentence for part in said), sentence


@pytest.mark.parametrize(
    "pairs",
    [
        ("teacher=null", "method.name=cross_entropy"),
        ("method.temperature=3", "method.alpha=1"),
        ("method.name=dual_student", "peers.b.network.name=mlp"),
        ("method.name=dual_student", "method.lambda_peer=0", "method.peer_weight=1-w", "peers.b.network.name=mlp"),
        ("method.name=dml", "teacher=null", "peers.b.network.name=mlp"),
        ("search.methods=[kd, dual_student, dml]", "peers.b.network.name=mlp", "peers.c.network.name=cnn"),
        ("method.name=ttm", "method.form=additive", "method.beta=0"),
        ("search.methods=[kd, ttm, wttm, cross_entropy]", "method.temperature=3"),
        ("search.freeze=[training.learning_rate, seed, data.limit.train]",),
        ("search.freeze=[training.learning_rate]", "search.methods=[cross_entropy, akd]"),
        ("search.objective=validation/entropy", "search.direction=minimize"),
        ("search.objective=validation/entropy", "search.direction=maximize"),
        ("search.grace_epochs=5", "training.epochs=4", "search.scheduler=none"),
        ("search.scheduler=pbt", "search.trials=2", "search.grace_epochs=50"),
        ("search.scheduler=pbt", "method.temperature=4", "method.alpha=0.9"),
        ("search.scheduler=pbt", "search.methods=[kd, ttm]", "method.temperature=4", "search.freeze=[training.learning_rate]"),
        ("search.scheduler=hyperband", "search.grace_epochs=50", "search.trials=1", "training.epochs=1"),
        ("search.objectives=[validation/accuracy, parameters]", NONE, "search.extra_space={student.width: [8, 16]}"),
        (PEER, "search.objectives=[train/loss, parameters]", NONE, "search.extra_space={peers.b.network.width: [8, 16]}"),
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
def test_what_can_be_passes(pairs: tuple[str, ...]) -> None:
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
            assert objective in refusal(*pairs)


def test_a_network_is_checked_without_memory() -> None:
    check_network(load(None, ["student.name=mlp", "student.width=200000", "student.depth=3"]).student, "student", 10, (3, 32, 32))


def test_a_search_without_the_method_that_is_named() -> None:
    """The default method need not be searched, nor have its teacher; what is said of it has to mean something all the same."""
    others: dict[str, Any] = {"search": {"methods": ["cross_entropy"]}}
    check_search(build(others | {"teacher": None}))
    for method, said in [
        ({"name": "kdd"}, "'kdd' is no method"),
        ({"name": "kd", "temperature": 0}, "temperature = 0 "),
        ({"name": "kd", "temperature": 2}, "those of kd, which is not among search.methods"),
    ]:
        with pytest.raises(ConfigurationError, match=said):
            check_search(build(others | {"method": method}))
