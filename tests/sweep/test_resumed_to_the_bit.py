"""Test that a sweep that is killed at any write and resumed equals an uninterrupted one, no Ray."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import draw
from orchestrator.store.record_file import RecordSchema
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._reconcile import reconcile
from orchestrator.sweep._study import open_study
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.events import Events

EPOCHS = 2
TOTAL = 3


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: there are thousands of writes, and no power failure."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Killed(BaseException):
    """Simulated death of the driver, after which it writes nothing."""


class Writes:
    """Counter of a driver's writes that kills it at one: before it, or within a study line."""

    def __init__(
        self, patch: pytest.MonkeyPatch, at: int | None = None, torn: bool = False
    ) -> None:
        self.count, self.at, self.torn = 0, at, torn
        append = JournalFileBackend.append_logs

        def line(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
            if self._dies() and torn:
                with open(backend._file_path, "a") as stream:
                    stream.write(json.dumps(logs[0])[:-5])
            self._die()
            append(backend, logs)

        def record(
            schema: RecordSchema[Any], file: Path, values: Any, lasting: bool = True
        ) -> None:
            self._dies()
            self._die()
            schema.write(file, values() if callable(values) else values, lasting)

        patch.setattr(JournalFileBackend, "append_logs", line)
        patch.setattr(RecordSchema, "keep", record)

    def _dies(self) -> bool:
        self.count += 1
        return self.count == self.at

    def _die(self) -> None:
        if self.at is not None and self.count >= self.at:
            raise Killed


def value(trial: Trial, epoch: int) -> float:
    """Return the value of a training as a function of its parameters."""
    return (
        sum(number for number in trial.params.values() if isinstance(number, float)) % 1.0
        + 0.001 * epoch
    )


def drive(sweep: Sweep, resume: bool, total: int) -> None:
    """Run a driver with one worker group, from its first write to its last."""
    study = open_study(sweep.folder, sweep.configuration, resume)
    reconcile(study, sweep)
    unfinished = [trial for trial in sweep.trials.values() if not trial.ended]
    searcher = StudySearch(study, sweep.configuration, Events(sweep, []), unfinished)
    for place in range(total - len(sweep.trials) + len(unfinished)):
        number = searcher.suggest(str(place))["number"]
        trial = sweep.trials[number]
        last = 1 if number % 3 == 2 else EPOCHS  # some are stopped early
        # a resumed training reports its last epoch again
        epochs = range(max(trial.epochs, 1), last + 1)
        for epoch in epochs:
            worth = value(trial, epoch)
            metrics = json.dumps({"validation/accuracy": worth})
            result = {"epoch": epoch, "metrics": metrics, "validation/accuracy": worth}
            if epoch < last:
                searcher.on_trial_result(str(place), result)
            else:
                searcher.on_trial_complete(str(place), result)


def begin(folder: Path, *pairs: str) -> Sweep:
    configuration = load(None, ["method.name=kd", f"training.epochs={EPOCHS}", *pairs])
    return Sweep.create(Store.open(folder).sweep("mine"), configuration, "sweep")


def reopened(sweep: Sweep) -> Sweep:
    return Sweep.open(Store(sweep.folder.parent.parent), sweep.name)


def outcome(sweep: Sweep) -> list[tuple[Any, ...]]:
    """Return the visible results, in the records and in the study."""
    found = reopened(sweep)
    study = open_study(found.folder, found.configuration, resume=True)
    assert [trial.number for trial in study.trials if trial.state != TrialState.WAITING] == list(
        found.trials
    )
    of_study = [
        (each.params, each.state, each.values, each.intermediate_values) for each in study.trials
    ]
    return [
        (trial.number, trial.params, trial.state, trial.value, trial.history, of_study[number])
        for number, trial in found.trials.items()
    ]


@pytest.fixture
def whole(tmp_path: Path) -> Callable[..., tuple[list[tuple[Any, ...]], int]]:
    """Return a function that gives the uninterrupted sweep's outcome and its number of writes."""

    def run(total: int, *pairs: str) -> tuple[list[tuple[Any, ...]], int]:
        sweep = begin(tmp_path / "whole", *pairs)
        with pytest.MonkeyPatch.context() as patch:
            writes = Writes(patch)
            drive(sweep, False, total)
        return outcome(sweep), writes.count

    return run


@pytest.mark.parametrize("torn", [False, True])
def test_kill_at_any_write_does_not_change_the_trials(
    torn: bool, tmp_path: Path, whole: Callable[..., Any]
) -> None:
    expected, writes = whole(TOTAL, "search.sampler=random")
    assert len({str(trial[1]) for trial in expected}) == TOTAL and writes > 10 * TOTAL
    for at in range(1, writes + 1):
        sweep = begin(tmp_path / f"killed-{at}", "search.sampler=random")
        with pytest.MonkeyPatch.context() as patch:
            Writes(patch, at, torn)
            with pytest.raises(Killed):
                drive(sweep, False, TOTAL)
        drive(reopened(sweep), True, TOTAL)
        assert outcome(sweep) == expected, f"killed at write {at}"


def test_repeated_kills_do_not_change_tpe_draws(tmp_path: Path, whole: Callable[..., Any]) -> None:
    pairs, total = ("search.methods=[kd, ttm]",), 14  # TPE draws at random until it has ten
    expected, writes = whole(total, *pairs)
    sweep, lives, resume = begin(tmp_path / "killed", *pairs), 0, False
    while True:
        with pytest.MonkeyPatch.context() as patch:
            Writes(patch, at=17, torn=bool(lives % 2))
            try:
                drive(reopened(sweep), resume, total)
            except Killed:
                lives, resume = lives + 1, True
                continue
        break
    assert lives > writes // 20
    assert outcome(sweep) == expected


def test_partly_drawn_trial_draws_the_rest(tmp_path: Path) -> None:
    drawn = []
    for folder in ("whole", "half"):
        sweep = begin(
            tmp_path / folder, "search.sampler=random", "search.freeze=[training.learning_rate]"
        )
        study = open_study(sweep.folder, sweep.configuration, resume=False)
        study.ask()  # the published point
        trial = study.ask()
        if folder == "whole":
            draw(trial, sweep.configuration)
        else:
            trial.suggest_float("temperature", 1.0, 10.0, log=True)
        reconcile(open_study(sweep.folder, sweep.configuration, resume=True), sweep)
        drawn.append([(number, each.params, each.state) for number, each in sweep.trials.items()])
    assert drawn[0] == drawn[1] and set(drawn[0][1][1]) == {"temperature", "alpha"}


def test_extended_sweep_equals_the_longer_sweep(tmp_path: Path) -> None:
    """Also its initial points, if the shorter sweep did not reach all of them."""
    pairs = ("search.methods=[kd, ttm, wttm]", "search.sampler=random")
    longer = begin(tmp_path / "longer", *pairs, "search.trials=6")
    drive(longer, False, 6)
    sweep = begin(tmp_path / "grown", *pairs, "search.trials=2")
    drive(sweep, False, 2)
    found = reopened(sweep)
    search = found.configuration.search.model_copy(update={"trials": 6})
    found.configuration = found.configuration.model_copy(update={"search": search})
    drive(found, True, 6)
    assert [trial.params for trial in found.trials.values()] == [
        trial.params for trial in longer.trials.values()
    ]


def damaged_line(lines: list[bytes]) -> list[bytes]:
    return [*lines[:-1], lines[-1][:-7]]


@pytest.mark.parametrize("lost", range(1, 12))
def test_trials_lost_by_the_study_are_restored_from_records(lost: int, tmp_path: Path) -> None:
    """The disk may lose more lines than the one being written."""
    sweep = begin(tmp_path, "search.sampler=random")
    drive(sweep, False, TOTAL)
    expected = outcome(sweep)
    file = sweep.folder / "study.log"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(damaged_line(lines[: len(lines) - lost + 1])))
    drive(reopened(sweep), True, TOTAL)
    assert outcome(sweep) == expected


