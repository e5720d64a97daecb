"""Test the cache's notes on their way from a worker's record to the sweep's files."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.config.loader import load
from orchestrator.config.trial import Folders, TrialSpec
from orchestrator.core.reports import EpochRecord
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, read_json, write_json
from orchestrator.sweep._study import open_study
from orchestrator.sweep._trainable import ProxyTrainable
from orchestrator.sweep._tune_messages import SharedSettings
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.driver import _train_single
from orchestrator.sweep.events import Events

ACCURACY = {"validation/accuracy": 0.5}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    configuration = load(None, ["method.name=kd", "training.epochs=4"])
    return Sweep.create(Store.open(tmp_path).sweep("mine"), configuration, "sweep")


def read_back(sweep: Sweep) -> Sweep:
    return Sweep.open(Store(sweep.folder.parent.parent), sweep.name)


def record(epoch: int, *notes: str, **metrics: float) -> EpochRecord:
    return EpochRecord(epoch, metrics or ACCURACY, notes=notes)


class Written:
    """A dispatcher with the records of one trial."""

    def __init__(self, *records: EpochRecord) -> None:
        self.records = list(records)

    def submit(self, spec: TrialSpec) -> None:
        """Ignore the trial."""

    def next_reports(self, *_: Any) -> list[EpochRecord]:
        """Return the next record alone."""
        return [self.records.pop(0)]

    def next_report(self, *_: Any) -> EpochRecord:
        """Return the next record."""
        return self.records.pop(0)


def proxy_with(*records: EpochRecord) -> ProxyTrainable:
    made = ProxyTrainable.__new__(ProxyTrainable)  # as Tune would make it, without an actor
    folders = Folders(Path("trials"), Path("data"))
    made.shared = SharedSettings("dispatcher", folders, "validation/accuracy", 5.0)
    made.dispatcher_client = cast(Any, Written(*records))
    return made


def test_notes_accumulate_in_the_record_on_disk(sweep: Sweep) -> None:
    events, trial = Events(sweep, []), Trial(0, {})
    events.start(trial)
    for each in (record(1, "one"), record(2), record(3, "two", "three")):
        events.report(trial, each)
        assert read_back(sweep).trials[0].notes == trial.notes
    events.end(trial, "complete")
    assert read_back(sweep).trials[0].notes == trial.notes == ["one", "two", "three"]


def test_resumed_trial_adds_to_its_earlier_notes(sweep: Sweep) -> None:
    Events(sweep, []).report(Trial(0, {}), record(1, "before"))
    found = read_back(sweep)
    Events(found, []).report(found.trials[0], record(2, "after"))
    assert read_back(sweep).trials[0].notes == ["before", "after"]


def test_record_repeated_after_a_resume_adds_no_note(tmp_path: Path) -> None:
    """A resumed training begins with the record of its last finished epoch."""
    sweep = Sweep.create(
        Store.open(tmp_path).sweep("mine"), load(None, ["training.epochs=2"]), "train"
    )
    Events(sweep, []).report(Trial(0, {}), record(1, "before"))
    found = read_back(sweep)
    dispatcher_client = Written(record(1, "before"), replace(record(2, "after"), done=True))
    _train_single(
        found,
        cast(Any, dispatcher_client),
        Events(found, []),
        Folders(Path("trials"), Path("data")),
    )
    assert found.trials[0].history == [0.5, 0.5] and found.trials[0].notes == ["before", "after"]


@pytest.mark.parametrize("metrics", [{"train/loss": 1.0}, {"validation/accuracy": math.nan}])
def test_notes_of_an_epoch_without_a_number_are_kept(
    sweep: Sweep, metrics: dict[str, float]
) -> None:
    events, trial = Events(sweep, []), Trial(0, {})
    events.report(trial, record(1, "of a diverged epoch", **metrics))
    events.end(trial, "failed", "the loss is not finite")
    assert read_back(sweep).trials[0].notes == ["of a diverged epoch"]


def test_unreported_epochs_keep_their_place_in_the_history(sweep: Sweep) -> None:
    """A worker continues without a driver, and reports only its last epoch."""
    Events(sweep, []).report(Trial(0, {}), record(1))
    found = read_back(sweep)
    for epoch in (4, 5):
        Events(found, []).report(found.trials[0], record(epoch))
    again = read_back(sweep).trials[0]
    assert again.history == [0.5, None, None, 0.5, 0.5] and again.known == [
        (1, 0.5),
        (4, 0.5),
        (5, 0.5),
    ]


def test_record_without_notes_is_read(sweep: Sweep) -> None:
    sweep.save_trial(Trial(0, {}))
    file = sweep.trial_folder(0) / "trial.json"
    write_json(
        file,
        {
            key: value
            for key, value in read_json(file).items()
            if key not in ("notes", "format", "checksum")
        },
    )
    assert read_back(sweep).trials[0].notes == []


def test_proxy_forwards_notes_if_there_are_any(sweep: Sweep) -> None:
    proxy = proxy_with(record(1, "one"), record(2), record(3))
    proxy.begin({"number": 0, "configuration": sweep.configuration.model_dump_json()})
    results = [proxy.step() for _ in range(3)]
    assert [result.get("notes") for result in results] == [("one",), None, None]
    assert "notes" not in results[1] and "notes" not in results[2]


def test_notes_of_a_worker_reach_the_files_of_the_sweep(sweep: Sweep) -> None:
    study = open_study(sweep.folder, sweep.configuration, resume=False)
    searcher = StudySearch(study, sweep.configuration, Events(sweep, []), [])
    proxy = proxy_with(
        record(1, "one"),
        record(2),
        record(3, "two", "three"),
        replace(record(4, "four"), done=True),
    )
    proxy.begin(searcher.suggest("a"))
    for _ in range(3):
        searcher.on_trial_result("a", proxy.step())
    last = proxy.step()
    searcher.on_trial_complete("a", last)
    searcher.on_trial_complete("a", last)  # Tune may report it twice
    found = read_back(sweep).trials[0]
    assert (found.state, found.notes, found.epochs) == (
        "complete",
        ["one", "two", "three", "four"],
        4,
    )


def test_epoch_repeated_by_tune_adds_no_note(sweep: Sweep) -> None:
    study = open_study(sweep.folder, sweep.configuration, resume=False)
    searcher = StudySearch(study, sweep.configuration, Events(sweep, []), [])
    proxy = proxy_with(record(1, "one"), record(1, "one"), record(2, "two"))
    proxy.begin(searcher.suggest("a"))
    for _ in range(3):
        searcher.on_trial_result("a", proxy.step())
    assert read_back(sweep).trials[0].notes == ["one", "two"]


@pytest.mark.parametrize(
    ("message", "notes", "text"),
    [
        ("", [], ""),
        ("it failed", [], "it failed"),
        ("", ["one", "two"], "one; two"),
        ("it failed", ["one"], "it failed; one"),
    ],
)
def test_remarks_of_a_trial_are_its_message_and_notes(
    message: str, notes: list[str], text: str
) -> None:
    assert Trial(0, {}, message=message, notes=notes).remarks == text
