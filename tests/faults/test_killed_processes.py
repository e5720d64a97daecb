"""SIGKILL of what trains and serves below the driver: a worker of two, the dispatcher, an influence actor. No trial is lost."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.records import Sweep
from tests.faults.broken import Life, begun, check_all, reached, record, resumed
from tests.faults.conftest import WHOLE, Tell

pytestmark = pytest.mark.faults
Unbroken = Callable[..., Sweep]
PAIR = ("resources.workers=2", "search.trials=3", "training.epochs=12")
PEERS = ("resources.workers=2", "peers.b.network.name=mlp", "method.name=dual_student", "search.trials=2", "training.epochs=12")
WEIGHED = ("method.name=kd_aif", "data.label_noise=0.3", "resources.influence=actor", "search.trials=3", "training.epochs=12")


def end_one(life: Life, title: str, draw: random.Random) -> None:
    """SIGKILL for one of the processes of that title."""
    found = life.until(lambda: life.below(title), title)
    os.kill(draw.choice(found).pid, signal.SIGKILL)


def killed_in(store: Path, pairs: tuple[str, ...], title: str, moments: list[int]) -> Life:
    """A sweep whose process of that title is killed whenever so many epochs are through; it has ended by itself."""
    draw = random.Random(0)
    with begun(store, *pairs) as life:
        for moment in moments:
            life.until(reached(store, moment), f"epoch {moment}")
            end_one(life, title, draw)
        life.ended()
    return life


def test_a_worker_of_two_is_killed_in_each_trial(unbroken: Unbroken, tmp_path: Path, tell: Tell) -> None:
    expected, moments = unbroken(*PAIR), [4, 16, 28]
    life = killed_in(tmp_path / "store", PAIR, "ray::RayTrainWorker", moments)
    assert life.process.returncode == 0, life.said
    check_all(tmp_path / "store", expected)
    tell("SIGKILL of a worker of a group of two", f"{len(moments)} times in one sweep", len(expected.trials))


def test_one_of_a_pair_is_killed(unbroken: Unbroken, tmp_path: Path, tell: Tell) -> None:
    expected, moments = unbroken(*PEERS), [4, 16]
    life = killed_in(tmp_path / "store", PEERS, "ray::RayTrainWorker", moments)
    assert life.process.returncode == 0, life.said
    check_all(tmp_path / "store", expected)
    tell("SIGKILL of one of a pair of students", f"{len(moments)} times in one sweep", len(expected.trials))


def test_an_influence_actor_is_killed(unbroken: Unbroken, tmp_path: Path, tell: Tell) -> None:
    expected, moments = unbroken(*WEIGHED), [3, 15]
    life = killed_in(tmp_path / "store", WEIGHED, "ray::InfluenceActor", moments)
    assert life.process.returncode == 0, life.said
    check_all(tmp_path / "store", expected)
    tell("SIGKILL of an influence actor", f"{len(moments)} times in one sweep", len(expected.trials))


def test_the_dispatcher_is_killed(whole: Sweep, tmp_path: Path, tell: Tell) -> None:
    """It is the sweep's heart: whether the driver goes on or ends with what to type next, no trial has failed of it."""
    store = tmp_path / "store"
    life = killed_in(store, WHOLE, "ray::Dispatcher", [30])
    found = record(store)
    assert found is not None and not [trial.message for trial in found.trials.values() if trial.state == "failed"], life.said
    if found.state != "finished":
        assert "--resume" in life.said, life.said
        with resumed(store) as again:
            assert again.ended() == 0, again.said
    check_all(store, whole)
    tell("SIGKILL of the dispatcher", "once, in the third trial", len(whole.trials))


def test_a_group_that_is_killed_whole(whole: Sweep, tmp_path: Path, tell: Tell) -> None:
    """Its controller in Ray Train, and with it its worker."""
    store = tmp_path / "store"
    life = killed_in(store, WHOLE, "ray::TrainController", [20])
    if life.process.returncode:
        with resumed(store) as again:
            assert again.ended() == 0, again.said
    check_all(store, whole)
    tell("SIGKILL of the controller of the only group", "once, in the second trial", len(whole.trials))
