"""Test the schedule, the report and the file damage of a chaos run, without a sweep.

`make chaos` runs one.
"""

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.faults.broken import NAME
from tests.faults.chaos import Progress
from tests.faults.chaos_report import Log, Made, rows, summary, table
from tests.faults.chaos_schedule import OFFLINE, PROCESSES, WEIGHTS, Failure, schedule
from tests.faults.chaos_targets import damage, damaged_file

LINES = '{"a": 1}\n' * 9 + '{"operation": 2}\n'


def failure(kind: str, choice: float = 0.0) -> Failure:
    return Failure(0, 1, kind, 0.0, 1.0, choice, False)


def test_seed_determines_a_schedule_that_a_longer_run_extends() -> None:
    first, again = list(islice(schedule(3), 50)), list(islice(schedule(3), 1000))
    assert again[:50] == first and [each.number for each in again] == list(range(1, 1001))
    assert list(islice(schedule(4), 50)) != first
    assert {each.kind for each in again} == set(WEIGHTS), "every kind occurs"
    assert all(each.waits for each in again if each.action == "SIGSTOP"), "what hangs is waited for"


def test_impossible_failure_kinds_are_left_out() -> None:
    assert "full disk" not in {
        each.kind for each in islice(schedule(0, frozenset({"full disk"})), 500)
    }


def test_every_failure_kind_has_a_target() -> None:
    files = {"checkpoint", "cache view", "record", "study"}
    for kind in WEIGHTS:
        each = failure(kind)
        assert each.target in {*PROCESSES, "driver", "disk", "killed", "stopped", *files}, kind
    assert {failure(kind).target for kind in OFFLINE} == {"record", "study"}


def test_report_counts_by_kind_and_resumes_from_its_file(tmp_path: Path) -> None:
    log = Log.open(tmp_path / "log.json")
    log.failures = [
        Made(1, 1, "SIGKILL worker", 3.0),
        Made(1, 2, "SIGKILL worker"),
        Made(1, 3, "SIGKILL worker", 9.0, ended=3),
        Made(2, 1, "full disk", 1.0, exceeded=True),
    ]
    log.seconds, log.repeated, log.drivers = 120.0, 7, 2
    log.save()
    again = Log.open(tmp_path / "log.json")
    assert again == log and (again.reached(1), again.reached(2), again.reached(3)) == (3, 1, 0)
    killed, full = rows(again.failures)
    assert (
        killed.made,
        killed.waited_for,
        killed.median_s,
        killed.longest_s,
        killed.drivers_ended,
    ) == (3, 2, 9.0, 9.0, 1)
    assert (full.kind, full.exceeded) == ("full disk", 1)
    report = summary(again, 30, 180, 60.0, ["results: trial 3"])
    assert (
        json.loads(json.dumps(report)) == report
        and report["seeds"] == [1, 2]
        and report["exceeded"] == 1
    )
    text = table(report)
    assert (
        "4 failures (seeds 1, 2) in one sweep of 30 trials" in text
        and "(2.0 times)" in text
        and "trial 3" in text
    )
    assert (
        "| SIGKILL worker | 3 | 2 | 9.0 | 9.0 | 1 | 0 |" in text
        and "| full disk | 1 | 1 | 1.0 | 1.0 | 0 | 1 |" in text
    )


def test_repeated_epochs_are_counted(tmp_path: Path) -> None:
    progress, trials = Progress(tmp_path), tmp_path / "sweeps" / NAME / "trials"
    for moment, (name, epoch) in enumerate(
        [("00000", 1), ("00000", 3), ("00000", 1), ("00001", 1), ("00001", 1)]
    ):
        file = trials / name / "checkpoint" / "progress.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"record": {"epoch": epoch}}))
        _at(file, moment)
        progress.look()
        progress.look()
    assert (progress.finished, progress.repeated) == (6, 4), (
        "epochs 1 to 3, then 1 again: two of them are lost with it"
    )


def _at(file: Path, moment: int) -> None:
    os.utime(file, ns=(moment + 1, moment + 1))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a small store like that of a sweep."""
    sweep = tmp_path / "sweeps" / NAME
    for number in range(2):
        folder = sweep / "trials" / f"{number:05d}" / "checkpoint"
        folder.mkdir(parents=True)
        (folder.parent / "trial.json").write_text("record " * 9)
        for name in ("student.safetensors", "best.safetensors", "optimizer.pt", "progress.json"):
            (folder / name).write_text("0123456789" * 99)
    (tmp_path / "knowledge" / "one").mkdir(parents=True)
    (tmp_path / "knowledge" / "one" / "view.npy").write_text("0123456789" * 99)
    (sweep / "study.log").write_text(LINES)
    return tmp_path


@pytest.mark.parametrize(
    "kind", [kind for kind in WEIGHTS if kind.startswith(("truncated", "missing"))]
)
def test_files_are_truncated_or_removed(kind: str, store: Path) -> None:
    for choice in (0.0, 0.5, 0.99):
        each = failure(kind, choice)
        path: Any = damaged_file(store, each)
        if path is None or not path.exists():
            continue
        size = path.stat().st_size
        assert damage(path, each)
        assert not path.exists() if each.action == "missing" else 0 < path.stat().st_size < size
        assert damage(path, each) is (each.action == "truncated")
    assert not damage(store / "nothing", failure(kind))


def test_only_the_last_line_of_a_study_is_truncated(store: Path) -> None:
    file = store / "sweeps" / NAME / "study.log"
    assert damage(file, failure("truncated study")) and file.read_text() == LINES[:-10]
