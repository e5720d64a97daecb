"""SIGKILL the driver at any moment, then `sweep --resume`: results are bit-identical."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.search_space import draw
from orchestrator.config.trial import CHECKPOINT, apply
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._study import open_study
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.preflight.preflight import prepare_run
from tests.faults.broken import (
    Life,
    check_all,
    check_runs,
    check_study,
    reached,
    record,
    resumed,
    start_sweep,
    untimed,
)
from tests.faults.conftest import WHOLE, Tell
from tests.sweep.conftest import Watch

KILLS = 10
RUNGS = (
    "training.epochs=9",
    "search.trials=8",
    "search.scheduler=asha",
    "search.grace_epochs=1",
    "search.protect_initial_trials=false",
    "search.keep_checkpoints=1",
)
STEPS = ("starting Ray", "worker groups", "preparing the teacher")


def a_moment(life: Life, seconds: float) -> None:
    """Let the process run for `seconds`."""
    until = time.monotonic() + seconds
    life.until(lambda: time.monotonic() >= until, "the moment")


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0])
def test_a_sweep_whose_driver_is_killed_ten_times(
    seed: int, whole: Sweep, tmp_path: Path, tell: Tell
) -> None:
    """Twice during the start, eight times during training at a random moment after an epoch."""
    chance, store = random.Random(seed), tmp_path / "store"
    total = sum(trial.epochs for trial in whole.trials.values())
    with start_sweep(store, *WHOLE) as life:
        step = chance.choice(STEPS)
        life.until(lambda: step in life.said, step)
        a_moment(life, chance.uniform(0.0, 2.0))
        life.kill()
    for count in [0, *sorted(chance.sample(range(1, total - total // 8), KILLS - 2))]:
        with resumed(store) as life:
            life.until(reached(store, count), f"epoch {count}")
            a_moment(life, chance.uniform(0.0, 0.3 if count else 8.0))
            life.kill()
    with resumed(store) as life:
        assert life.ended() == 0, life.said
    check_all(store, whole)
    tell("SIGKILL of the driver, then `--resume`", f"{KILLS} times in one sweep", len(whole.trials))


@pytest.mark.faults
def test_rungs_outlive_the_driver(
    unbroken: Callable[..., Sweep], tmp_path: Path, tell: Tell
) -> None:
    """The scheduler stops the same trials; the weights of stopped trials are deleted."""
    expected, store = unbroken(*RUNGS), tmp_path / "store"
    assert {"stopped_early", "complete"} <= {trial.state for trial in expected.trials.values()}
    total = sum(trial.epochs for trial in expected.trials.values())
    with start_sweep(store, *RUNGS) as life:
        life.until(reached(store, total // 4), "a quarter")
        life.kill()
    for part in (2, 3):
        with resumed(store) as life:
            life.until(reached(store, part * total // 4), "the next quarter")
            life.kill()
    with resumed(store) as life:
        assert life.ended() == 0, life.said
    check_all(store, expected)
    found = record(store)
    best = found.best() if found else None
    assert found and best
    kept = [
        number
        for number in found.trials
        if (found.trial_folder(number) / CHECKPOINT / "best.safetensors").exists()
    ]
    assert kept == [best.number]
    tell(
        "SIGKILL of the driver under asha, which keeps one checkpoint",
        "3 times in one sweep",
        len(expected.trials),
    )


@pytest.mark.ray
def test_a_killed_sweep_goes_on_as_if_nothing_had_been(tmp_path: Path, tell: Tell) -> None:
    """Trials have the parameters of a study alone, and the results of a training alone."""
    store, trials, each = tmp_path / "store", 6, 4
    with start_sweep(store, f"search.trials={trials}", f"training.epochs={each}") as life:
        life.until(reached(store, each + 2), "second trial")
        life.kill()
    with resumed(store) as life:
        assert life.ended() == 0, life.said
    found = record(store)
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
    tell(
        "SIGKILL of the driver, then `--resume` (in `make test`)",
        "once, in the second trial",
        trials,
    )


def alone(sweep: Sweep, number: int) -> Trial:
    """Return the same trial, trained in this process."""
    store = Store(sweep.folder.parents[1])
    configuration = apply(sweep.configuration, sweep.trials[number].params)
    ready = prepare_run(store, configuration, "train", local=True)
    training = Sweep.create(store.sweep(f"alone-{number}"), ready.configuration, "train")
    run_sweep(training, store, ready.data, ready.teacher_access, Watch(), local=True)
    return training.trials[0]


def results(trial: Trial) -> dict[str, object]:
    """Return the values that must be bit-identical."""
    return {"value": trial.value, "history": trial.history, "metrics": untimed(trial.metrics)}
