"""Test that records which reach the driver together change no decision, and are written once."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.execution.tune_controller import TuneController

from orchestrator.config.loader import load
from orchestrator.core.reports import EpochRecord
from orchestrator.store.records import TRIAL, Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._early_stopping import build_stopping_rule, list_decision_epochs
from orchestrator.sweep._scheduler import StoppingScheduler
from orchestrator.sweep.events import Events

VALUE = "validation/accuracy"
EPOCHS, TRIALS = 27, 12
CONTROLLER: Any = SimpleNamespace(get_live_trials=list)


class Running:
    """The scheduler's view of a trial."""

    def __init__(self, number: int) -> None:
        self.config, self.trial_id = {"number": number}, f"id-{number}"


def sweep_of(folder: Path, scheduler: str, *pairs: str) -> Sweep:
    settings = ["method.name=kd", f"training.epochs={EPOCHS}", f"search.scheduler={scheduler}"]
    configuration = load(None, [*settings, *pairs])
    return Sweep.create(Store.open(folder).sweep("mine"), configuration, "sweep")


def build_scheduler(sweep: Sweep) -> StoppingScheduler:
    return StoppingScheduler(build_stopping_rule(sweep.configuration), VALUE)


def play(scheduler: StoppingScheduler, together: int, seed: int = 0) -> dict[int, int]:
    """Return the last epoch of each trial, which is that of its stop if the scheduler stops it.

    Trials train one after the other. Tune receives the results of `together` epochs at a time.
    """
    draw, last_epochs, stopped = random.Random(seed), dict[int, int](), set[int]()

    def process(trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        last_epochs[number] = result["epoch"]
        decision = str(scheduler.on_trial_result(CONTROLLER, trial, result))
        if decision == "STOP":
            stopped.add(number)
        return decision

    controller: Any = SimpleNamespace(_process_trial_result=process)
    for number in range(TRIALS):
        trial, quality = Running(number), draw.random()
        scheduler.on_trial_add(CONTROLLER, trial)
        results = [
            {"epoch": epoch, VALUE: quality + 0.1 * draw.random()} for epoch in range(1, EPOCHS + 1)
        ]
        while results and number not in stopped:
            batch, results = results[:together], results[together:]
            TuneController._process_trial_results(controller, trial, batch)
    return last_epochs


@pytest.mark.parametrize("scheduler", ["asha", "median"])
@pytest.mark.parametrize("together", [2, 5, EPOCHS])
def test_decisions_are_those_of_single_results(
    scheduler: str, together: int, tmp_path: Path
) -> None:
    sweep = sweep_of(tmp_path, scheduler, "search.grace_epochs=2", "search.reduction_factor=3")
    single, grouped = (play(build_scheduler(sweep), number) for number in (1, together))
    assert single == grouped and min(single.values()) < EPOCHS == max(single.values())


@pytest.mark.parametrize(("grace", "factor"), [(1, 2), (2, 3), (4, 3), (9, 3), (5, 4)])
def test_asha_stops_trials_at_its_decision_epochs_alone(
    grace: int, factor: int, tmp_path: Path
) -> None:
    settings = (f"search.grace_epochs={grace}", f"search.reduction_factor={factor}")
    sweep = sweep_of(tmp_path, "asha", *settings)
    stops = {
        epoch for seed in range(8) for epoch in play(build_scheduler(sweep), 1, seed).values()
    } - {EPOCHS}
    assert stops == set(list_decision_epochs(sweep.configuration))


def test_records_that_arrive_together_are_written_once(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "none")
    events, trial = Events(sweep, []), Trial(0, {})
    events.start(trial)
    file = sweep.trial_file(0)
    written = file.read_bytes()
    for epoch in (1, 2):
        events.report(trial, EpochRecord(epoch, {VALUE: 0.1 * epoch}, behind=True))
        assert file.read_bytes() == written
    events.report(trial, EpochRecord(3, {VALUE: 0.3}))
    assert TRIAL.read(file) == trial and trial.history == pytest.approx([0.1, 0.2, 0.3])


def test_a_stop_among_records_that_arrive_together_is_written(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "none")
    events, trial = Events(sweep, []), Trial(0, {})
    events.start(trial)
    events.report(trial, EpochRecord(1, {VALUE: 0.5}, behind=True))
    events.end(trial, "stopped_early")
    assert TRIAL.read(sweep.trial_file(0)) == trial and trial.epochs == 1
