"""SIGKILL the driver at any moment, then `sweep --resume`: results are bit-identical."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config.trial import CHECKPOINT
from orchestrator.store.records import Sweep
from tests.faults.broken import (
    DriverProcess,
    check_all,
    has_epochs,
    load_sweep,
    resume_sweep,
    start_sweep,
)
from tests.faults.conftest import UNDISTURBED_SETTINGS, AddRow

KILLS = 10
RUNGS = (
    "training.epochs=9",
    "search.trials=8",
    "search.scheduler=asha",
    "search.grace_epochs=1",
    "search.protect_initial_trials=false",
    "search.keep_checkpoints=1",
)
STEPS = ("starting Ray", "worker group", "preparing the teacher")


def a_moment(driver: DriverProcess, seconds: float) -> None:
    """Let the process run for `seconds`."""
    deadline = time.monotonic() + seconds
    driver.wait_for(lambda: time.monotonic() >= deadline, "the moment")


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0])
def test_driver_killed_ten_times(
    seed: int, undisturbed: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    """Twice during the start, eight times during training at a random moment after an epoch."""
    chance, store = random.Random(seed), tmp_path / "store"
    total = sum(trial.epochs for trial in undisturbed.trials.values())
    with start_sweep(store, *UNDISTURBED_SETTINGS) as driver:
        step = chance.choice(STEPS)
        driver.wait_for(lambda: step in driver.output, step)
        a_moment(driver, chance.uniform(0.0, 2.0))
        driver.kill()
    for count in [0, *sorted(chance.sample(range(1, total - total // 8), KILLS - 2))]:
        with resume_sweep(store) as driver:
            driver.wait_for(has_epochs(store, count), f"epoch {count}")
            a_moment(driver, chance.uniform(0.0, 0.3 if count else 8.0))
            driver.kill()
    with resume_sweep(store) as driver:
        assert driver.wait_until_ended() == 0, driver.output
    check_all(store, undisturbed)
    add_row(
        "SIGKILL of the driver, then `--resume`",
        f"{KILLS} times in one sweep",
        len(undisturbed.trials),
    )


@pytest.mark.faults
def test_rungs_survive_the_death_of_the_driver(
    run_undisturbed: Callable[..., Sweep], tmp_path: Path, add_row: AddRow
) -> None:
    """The scheduler stops the same trials; the weights of stopped trials are deleted."""
    expected, store = run_undisturbed(*RUNGS), tmp_path / "store"
    assert {"stopped_early", "complete"} <= {trial.state for trial in expected.trials.values()}
    total = sum(trial.epochs for trial in expected.trials.values())
    with start_sweep(store, *RUNGS) as driver:
        driver.wait_for(has_epochs(store, total // 4), "a quarter")
        driver.kill()
    for part in (2, 3):
        with resume_sweep(store) as driver:
            driver.wait_for(has_epochs(store, part * total // 4), "the next quarter")
            driver.kill()
    with resume_sweep(store) as driver:
        assert driver.wait_until_ended() == 0, driver.output
    check_all(store, expected)
    found = load_sweep(store)
    best = found.best() if found else None
    assert found and best
    kept = [
        number
        for number in found.trials
        if (found.trial_folder(number) / CHECKPOINT / "best.safetensors").exists()
    ]
    assert kept == [best.number]
    add_row(
        "SIGKILL of the driver under asha, which keeps one checkpoint",
        "3 times in one sweep",
        len(expected.trials),
    )
