"""Keys of the configuration that are searched beside the spaces: what may vary, and that every value is checked beforehand."""

import itertools
from pathlib import Path

import pytest

from orchestrator.config.loader import build, load
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.store import Store
from orchestrator.sweep.preflight.configuration import check_search, check_students, check_train
from orchestrator.sweep.preflight.preflight import _check_with_data

PEER = "peers.b.network.name=mlp"


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ("student.width: [8]", ("student.width = [8] is no choice", "two or more")),
        ("student.width: []", ("student.width = [] is no choice",)),
        ("student.width: [8, 8]", ("different values",)),
        ("student.width: [8, [16]]", ("student.width = [16] is not allowed", "numbers, texts")),
        ("student.width: [8, 0]", ("student with student.width = 0", "network mlp: width = 0")),
        ("student.wide: [8, 16]", ("student with student.wide = 8", "'wide'", "width")),
        ("student.width: [4, big]", ("search.extra_space: student with student.width = 'big': network mlp: width = 'big'",)),
        ("student.: [mlp, cnn]", ("search.extra_space = 'student.' is no key of the configuration: write for example",)),
        (".width: [4, 8]", ("search.extra_space = '.width' is no key",)),
        ("student.name: [mlp, resnet2]", ("student with student.name = 'resnet2'", "did you mean 'resnet")),
        ("peers.b.network.width: [8, 0]", ("peers.b.network with peers.b.network.width = 0",)),
        ("peers.c.network.width: [8, 16]", ("'peers.c.network.width' is no key",)),
        ("peers.b.width: [8, 16]", ("'peers.b.width' is no key",)),
        ("peers.b.training.epochs: [8, 16]", ("search.extra_space: there is no key 'peers.b.training.epochs'",)),
        ("training.batch_size: [32, 0]", ("search.extra_space: training.batch_size = 0 is not allowed",)),
        ("training.batchsize: [32, 64]", ("search.extra_space: there is no key 'training.batchsize'", "did you mean 'batch_size'")),
        ("training.schedule: [cosine, multi_step]", ("search.extra_space: ", "milestones")),
        ("nothing.at.all: [1, 2]", ("'nothing.at.all' is no key",)),
        ("training: [1, 2]", ("'training' is no key with a dot",)),
        ("temperature: [1, 2]", ("'temperature' is no key with a dot", "held under method")),
        ("method.temperature: [1, 2]", ("'method.temperature' must not vary",)),
        ("data.mixing: [none, mixup]", ("'data.mixing' must not vary",)),
        ("teacher.seed: [1, 2]", ("'teacher.seed' must not vary",)),
        ("search.trials: [1, 2]", ("'search.trials' must not vary",)),
        ("resources.workers: [1, 2]", ("'resources.workers' must not vary",)),
        ("training.epochs: [4, 8]", ("'training.epochs' must not vary",)),
        ("seed: [4, 8]", ("'seed' must not vary",)),
        ("peers.b.cpus_per_worker: [1, 2]", ("'peers.b.cpus_per_worker' must not vary",)),
        ("student.weights: [one, other]", ("'student.weights' must not vary",)),
        ("training.learning_rate: [0.1, 0.2]", ("'training.learning_rate' is searched already",)),
        ("peers.b.training.learning_rate: [0.1, 0.2]", ("'peers.b.training.learning_rate' is searched already",)),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_a_sentence(choices: str, said: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check_search(load(None, [PEER, f"search.extra_space={{{choices}}}"]))
    sentence = str(raised.value)
    assert "\n" not in sentence and all(part in sentence for part in said), sentence


def test_what_is_held_is_not_chosen() -> None:
    with pytest.raises(ConfigurationError, match=r"'training.momentum' is in search.freeze too: leave it out of one of them"):
        check_search(load(None, ["search.freeze=[training.momentum]", "search.extra_space={training.momentum: [0.1, 0.2]}"]))


@pytest.mark.parametrize(
    "choices",
    [
        "student.width: [8, 16], student.depth: [1, 2], peers.b.network.width: [4, 64]",
        "peers.b.network.name: [mlp, cnn], training.nesterov: [true, false], training.gradient_clip: [1.0, null]",
        "peers.b.training.momentum: [0.5, 0.9], training.batch_size: [32, 64]",
    ],
)
@pytest.mark.parametrize("scheduler", ["asha", "pbt", "none"])
def test_what_can_be_chosen_passes(choices: str, scheduler: str) -> None:
    check_search(
        load(None, [PEER, f"search.scheduler={scheduler}", f"search.extra_space={{{choices}}}", "search.methods=[kd, akd]"])
    )


def test_values_that_fit_alone_and_not_together_are_refused_of_a_network() -> None:
    names = "peers.b.network.name: [mlp, cnn]"
    check_search(load(None, [PEER, f"search.extra_space={{{names}}}"]))
    with pytest.raises(ConfigurationError, match=r"peers\.b\.network\.name = 'cnn', peers\.b\.network\.depth = 1: .*'depth'"):
        check_search(load(None, [PEER, f"search.extra_space={{{names}, peers.b.network.depth: [1, 2]}}"]))


def test_a_key_may_be_given_in_sections() -> None:
    expected = {"student.width": (8, 16), "peers.b.network.depth": (1, 2)}
    nested = load(None, ["search.extra_space.student.width=[8, 16]", "search.extra_space.peers.b.network.depth=[1, 2]"])
    plain = load(None, ["search.extra_space={student.width: [8, 16], peers.b.network.depth: [1, 2]}"])
    assert nested.search.extra_space == plain.search.extra_space == build(plain.plain()).search.extra_space == expected


def test_the_largest_network_of_each_student_counts() -> None:
    shape, classes = (1, 8, 8), 10

    def mlp(*widths: int) -> int:
        sizes = [64, *widths, classes]
        return sum((before + 1) * after for before, after in itertools.pairwise(sizes))

    plain = load(None, [PEER, "student.width=16", "peers.b.network.width=4", "peers.b.network.depth=1"])
    assert check_students(plain, False, classes, shape) == mlp(16) + mlp(4)
    choices = "search.extra_space={student.width: [8, 32], student.depth: [1, 2], peers.b.network.width: [4, 64, 16]}"
    chosen = load(None, [PEER, "student.width=16", "peers.b.network.depth=1", choices])
    assert check_students(chosen, True, classes, shape) == mlp(32, 32) + mlp(64)
    assert check_students(chosen, False, classes, shape) != check_students(chosen, True, classes, shape)


@pytest.mark.parametrize(("section", "choice"), [("student", "student.width"), ("peers.b.network", "peers.b.network.depth")])
def test_a_network_with_given_weights_does_not_vary(section: str, choice: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{choice}' would vary .*: leave out {section}.weights"):
        check_search(load(None, [PEER, f"{section}.weights=some.safetensors", f"search.extra_space={{{choice}: [1, 2]}}"]))


def test_one_training_chooses_nothing() -> None:
    check_train(load(None, ["search.extra_space={student.width: [0, 0]}"]))


def test_every_batch_size_is_held_against_the_data(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    summary = {"classes": ["a", "b"], "sizes": {"train": 100}, "shape": [1, 8, 8], "augmentation": "none", "name": "digits"}
    configuration = load(None, ["search.extra_space={training.batch_size: [32, 200]}", "teacher=null", "method.name=cross_entropy"])
    with pytest.raises(ConfigurationError, match=r"100 samples and training.batch_size = 200"):
        _check_with_data(store, configuration, "sweep", True, summary, gpu=False)
    assert _check_with_data(store, configuration, "train", True, summary, gpu=False)[0] is None
