"""SIGKILL a worker of two, the dispatcher or an influence actor: no trial is lost."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.store.records import Sweep
from tests.faults.broken import Life, check_all, reached, record, resumed, start_sweep
from tests.faults.conftest import WHOLE, AddRow

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


def end_one(life: Life, title: str, draw: random.Random) -> None:
    """Send SIGKILL to one of the processes with that title."""
    found = life.until(lambda: life.below(title), title)
    os.kill(draw.choice(found).pid, signal.SIGKILL)


def killed_in(store: Path, pairs: tuple[str, ...], title: str, moments: list[int]) -> Life:
    """Run a sweep; kill its process of that title at each number of epochs."""
    draw = random.Random(0)
    with start_sweep(store, *pairs) as life:
        for moment in moments:
            life.until(reached(store, moment), f"epoch {moment}")
            end_one(life, title, draw)
        life.ended()
    return life


@pytest.mark.parametrize(
    ("pairs", "title", "moments", "fault"),
    [
        (PAIR, "ray::RayTrainWorker", [4, 16, 28], "SIGKILL of a worker of a group of two"),
        (PEERS, "ray::RayTrainWorker", [4, 16], "SIGKILL of one of a pair of students"),
        (WEIGHED, "ray::InfluenceActor", [3, 15], "SIGKILL of an influence actor"),
    ],
)
def test_who_trains_is_killed(
    pairs: tuple[str, ...],
    title: str,
    moments: list[int],
    fault: str,
    unbroken: Unbroken,
    tmp_path: Path,
    add_row: AddRow,
) -> None:
    expected = unbroken(*pairs)
    life = killed_in(tmp_path / "store", pairs, title, moments)
    assert life.process.returncode == 0, life.output
    check_all(tmp_path / "store", expected)
    add_row(fault, f"{len(moments)} times in one sweep", len(expected.trials))


def test_the_dispatcher_is_killed(whole: Sweep, tmp_path: Path, add_row: AddRow) -> None:
    """The driver may go on, or end with a resume command; no trial may fail because of it."""
    store = tmp_path / "store"
    life = killed_in(store, WHOLE, "ray::Dispatcher", [30])
    found = record(store)
    assert found is not None and not [
        trial.message for trial in found.trials.values() if trial.state == "failed"
    ], life.output
    if found.state != "finished":
        assert "--resume" in life.output, life.output
        with resumed(store) as again:
            assert again.ended() == 0, again.output
    check_all(store, whole)
    add_row("SIGKILL of the dispatcher", "once, in the third trial", len(whole.trials))


def test_a_group_that_is_killed_whole(whole: Sweep, tmp_path: Path, add_row: AddRow) -> None:
    """The group's controller in Ray Train, and with it its worker."""
    store = tmp_path / "store"
    life = killed_in(store, WHOLE, "ray::TrainController", [20])
    if life.process.returncode:
        with resumed(store) as again:
            assert again.ended() == 0, again.output
    check_all(store, whole)
    add_row(
        "SIGKILL of the controller of the only group",
        "once, in the second trial",
        len(whole.trials),
    )
