"""Truncate files of a store between the death of a driver and the resume: nothing is lost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store.records import Sweep
from tests.faults.broken import NAME, check_all, epochs, load_sweep, resume_sweep, start_sweep
from tests.faults.conftest import UNDISTURBED_SETTINGS, AddRow

pytestmark = pytest.mark.faults
EPOCHS = 20  # after which the driver is killed: in the second of six trials


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store whose driver was killed in the second trial; `kept` is its copy."""
    store: Path = tmp_path_factory.mktemp("killed") / "store"
    with start_sweep(store, *UNDISTURBED_SETTINGS) as driver:
        driver.wait_for(lambda: epochs(store) >= EPOCHS, f"epoch {EPOCHS}")
        driver.kill()
    shutil.copytree(store, store.with_name("kept"))
    return store


def unfinished(store: Path) -> Path:
    """Return the folder of the unfinished trial."""
    found = load_sweep(store)
    assert found is not None
    return next(
        found.trial_folder(trial.number)
        for trial in found.trials.values()
        if trial.epochs and not trial.ended
    )


def sweep_file(name: str) -> Callable[[Path], Path]:
    """Return a function that finds a file of the sweep's own folder."""
    return lambda store: store / "sweeps" / NAME / name


def any_of(pattern: str) -> Callable[[Path], Path]:
    """Return a function that finds the first file of the store that matches."""
    return lambda store: min(store.glob(pattern))


def of_trial(name: str) -> Callable[[Path], Path]:
    """Return a function that finds a file of the unfinished trial."""
    return lambda store: unfinished(store) / name


FILES: dict[str, Callable[[Path], Path]] = {
    "the weights of a checkpoint": of_trial("checkpoint/student.safetensors"),
    "the optimizer of a checkpoint": of_trial("checkpoint/optimizer.pt"),
    "the progress of a checkpoint": of_trial("checkpoint/progress.json"),
    "the last line of the study": sweep_file("study.log"),
    "the record of a trial": of_trial("trial.json"),
    "the record of a trial that has ended": lambda store: (
        store / "sweeps" / NAME / "trials" / "00000" / "trial.json"
    ),
    "the record of the sweep": sweep_file("sweep.json"),
    "the ids of the runs in MLflow": sweep_file("mlflow.json"),
    "a file of the teacher's cache": any_of("knowledge/*/*.npy"),
    "the manifest of the prepared data": any_of("data/*/data.json"),
    "the weights of the teacher": any_of("teachers/*/weights.safetensors"),
    "the card of the teacher": any_of("teachers/*/teacher.json"),
}


def cut(file: Path, description: str) -> None:
    """Truncate a file like an unfinished write: to its half, a journal within its last line."""
    content = file.read_bytes()
    kept = content.rstrip(b"\n")[:-9] if "line" in description else content[: len(content) // 2]
    assert 0 < len(kept) < len(content)
    file.write_bytes(kept)


def damaged(killed: Path, description: str) -> Path:
    """Restore the store after the death, truncate the file, and return it."""
    shutil.rmtree(killed)
    shutil.copytree(killed.with_name("kept"), killed)
    file = FILES[description](killed)
    cut(file, description)
    return file


@pytest.mark.parametrize("description", FILES)
def test_sweep_resumes_with_a_damaged_file(
    description: str, killed: Path, undisturbed: Sweep, add_row: AddRow
) -> None:
    damaged(killed, description)
    with resume_sweep(killed) as driver:
        assert driver.wait_until_ended() == 0, driver.output
    check_all(killed, undisturbed)
    add_row(
        f"{description} cut off, between SIGKILL and `--resume`", "once", len(undisturbed.trials)
    )
