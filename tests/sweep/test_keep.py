"""Test kept weights without Ray: best trials, front, running trials, sources of copies, figures."""

import random
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.checkpoints import count_kept_checkpoints
from orchestrator.config.loader import load
from orchestrator.config.schema import Search
from orchestrator.config.trial import CHECKPOINT, KNOWLEDGE
from orchestrator.core.reports import EpochRecord
from orchestrator.export.export import export
from orchestrator.store.checkpoint_storage import LIGHT, LocalCheckpoint
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.retained_weights import trials_with_weights
from orchestrator.store.store import Store, write_json
from orchestrator.sweep import _snapshots as snapshots
from orchestrator.sweep._pbt import PbtScheduler
from orchestrator.sweep.checkpoint_retention import RetentionPolicy, remove_losers
from orchestrator.sweep.events import Events
from tests.refusal import refused
from tests.sweep.simulated import SimulatedTune, begin
from tests.sweep.test_population import PBT, better_later

FILES = ("student.safetensors", "best.safetensors", "method.safetensors", "optimizer.pt", *LIGHT)


def write(folder: Path) -> None:
    for part in (folder / CHECKPOINT, folder / CHECKPOINT / "b"):
        part.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (part / name).write_text(name)


def weights(sweep: Sweep) -> set[int]:
    """Return the trials with complete weights, after a check that every trial has its figures."""
    found = set()
    for number in sweep.trials:
        checkpoint = sweep.trial_folder(number) / CHECKPOINT
        for part in (checkpoint, checkpoint / "b"):
            assert {file.name for file in part.iterdir() if file.is_file()} in (
                set(FILES),
                set(LIGHT),
            )
            found |= {(number, part.name)} if (part / "student.safetensors").exists() else set()
    assert len(found) == 2 * len({number for number, _ in found}), (
        "a student has them and its peer has not"
    )
    return {number for number, _ in found}


def made(folder: Path, *pairs: str) -> Sweep:
    return Sweep.create(
        Store.open(folder).sweep("mine"), load(None, ["method.name=kd", *pairs]), "sweep"
    )


def add(sweep: Sweep, number: int, **values: Any) -> Trial:
    trial = Trial(number, {}, **{"state": "running", **values})
    sweep.save_trial(trial)
    write(sweep.trial_folder(number))
    return trial


@pytest.mark.parametrize("seed", range(5))
def test_the_best_and_the_unfinished_have_their_weights_at_every_moment(
    tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    sweep = made(tmp_path, "search.keep_checkpoints=3")
    events = Events(sweep, [RetentionPolicy(Store(tmp_path), sweep, lambda _: True)])
    trials = [add(sweep, number) for number in range(12)]
    draw.shuffle(trials)
    for trial in trials:
        state = draw.choice(["complete", "complete", "stopped_early", "failed"])
        trial.value = None if state == "failed" else draw.random()
        events.end(trial, state)
        best = sorted(
            (other for other in sweep.trials.values() if other.ended and other.state != "failed"),
            key=lambda other: (other.state == "complete", other.value),
            reverse=True,
        )
        assert weights(sweep) == {t.number for t in best[:3]} | {
            t.number for t in trials if not t.ended
        }


def test_a_front_keeps_more_than_the_best(tmp_path: Path) -> None:
    sweep = made(
        tmp_path,
        "search.keep_checkpoints=1",
        "search.scheduler=none",
        "search.objectives=[validation/accuracy, train/loss]",
    )
    events = Events(sweep, [RetentionPolicy(Store(tmp_path), sweep, lambda _: True)])
    points = [(0.9, 1.0), (0.5, 0.1), (0.4, 0.5), (0.7, 0.5)]
    for number, point in enumerate(points):
        trial = add(sweep, number, value=point[0], values=list(point))
        events.end(trial, "complete")
    assert [trial.number for trial in sweep.front()] == [0, 3, 1] and weights(sweep) == {0, 1, 3}


def test_weights_are_kept_until_the_group_releases_the_trial(tmp_path: Path) -> None:
    sweep, held = made(tmp_path, "search.keep_checkpoints=1"), {1}
    events = Events(
        sweep, [RetentionPolicy(Store(tmp_path), sweep, lambda number: number not in held)]
    )
    first, second, third = (add(sweep, number) for number in range(3))
    first.value = 0.9
    events.end(first, "complete")
    second.value = 0.1
    events.end(second, "stopped_early")
    assert weights(sweep) == {0, 1, 2}
    write(sweep.trial_folder(1))  # its last checkpoint
    held.clear()
    events.report(third, EpochRecord(1, {"validation/accuracy": 0.2}))
    assert weights(sweep) == {0, 2}


def test_resume_removes_remaining_weights_and_may_keep_more(tmp_path: Path) -> None:
    sweep = made(tmp_path, "search.keep_checkpoints=1")
    for number, value in enumerate((0.1, 0.9, 0.5, 0.7)):
        add(sweep, number, value=value, state="complete")
    add(sweep, 4, state="waiting")
    remove_losers(Store(tmp_path), sweep)
    assert weights(sweep) == {1, 4}
    search = sweep.configuration.search.model_copy(update={"keep_checkpoints": 3})
    sweep.configuration = sweep.configuration.model_copy(update={"search": search})
    RetentionPolicy(Store(tmp_path), sweep, lambda _: True)
    assert trials_with_weights(sweep) == {1, 2, 3, 4} and weights(sweep) == {1, 4}, (
        "what was removed does not come back"
    )


def test_files_left_by_a_death_are_removed_with_the_weights(tmp_path: Path) -> None:
    write(tmp_path)
    for name in (f".{CHECKPOINT}.4711.abcd", f"{CHECKPOINT}.old", KNOWLEDGE, "snapshots"):
        (tmp_path / name).mkdir()
    (tmp_path / "trial.json").touch()
    LocalCheckpoint(tmp_path).remove_large_files()
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "trial.json"]


