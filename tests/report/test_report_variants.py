"""Test the page of unusual sweeps: peers, populations, several objectives, failed trials."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from tests.report.page_read import SECTIONS, change, page_of
from tests.report.report_made import EPOCHS, give_data, give_weights, made, study


def peers(sweep: Sweep) -> None:
    sweep.configuration = load(
        None,
        [
            "method.name=dml",
            "peers.b.network.name=mlp",
            f"training.epochs={EPOCHS}",
            "resources.workers=2",
        ],
    )
    sweep.save()
    for number, trial in sweep.trials.items():
        own = {
            f"{letter}/{name}": value for letter in "ab" for name, value in trial.metrics.items()
        }
        change(sweep, number, params={"lambda_peer": 1.0 + number}, metrics=trial.metrics | own)


def population(sweep: Sweep) -> None:
    sweep.configuration = load(
        None, [f"training.epochs={EPOCHS}", "search.scheduler=pbt", "search.trials=12"]
    )
    sweep.save()
    for number, trial in sweep.trials.items():
        change(
            sweep,
            number,
            changes=[{"epoch": 3, "source": (number + 1) % 12, "params": trial.params}],
        )


def several(sweep: Sweep) -> None:
    pairs = [
        "search.objectives=[validation/accuracy, validation/nll]",
        "search.scheduler=none",
        f"training.epochs={EPOCHS}",
    ]
    sweep.configuration = load(None, pairs)
    sweep.save()
    for number, trial in sweep.trials.items():
        change(sweep, number, values=[trial.value, 1 - (trial.value or 0) * (number % 4)])


def diverged(sweep: Sweep) -> None:
    for number, trial in sweep.trials.items():
        change(
            sweep,
            number,
            metrics=trial.metrics | {"test/best/nll": float("nan"), "seconds/epoch": float("inf")},
        )


def without_history(sweep: Sweep) -> None:
    for number in sweep.trials:
        change(sweep, number, history=[None, None, 0.5], metrics={})


def all_failed(sweep: Sweep) -> None:
    for number in sweep.trials:
        change(
            sweep,
            number,
            state="failed",
            value=None,
            message="no luck",
            history=[],
            epochs=0,
            metrics={},
        )


def all_stopped(sweep: Sweep) -> None:
    for number, trial in sweep.trials.items():
        change(sweep, number, state="stopped_early", metrics=dict(list(trial.metrics.items())[:3]))


def waiting(sweep: Sweep) -> None:
    for number in (1, 3, 5):
        change(sweep, number, state="waiting", value=None, history=[], epochs=0, metrics={})


VARIANTS: dict[str, tuple[Callable[[Sweep], None], str]] = {
    "peers": (peers, "the student mlp and mlp"),
    "population": (population, "copied the weights of trial"),
    "several": (several, "Pareto front"),
    "diverged": (diverged, "validation/accuracy after each epoch"),
    "without_history": (without_history, "validation/accuracy after each epoch"),
    "all_failed": (all_failed, "no trial has ended with a value"),
    "all_stopped": (all_stopped, "No trial has trained all its 9 epochs"),
    "waiting": (waiting, "3 trials have not ended"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_no_kind_of_sweep_is_too_much(tmp_path: Path, name: str) -> None:
    alter, message = VARIANTS[name]
    sweep = made(tmp_path / "store", 12)
    alter(sweep)
    study(sweep, again=True)
    found = page_of(sweep)
    assert message in found.text
    assert [str(given["id"]) for tag, given in found.tags if tag == "section"] == SECTIONS


def test_several_objectives_have_their_front(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 12)
    several(sweep)
    found = page_of(sweep)
    numbers = ", ".join(
        str(trial.number) for trial in Sweep.open(Store(tmp_path / "store"), "mine").front()
    )
    assert (
        "chart-objectives" in found.all("aria-labelledby")
        and f"On the Pareto front: trials {numbers};" in found.text
    )


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_better_follows_the_direction(tmp_path: Path, direction: str) -> None:
    sweep = made(
        tmp_path / "store", 3, "finished", "sweep", "mine", f"search.direction={direction}"
    )
    for number, value in ((0, 0.5), (1, 0.75), (2, 0.5)):
        change(sweep, number, state="complete", value=value)
    first, others = (
        (1, "0.2500 better than")
        if direction == "maximize"
        else (0, "equal to the best akd (trial 2), 0.2500 better than")
    )
    assert (
        f"In validation/accuracy: {others} the best" in page_of(sweep).text
        and f"Trial {first} (" in page_of(sweep).text
    )


def test_each_of_several_students_has_its_charts(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 3)
    peers(sweep)
    give_data(tmp_path / "store", sweep)
    best = Sweep.open(Store(tmp_path / "store"), "mine").best()
    assert best is not None
    give_weights(sweep, best.number, "b")
    found = page_of(sweep)
    assert {"chart-confusion-b", "chart-reliability-b"} <= set(
        found.all("aria-labelledby")
    ) and "Student b" in found.text
    assert "its weights are not in the store" in found.text  # those of student a
    give_weights(sweep, best.number, ".")
    found = page_of(sweep)
    assert {"chart-confusion-a", "chart-confusion-b"} <= set(found.all("aria-labelledby"))
    assert len(found.all("id")) == len(set(found.all("id")))


@pytest.mark.parametrize(("rate", "near"), [(0.0051, True), (0.05, False)])
def test_best_trial_at_the_end_of_a_range_is_reported(
    tmp_path: Path, rate: float, near: bool
) -> None:
    sweep = made(tmp_path / "store", 24)
    change(
        sweep,
        0,
        value=0.99,
        params={"method.name": "cross_entropy", "training.learning_rate": rate},
    )
    study(sweep, again=True)
    message = (
        f"Search a wider space: the best trial is at an end of a searched range, "
        f"training.learning_rate = {rate} of 0.005 to 0.5"
    )
    assert (message in page_of(sweep).text) == near
