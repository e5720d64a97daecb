"""Test that defaults yield to given values, with a note in the plan; given values do not."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.loader import load
from orchestrator.config.search_space import key_value
from orchestrator.config.yielding import describe_yielded
from orchestrator.sweep.preflight.configuration import check_search
from tests.refusal import refused

FILE = """
training: {epochs: 240, warmup_epochs: 6}
search: {grace_epochs: 5, methods: [kd, akd]}
teacher: {training: {epochs: 30, warmup_epochs: 3}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "given.yaml"
    written.write_text(FILE)
    return written


@pytest.mark.parametrize(
    ("pairs", "changed"),
    [
        (("training.epochs=4",), {"search.grace_epochs": 4, "training.warmup_epochs": 0.1}),
        (("teacher.training.epochs=2",), {"teacher.training.warmup_epochs": 0.2}),
        (("training.epochs=7",), {}),
        (("training={epochs: 4}",), {"search.grace_epochs": 4}),
        (
            ("training.epochs=4", "search.scheduler=pbt"),
            {"search.perturb_epochs": 1, "training.warmup_epochs": 0.1},
        ),
        (("training.epochs=4", "search.scheduler=none"), {"training.warmup_epochs": 0.1}),
        (("method.name=ttm",), {"search.methods": []}),
        (("method.name=kd",), {}),
        (("method.name=kd", "search.methods=[kd, ttm]"), {}),
        (("search.methods=[ttm]",), {}),
        (("search.objective=validation/nll",), {"search.direction": "minimize"}),
        (("search.objective=validation/entropy",), {}),
        (("search.objectives=[validation/accuracy, train/loss]",), {"search.scheduler": "none"}),
        (
            (
                "search.configurations=[{method.name: kd}, {method.name: akd}]",
                "search.seeds=[1, 2, 3]",
            ),
            {"search.trials": 6},
        ),
    ],
)
def test_yielding_values_are_valid_and_reported(
    file: Path, pairs: tuple[str, ...], changed: dict[str, object]
) -> None:
    loaded = load(file, list(pairs))
    check_search(loaded)
    assert set(loaded.yielded) == set(changed)
    for key, value in changed.items():
        assert key_value(loaded, key) == value
        assert (
            f"{key} = {f'{value:g}' if isinstance(value, float) else value} (not "
            in loaded.yielded[key]
        )
    assert describe_yielded(loaded, "sweep") == list(loaded.yielded.values())
    assert all(not sentence.startswith("search.") for sentence in describe_yielded(loaded, "train"))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            ("training.epochs=3", "training.warmup_epochs=3"),
            ("training.warmup_epochs", 3.0, (0, 3)),
        ),
        (("training.epochs=3", "search.grace_epochs=4"), ("search.grace_epochs", 4, (1, 3))),
        (("search.grace_epochs=241",), ("search.grace_epochs", 241, (1, 240))),
        (
            ("search.configurations=[{method.name: kd}]", "search.trials=2"),
            ("search.trials", 2, (1, 1)),
        ),
        (("search.methods=[kd]", "method.name=wttm"), ("method.name", "wttm", ("kd",))),
        (("method.name=wttm", "search.methods=[kd, akd]"), ("method.name", "wttm", ("kd", "akd"))),
        (("search={methods: [akd]}", "method={name: kd}"), ("method.name", "kd", ("akd",))),
        (("search.methods=[akd]", "method.temperature=2"), ("method.name", "kd", ("akd",))),
        (
            ("search.objective=validation/nll", "search.direction=maximize"),
            ("search.direction", "maximize", ("minimize",)),
        ),
    ],
)
def test_typed_values_never_yield(
    file: Path, pairs: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    with refused(*expected):
        check_search(load(file, list(pairs)))


STEPS = """
training: {epochs: 240, warmup_epochs: 6, schedule: multi_step, milestones: [150, 180, 210]}
teacher: {training: {epochs: 100, schedule: multi_step, milestones: [50, 75]}}
peers: {b: {network: {name: mlp}, training: {milestones: [120, 239]}}}
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    written = tmp_path / "steps.yaml"
    written.write_text(STEPS)
    return written


@pytest.mark.parametrize(
    ("pairs", "changed"),
    [
        (
            ("training.epochs=200",),
            {"training": [125, 150, 175], "peers.b.training": [100, 199]},
        ),  # 125 is 150 / 240 * 200
        (("training.epochs=10",), {"training": [6, 8, 9], "peers.b.training": [5, 9]}),
        # below the epochs, without duplicates
        (("training.epochs=2",), {"training": [1], "peers.b.training": [1]}),
        (("training.epochs=239",), {"peers.b.training": [120, 238]}),
        (("training.epochs=240",), {}),
        (("training.epochs=500",), {}),
        (("training={epochs: 12, milestones: [3, 11]}",), {"peers.b.training": [6, 11]}),
        (("teacher.training.epochs=20",), {"teacher.training": [10, 15]}),
    ],
)
def test_milestones_keep_their_share_of_the_epochs(
    steps: Path, pairs: tuple[str, ...], changed: dict[str, list[int]]
) -> None:
    loaded = load(steps, list(pairs))
    noted = {
        key: sentence for key, sentence in loaded.yielded.items() if key.endswith("milestones")
    }
    assert set(noted) == {f"{section}.milestones" for section in changed}
    for section, milestones in changed.items():
        assert list(key_value(loaded, f"{section}.milestones")) == milestones
        assert f"{section}.milestones = {milestones} (not [" in noted[f"{section}.milestones"]


def test_one_epoch_has_no_milestone_and_a_constant_rate(steps: Path) -> None:
    loaded = load(steps, ["training.epochs=1"])
    assert loaded.training.schedule == loaded.students["b"].training.schedule == "constant"
    assert (
        "training.schedule = constant (not multi_step, from " in loaded.yielded["training.schedule"]
    )
    assert loaded.teacher is not None and loaded.teacher.training.schedule == "multi_step"


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            ("training.epochs=10", "training.milestones=[5, 10]"),
            ("training.milestones", (5, 10), (1, 9)),
        ),
        (("training.milestones=[5, 240]",), ("training.milestones", (5, 240), (1, 239))),
        (("training.epochs=1", "training.milestones=[1]"), ("training.milestones", (1,), None)),
        (
            ("training.epochs=1", "training.schedule=multi_step"),
            ("training.milestones", (150, 180, 210), None),
        ),
        (("teacher.training.milestones=[100]",), ("teacher.training.milestones", (100,), (1, 99))),
        (("peers.b.training.milestones=[240]",), ("peers.b.training.milestones", (240,), (1, 239))),
    ],
)
def test_milestones_that_were_typed_are_below_the_epochs(
    steps: Path, pairs: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    with refused(*expected):
        load(steps, list(pairs))


def test_milestones_without_meaning_are_not_checked(steps: Path) -> None:
    pairs = [
        "training.schedule=cosine",
        "training.milestones=[500]",
        "peers.b.training.milestones=[500]",
    ]
    assert load(steps, pairs).training.milestones == (500,)


def test_file_values_do_not_yield_to_the_file_but_defaults_do(tmp_path: Path) -> None:
    written = tmp_path / "given.yaml"
    written.write_text("training: {epochs: 1}\n")
    assert load(written, []).search.grace_epochs == 1
    written.write_text("training: {epochs: 3}\nsearch: {grace_epochs: 5}\n")
    with refused("search.grace_epochs", 5, (1, 3)):
        check_search(load(written, []))


def test_an_option_counts_as_typed_and_its_text_is_not_parsed_as_yaml(file: Path) -> None:
    loaded = load(file, [], {"search.scheduler": "pbt", "training.epochs": 3})
    assert loaded.search.perturb_epochs == 1
    with refused("search.scheduler", "a: b"):
        load(None, [], {"search.scheduler": "a: b"})
