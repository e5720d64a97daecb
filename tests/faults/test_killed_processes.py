"""SIGKILL a worker of two, the dispatcher or an influence actor: no trial is lost."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

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

pytestmark = pytest.mark.faults
Unbroken = Callable[..., Sweep]
PAIR = ("resources.workers=2", "search.trials=3", "training.epochs=12")
PEERS = (
    "resources.workers=2",
    "peers.b.network.name=mlp",
    "method.name=dual_student",
    "search.trials=2",
    "training.epochs=12",
)
WEIGHED = (
    "method.name=kd_aif",
    "data.label_noise=0.3",
    "resources.influence_backend=actor",
    "search.trials=3",
    "training.epochs=12",
)


def end_one(driver: DriverProcess, title: str, draw: random.Random) -> None:
    """Send SIGKILL to one of the processes with that title."""
    found = driver.wait_for(lambda: driver.descendants(title), title)
    os.kill(draw.choice(found).pid, signal.SIGKILL)


def killed_in(store: Path, pairs: tuple[str, ...], title: str, moments: list[int]) -> DriverProcess:
    """Run a sweep; kill its process of that title at each number of epochs."""
    draw = random.Random(0)
    with start_sweep(store, *pairs) as driver:
        for moment in moments:
            driver.wait_for(has_epochs(store, moment), f"epoch {moment}")
            end_one(driver, title, draw)
        driver.wait_until_ended()
    return driver


@pytest.mark.parametrize(
    ("pairs", "title", "moments", "fault"),
    [
        (PAIR, "ray::RayTrainWorker", [4, 16, 28], "SIGKILL of a worker of a group of two"),
        (PEERS, "ray::RayTrainWorker", [4, 16], "SIGKILL of one of a pair of students"),
        (WEIGHED, "ray::InfluenceActor", [3, 15], "SIGKILL of an influence actor"),
    ],
)
def test_training_process_is_killed(
    pairs: tuple[str, ...],
    title: str,
    moments: list[int],
    fault: str,
    run_undisturbed: Unbroken,
    tmp_path: Path,
    add_row: AddRow,
) -> None:
    expected = run_undisturbed(*pairs)
    driver = killed_in(tmp_path / "store", pairs, title, moments)
    assert driver.process.returncode == 0, driver.output
    check_all(tmp_path / "store", expected)
    add_row(fault, f"{len(moments)} times in one sweep", len(expected.trials))


def test_dispatcher_is_killed(undisturbed: Sweep, tmp_path: Path, add_row: AddRow) -> None:
    """The driver may go on, or end with a resume command; no trial may fail because of it."""
    store = tmp_path / "store"
    driver = killed_in(store, UNDISTURBED_SETTINGS, "ray::Dispatcher", [30])
    found = load_sweep(store)
    assert found is not None and not [
        trial.message for trial in found.trials.values() if trial.state == "failed"
    ], driver.output
    if found.state != "finished":
        assert "--resume" in driver.output, driver.output
        with resume_sweep(store) as again:
            assert again.wait_until_ended() == 0, again.output
    check_all(store, undisturbed)
    add_row("SIGKILL of the dispatcher", "once, in the third trial", len(undisturbed.trials))


def test_all_workers_of_a_group_are_killed(
    undisturbed: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    """The group's controller in Ray Train, and with it its worker."""
    store = tmp_path / "store"
    driver = killed_in(store, UNDISTURBED_SETTINGS, "ray::TrainController", [20])
    if driver.process.returncode:
        with resume_sweep(store) as again:
            assert again.wait_until_ended() == 0, again.output
    check_all(store, undisturbed)
    add_row(
        "SIGKILL of the controller of the only group",
        "once, in the second trial",
        len(undisturbed.trials),
    )
