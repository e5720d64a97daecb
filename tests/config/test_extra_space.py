"""Test configuration keys that are searched besides the spaces: allowed keys and values."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.extra_space import EXAMPLE, networks
from orchestrator.config.loader import build, load
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.store import Store
from orchestrator.sweep.preflight.configuration import check_search, check_students, check_train
from orchestrator.sweep.preflight.preflight import _check_with_data
from tests.data_summary import data_summary
from tests.refusal import refused

PEER = "peers.b.network.name=mlp"


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (
            "student.width: [8]",
            ("search.extra_space.student.width", (8,), "two or more different values"),
        ),
        (
            "student.width: []",
            ("search.extra_space.student.width", (), "two or more different values"),
        ),
        (
            "student.width: [8, 8]",
            ("search.extra_space.student.width", (8, 8), "two or more different values"),
        ),
        (
            "student.width: [8, [16]]",
            ("search.extra_space.student.width", [16], "numbers, strings, true, false or null"),
        ),
        ("student.width: [8, 0]", ("student.width", 0, (1, 1000000))),
        ("student.wide: [8, 16]", ("student.wide", 8, ("width", "depth", "dropout"))),
        ("student.width: [4, big]", ("student.width", "big", (1, 1000000))),
        ("student.: [mlp, cnn]", ("search.extra_space", "student.", EXAMPLE)),
        (".width: [4, 8]", ("search.extra_space", ".width", EXAMPLE)),
        ("student.name: [mlp, resnet2]", ("student.name", "resnet2")),
        ("peers.b.network.width: [8, 0]", ("peers.b.network.width", 0, (1, 1000000))),
        (
            "peers.c.network.width: [8, 16]",
            ("search.extra_space", "peers.c.network.width", EXAMPLE),
        ),
        ("peers.b.width: [8, 16]", ("search.extra_space", "peers.b.width", EXAMPLE)),
        ("peers.b.training.epochs: [8, 16]", ("search.extra_space.peers.b.training.epochs", 8)),
        (
            "training.batch_size: [32, 0]",
            ("search.extra_space.training.batch_size", 0, (1, 1000000)),
        ),
        ("training.batchsize: [32, 64]", ("search.extra_space.training.batchsize", 32)),
        (
            "training.schedule: [cosine, multi_step]",
            ("search.extra_space.training.milestones", (), "one epoch or more"),
        ),
        ("nothing.at.all: [1, 2]", ("search.extra_space", "nothing.at.all", EXAMPLE)),
        ("training: [1, 2]", ("search.extra_space", "training", EXAMPLE)),
        ("temperature: [1, 2]", ("search.extra_space", "temperature", EXAMPLE)),
        (
            "method.temperature: [1, 2]",
            ("search.extra_space", "method.temperature", "one value for the sweep"),
        ),
        (
            "data.mixing: [none, mixup]",
            ("search.extra_space", "data.mixing", "one value for the sweep"),
        ),
        ("teacher.seed: [1, 2]", ("search.extra_space", "teacher.seed", "one value for the sweep")),
        (
            "search.trials: [1, 2]",
            ("search.extra_space", "search.trials", "one value for the sweep"),
        ),
        (
            "resources.workers: [1, 2]",
            ("search.extra_space", "resources.workers", "one value for the sweep"),
        ),
        (
            "training.epochs: [4, 8]",
            ("search.extra_space", "training.epochs", "one value for the sweep"),
        ),
        ("seed: [4, 8]", ("search.extra_space", "seed", "one value for the sweep")),
        (
            "peers.b.cpus_per_worker: [1, 2]",
            ("search.extra_space", "peers.b.cpus_per_worker", "one value for the sweep"),
        ),
        (
            "student.weights: [one, other]",
            ("search.extra_space", "student.weights", "one value for the sweep"),
        ),
        (
            "training.learning_rate: [0.1, 0.2]",
            ("search.extra_space", "training.learning_rate", "not in the search space"),
        ),
        (
            "peers.b.training.learning_rate: [0.1, 0.2]",
            ("search.extra_space", "peers.b.training.learning_rate", "not in the search space"),
        ),
    ],
)
def test_keys_that_cannot_be_searched_are_refused(choices: str, expected: tuple[Any, ...]) -> None:
    with refused(*expected) as refusal:
        check_search(load(None, [PEER, f"search.extra_space={{{choices}}}"]))
    assert "\n" not in str(refusal.value) and "search.extra_space" in str(refusal.value)


@pytest.mark.parametrize(
    ("choices", "hint"),
    [("student.name: [mlp, resnet2]", "resnet"), ("training.batchsize: [32, 64]", "batch_size")],
)
def test_a_misspelled_name_in_extra_space_gets_a_suggestion(choices: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean '{hint}"):
        check_search(load(None, [PEER, f"search.extra_space={{{choices}}}"]))


def test_a_frozen_key_cannot_be_searched() -> None:
    with refused("search.extra_space", "training.momentum", "not in search.freeze"):
        check_search(
            load(
                None,
                [
                    "search.freeze=[training.momentum]",
                    "search.extra_space={training.momentum: [0.1, 0.2]}",
                ],
            )
        )


@pytest.mark.parametrize(
    "choices",
    [
        "student.width: [8, 16], student.depth: [1, 2], peers.b.network.width: [4, 64]",
        "peers.b.network.name: [mlp, cnn], training.nesterov: [true, false], "
        "training.gradient_clip: [1.0, null]",
        "peers.b.training.momentum: [0.5, 0.9], training.batch_size: [32, 64]",
    ],
)
@pytest.mark.parametrize("scheduler", ["asha", "pbt", "none"])
def test_searchable_keys_pass(choices: str, scheduler: str) -> None:
    check_search(
        load(
            None,
            [
                PEER,
                f"search.scheduler={scheduler}",
                f"search.extra_space={{{choices}}}",
                "search.methods=[kd, akd]",
            ],
        )
    )


def test_network_settings_that_conflict_in_combination_are_refused() -> None:
    names = "peers.b.network.name: [mlp, cnn]"
    check_search(load(None, [PEER, f"search.extra_space={{{names}}}"]))
    with refused("peers.b.network.depth", 1, ("width",)):
        check_search(
            load(None, [PEER, f"search.extra_space={{{names}, peers.b.network.depth: [1, 2]}}"])
        )


def test_a_key_may_be_given_in_sections() -> None:
    expected = {"student.width": (8, 16), "peers.b.network.depth": (1, 2)}
    nested = load(
        None,
        [
            "search.extra_space.student.width=[8, 16]",
            "search.extra_space.peers.b.network.depth=[1, 2]",
        ],
    )
    plain = load(
        None, ["search.extra_space={student.width: [8, 16], peers.b.network.depth: [1, 2]}"]
    )
    assert (
        nested.search.extra_space
        == plain.search.extra_space
        == build(plain.plain()).search.extra_space
        == expected
    )


def test_the_largest_network_of_each_student_counts() -> None:
    shape, classes = (1, 8, 8), 10

    def mlp(*widths: int) -> int:
        sizes = [64, *widths, classes]
        return sum((before + 1) * after for before, after in itertools.pairwise(sizes))

    plain = load(
        None, [PEER, "student.width=16", "peers.b.network.width=4", "peers.b.network.depth=1"]
    )
    assert check_students(plain, False, classes, shape) == mlp(16) + mlp(4)
    choices = (
        "search.extra_space={student.width: [8, 32], student.depth: [1, 2], "
        "peers.b.network.width: [4, 64, 16]}"
    )
    chosen = load(None, [PEER, "student.width=16", "peers.b.network.depth=1", choices])
    assert check_students(chosen, True, classes, shape) == mlp(32, 32) + mlp(64)
    assert check_students(chosen, False, classes, shape) != check_students(
        chosen, True, classes, shape
    )


@pytest.mark.parametrize(
    ("section", "choice"),
    [("student", "student.width"), ("peers.b.network", "peers.b.network.depth")],
)
def test_a_network_with_given_weights_does_not_vary(section: str, choice: str) -> None:
    with refused("search.extra_space", choice, f"without {section}.weights"):
        check_search(
            load(
                None,
                [
                    PEER,
                    f"{section}.weights=some.safetensors",
                    f"search.extra_space={{{choice}: [1, 2]}}",
                ],
            )
        )


def test_a_training_ignores_extra_space() -> None:
    check_train(load(None, ["search.extra_space={student.width: [0, 0]}"]))


def test_every_searched_batch_size_is_checked_against_the_data(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    summary = data_summary(train=100)
    configuration = load(
        None,
        [
            "search.extra_space={training.batch_size: [32, 200]}",
            "teacher=null",
            "method.name=cross_entropy",
        ],
    )
    with refused("training.batch_size", 200, (1, 100)):
        _check_with_data(store, configuration, "sweep", True, summary, gpu=False)
    assert _check_with_data(store, configuration, "train", True, summary, gpu=False)[0] is None


@pytest.mark.parametrize(
    ("pairs", "sources"),
    [
        (["search.extra_space={student.width: [4, 8]}"], "search.extra_space"),
        (["search.space={student.width: {choices: [4, 8]}}"], "search.space"),
        (
            [
                "search.extra_space={student.width: [4, 8]}",
                "search.space={student.depth: {choices: [1, 2]}}",
            ],
            "search.extra_space and search.space",
        ),
    ],
)
def test_a_network_is_described_with_the_settings_that_search_it(
    pairs: list[str], sources: str
) -> None:
    found = networks(load(None, ["student.name=mlp", *pairs]), searched=True)
    assert next(iter(found["a"])).startswith(f"{sources}: student with student.width = 4")


def test_too_many_networks_are_refused_with_the_setting_that_searches_them() -> None:
    some = list(range(1, 21))
    space = (
        f"search.space={{student.width: {{choices: {some}}}, student.depth: {{choices: {some}}}}}"
    )
    with refused("search.space.student", 400, (1, 300)) as caught:
        check_search(load(None, ["student.name=mlp", space]))
    assert "extra_space" not in str(caught.value)