def test_figures_survive_a_death_between_two_renames(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / CHECKPOINT).rename(tmp_path / f"{CHECKPOINT}.old")
    LocalCheckpoint(tmp_path).remove_large_files()
    assert {
        path.name for path in (tmp_path / f"{CHECKPOINT}.old").iterdir() if path.is_file()
    } == set(LIGHT)


def test_trial_without_a_checkpoint_is_not_stripped(tmp_path: Path) -> None:
    LocalCheckpoint(tmp_path / "none").remove_large_files()
    assert not (tmp_path / "none").exists()


class Disk:
    """Writer of a population's files, which checks the snapshots that a copy needs."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.taken_over, self.donors_that_had_ended = sweep, 0, 0

    def trial_started(self, trial: Trial) -> None:
        """Ignore the event."""

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        change = trial.changes[-1] if trial.changes else None
        if change and change["epoch"] == epoch - 1:
            source = self.sweep.trials[change["source"]]
            assert (
                snapshots.folder(self.sweep.trial_folder(source.number), epoch - 1)
                / "student.safetensors"
            ).exists()
            self.taken_over += 1
            self.donors_that_had_ended += source.ended
        write(self.sweep.trial_folder(trial.number))
        if epoch % 4 == 0 and epoch < 12:
            snapshots.keep(self.sweep.trial_folder(trial.number), epoch)

    def trial_changed(self, trial: Trial) -> None:
        """Ignore the event; its snapshot is checked when it trains again."""

    def trial_ended(self, trial: Trial) -> None:
        """Ignore the event."""

    def note(self, text: str) -> None:
        """Ignore the event."""


@pytest.mark.parametrize("order", range(3))
def test_donors_keep_their_snapshots_until_they_are_copied(tmp_path: Path, order: int) -> None:
    sweep, asking = begin(tmp_path, *PBT, "search.trials=8", "search.keep_checkpoints=1")
    disk = Disk(sweep)
    asking.events.listeners.extend([disk, RetentionPolicy(Store(tmp_path), sweep, lambda _: True)])
    SimulatedTune(asking, PbtScheduler(asking, lambda: 1), better_later, 1, order).run()
    assert disk.taken_over and disk.donors_that_had_ended, (
        "one group: a donor may be through before its taker has its turn"
    )
    assert weights(sweep) == {sweep.best().number}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "groups", "copies", "description"),
    [
        (
            {"trials": 100, "keep_checkpoints": 5, "scheduler": "asha"},
            4,
            5 + 8 + 1,
            "of the best 5",
        ),
        ({"trials": 6, "keep_checkpoints": 5, "scheduler": "asha"}, 2, 8, "of every trial"),
        ({"trials": 100, "keep_checkpoints": 5, "scheduler": "pbt"}, 2, 300, "snapshots"),
        (
            {
                "trials": 10,
                "scheduler": "none",
                "objectives": ("validation/accuracy", "train/loss"),
            },
            2,
            12,
            "Pareto front",
        ),
    ],
)
def test_required_disk_space(
    values: dict[str, Any], groups: int, copies: int, description: str
) -> None:
    number, words = count_kept_checkpoints(Search(**values), groups)
    assert number == copies and description in words


def test_export_of_removed_weights_lists_the_available_trials(tmp_path: Path) -> None:
    sweep = made(tmp_path, "search.keep_checkpoints=1")
    for number, value in enumerate((0.1, 0.9)):
        add(sweep, number, value=value, state="complete")
    remove_losers(Store(tmp_path), sweep)
    write_json(sweep.folder / "data.json", {"classes": ["a"]})
    store = Store(tmp_path)
    with refused("--trial", 0, (1,)) as refusal:
        export(store, "mine", number=0)
    assert "search.keep_checkpoints" in str(refusal.value)
