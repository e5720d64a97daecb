"""Test the display of cache fills, notes, and time by part."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.config.loader import load
from orchestrator.core.reports import EpochRecord
from orchestrator.reporting.terminal.progress import Display, costs
from orchestrator.reporting.terminal.teacher import TeacherDisplay
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.events import Events

FOUND, COMPUTED = {"cache/hits": 1.0, "cache/misses": 0.0}, {"cache/hits": 0.0, "cache/misses": 1.0}
SCORES = {"train/loss": 0.5, "validation/accuracy": 0.75, "validation/nll": 0.25}
terminals = pytest.mark.parametrize("terminal", [False, True])


def console_of(terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=terminal)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep.create(Store.open(tmp_path).sweep("mine"), load(None, []), "train")


def test_lines_of_a_filling() -> None:
    console = console_of(terminal=False)
    with TeacherDisplay(console) as display:
        display.preparing("starting [2] groups")
        display.teacher_epoch(2, {"validation/accuracy": 0.9})
        display.begin(3, 100)
        display.progress(0, 0, 64)
        display.view_precomputed(None, COMPUTED, [])
        display.progress(0, 1, 0)
        display.view_precomputed(1, FOUND, ["the cache is [full]"])
        display.view_precomputed(0, COMPUTED, [])
        display.end()
    assert display.bar is None
    assert text(console).splitlines() == [
        "starting [2] groups",
        "epoch 2: validation accuracy 0.9000",
        "the clean view computed (1 of 3)",
        "note: the cache is [full]",
        "view 1 cached (2 of 3)",
        "view 0 computed (3 of 3)",
        "cache: 2 views computed, 1 were cached",
    ]


def test_the_bar_adds_up_the_samples_of_all_jobs() -> None:
    console = console_of(terminal=True)
    with TeacherDisplay(console) as display:
        display.begin(4, 100)
        assert display.bar is not None
        (task,) = display.bar.tasks
        seen = []
        for job, views, samples in (
            (0, 0, 50),
            (1, 0, 30),
            (0, 1, 0),
            (0, 1, 80),
            (1, 1, 0),
            (0, 2, 0),
            (1, 2, 0),
        ):
            display.progress(job, views, samples)
            seen.append(task.completed)
        display.view_precomputed(None, COMPUTED, ["a view was damaged"])
        display.view_precomputed(0, FOUND, [])
        display.end()
        assert display.bar.finished and not display.bar.live.is_started
    assert task.total == 400 and seen == [50, 80, 130, 210, 280, 300, 400]
    assert text(console).count("note: a view was damaged") == 1
    assert "cache: 1 views computed, 1 were cached" in text(console) and "400/400" in text(console)
    assert "view 0" not in text(console), "the bar shows it"


def test_a_bar_is_taken_away_when_the_filling_fails() -> None:
    with pytest.raises(RuntimeError), TeacherDisplay(console_of(terminal=True)) as display:
        display.begin(2, 100)
        raise RuntimeError
    assert display.bar is not None and not display.bar.live.is_started


@terminals
def test_a_note_is_shown_once(sweep: Sweep, terminal: bool) -> None:
    console, trial = console_of(terminal), Trial(0, {})
    with Display(sweep, console) as display:
        events = Events(sweep, [display])
        events.start(trial)
        notes_by_epoch: list[list[str]] = [["the [first]"], [], ["second", "third"], []]
        for epoch, notes in enumerate(notes_by_epoch, 1):
            events.report(trial, EpochRecord(epoch, SCORES, notes=tuple(notes)))
        events.end(trial, "complete")
    shown = re.findall(r"note: (\S+(?: \S+)?)\s", text(console))
    assert shown == ["the [first]", "second", "third"]


def test_notes_of_two_trials_are_counted_separately(sweep: Sweep) -> None:
    console = console_of(terminal=False)
    with Display(sweep, console) as display:
        events, trials = Events(sweep, [display]), [Trial(number, {}) for number in range(2)]
        for epoch in (1, 2):
            for trial in trials:
                notes = [f"{trial.number} in epoch {epoch}"]
                events.report(trial, EpochRecord(epoch, SCORES, notes=tuple(notes)))
    found = [
        line.removeprefix("note: ")
        for line in text(console).splitlines()
        if line.startswith("note: ")
    ]
    assert found == ["0 in epoch 1", "1 in epoch 1", "0 in epoch 2", "1 in epoch 2"]


def test_notes_of_an_earlier_run_are_not_shown_again(sweep: Sweep) -> None:
    sweep.trials[0] = Trial(0, {}, epochs=1, notes=["of the earlier run"])
    console = console_of(terminal=False)
    with Display(sweep, console) as display:
        Events(sweep, [display]).report(
            sweep.trials[0], EpochRecord(2, SCORES, notes=("of this one",))
        )
    assert "note: of this one" in text(console) and "of the earlier run" not in text(console)


NAMES = (
    "seconds/epoch",
    "seconds/data",
    "seconds/teacher",
    "seconds/student",
    "seconds/report",
    "cache/hits",
    "cache/misses",
)
ROWS = (
    (4.0, 0.5, 1.0, 2.0, None, 0.0, 2.0),
    (3.0, 0.25, None, 2.0, 0.5, 1.0, 0.0),
    (2.0, 0.25, None, 1.5, 0.5, 2.0, 0.0),
)
EPOCHS = [
    {name: value for name, value in zip(NAMES, row, strict=True) if value is not None}
    for row in ROWS
]


def costs_of(sweep: Sweep, epochs: list[dict[str, float]]) -> str:
    display, console = Display(sweep, console_of(terminal=False)), console_of(terminal=False)
    for epoch, metrics in enumerate(epochs, 1):
        display.trial_reported(Trial(0, {}), epoch, SCORES | metrics)
    costs(display, console)
    return text(console)


def test_the_parts_are_the_whole_time(sweep: Sweep) -> None:
    rows = re.findall(r"^│ (\w+) +│ +([\d.]+) │ +(\d+)% │$", costs_of(sweep, EPOCHS), re.MULTILINE)
    table = {part: float(seconds) for part, seconds, _ in rows}
    # a report follows its epoch's end, and counts in addition to the three epochs
    assert table == {"student": 5.5, "rest": 1.5, "data": 1.0, "teacher": 1.0, "report": 1.0}
    assert sum(table.values()) == pytest.approx(4 + 3 + 2 + 0.5 + 0.5)
    assert list(table.values()) == sorted(table.values(), reverse=True)
    assert {part: int(share) for part, _, share in rows} == {
        "student": 55,
        "rest": 15,
        "data": 10,
        "teacher": 10,
        "report": 10,
    }


def test_the_views_of_the_cache_are_counted(sweep: Sweep) -> None:
    assert "teacher cache: 3 hits, 2 misses" in costs_of(sweep, EPOCHS)


def test_without_a_cache_no_hits_are_printed(sweep: Sweep) -> None:
    quiet = [
        {name: value for name, value in metrics.items() if not name.startswith("cache/")}
        for metrics in EPOCHS
    ]
    assert "student" in costs_of(sweep, quiet) and "cache" not in costs_of(sweep, quiet)


def test_without_an_epoch_there_are_no_costs(sweep: Sweep) -> None:
    assert costs_of(sweep, []) == costs_of(sweep, [{}]) == ""
