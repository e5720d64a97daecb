"""Kill a driver, resume its sweep, and compare the results with trials trained alone."""

from pathlib import Path

import pytest

from orchestrator.config.search_space import draw
from orchestrator.config.trial import apply
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._study import open_study
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.preflight.preflight import prepare_run
from tests.faults.broken import (
    check_runs,
    check_study,
    has_epochs,
    load_sweep,
    resume_sweep,
    start_sweep,
    without_times,
)
from tests.sweep_runs import Watch

# `make faults` kills a driver ten times; an interrupted sweep is resumed in test_commands.py
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("own_ray")]


def test_killed_sweep_resumes_with_identical_results(tmp_path: Path) -> None:
    """Trials have the parameters of a study alone, and the results of a training alone."""
    store, trials, each = tmp_path / "store", 6, 4
    with start_sweep(store, f"search.trials={trials}", f"training.epochs={each}") as driver:
        driver.wait_for(has_epochs(store, each + 2), "second trial")
        driver.kill()
    with resume_sweep(store) as driver:
        assert driver.wait_until_ended() == 0, driver.output
    found = load_sweep(store)
    assert (
        found is not None
        and found.state == "finished"
        and sorted(found.trials) == list(range(trials))
    )
    check_study(found)
    check_runs(found)
    (tmp_path / found.name).mkdir()
    study = open_study(tmp_path / found.name, found.configuration, resume=False)
    for number in range(trials):
        mine, params = found.trials[number], draw(study.ask(), found.configuration)
        assert mine.params == params and mine.state == "complete" and len(mine.history) == each
        if number < 3:  # ended, unfinished and not started at the driver's death
            assert results(mine) == results(alone(found, number)), f"trial {number}"


def alone(sweep: Sweep, number: int) -> Trial:
    """Return the same trial, trained in this process."""
    store = Store(sweep.folder.parents[1])
    configuration = apply(sweep.configuration, sweep.trials[number].params)
    ready = prepare_run(store, configuration, "train", local_processes=1)
    training = Sweep.create(store.sweep(f"alone-{number}"), ready.configuration, "train")
    run_sweep(training, store, ready.data, ready.teacher_access, Watch(), local_processes=1)
    return training.trials[0]


def results(trial: Trial) -> dict[str, object]:
    """Return the values that must be bit-identical."""
    return {"value": trial.value, "history": trial.history, "metrics": without_times(trial.metrics)}