def test_missing_study_is_rebuilt_from_the_records(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    drive(sweep, False, 12)
    expected = outcome(sweep)
    (sweep.folder / "study.log").unlink()
    drive(reopened(sweep), True, 12)
    assert outcome(sweep) == expected


def test_several_objectives_are_restored(tmp_path: Path) -> None:
    pairs = ("search.objectives=[validation/accuracy, validation/nll]", "search.scheduler=none")
    sweep = begin(tmp_path, *pairs)
    study = open_study(sweep.folder, sweep.configuration, resume=False)
    searcher = StudySearch(study, sweep.configuration, Events(sweep, []), [])
    number = searcher.suggest("a")["number"]
    result = {
        "epoch": EPOCHS,
        "metrics": json.dumps({"validation/accuracy": 0.5, "validation/nll": 1.5}),
    }
    searcher.on_trial_complete("a", result)
    (sweep.folder / "study.log").unlink()
    found = reopened(sweep)
    study = open_study(found.folder, found.configuration, resume=True)
    reconcile(study, found)
    assert (
        study.trials[number].values == [0.5, 1.5]
        and study.trials[number].state == TrialState.COMPLETE
    )


def test_no_configuration_is_drawn_twice(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    study = open_study(sweep.folder, sweep.configuration, resume=False)
    searcher = StudySearch(study, sweep.configuration, Events(sweep, []), [])
    configurations = [
        Configuration.model_validate_json(searcher.suggest(str(place))["configuration"])
        for place in range(12)
    ]
    assert len({configuration.model_dump_json() for configuration in configurations}) == len(
        configurations
    )
