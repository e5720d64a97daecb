"""Test the commands that take the name of a comparison: status, watch, stop, report, refusals."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from test_comparison import here, prepared, store  # noqa: F401
from trained_here import Here
from typer.testing import CliRunner

import run
from orchestrator.cli._comparisons import write_comparison
from orchestrator.cli._names import find_comparison, find_owner
from orchestrator.cli.watch import watch
from orchestrator.config.loader import load
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.comparison import design, running
from orchestrator.sweep.comparison.lifecycle import describe_plan, describe_time
from orchestrator.sweep.comparison.progress import Part, estimate_left_s, read_progress
from orchestrator.sweep.comparison.record import Comparison, require_new
from orchestrator.sweep.runs import resolve_run
from orchestrator.training.cost import TOTAL
from tests.refusal import refused

FEW = ("cross_entropy", "kd")


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Return a comparison of two studies with two trials for each search and three seeds."""
    pairs = ["search.trials=2", "search.scheduler=none", "training.epochs=4"]
    common = design.base(load(None, pairs), FEW, 3, 2)
    return Comparison.create(Store.open(tmp_path), "mine", common, 3, 2)


@pytest.fixture
def lock_held(comparison: Comparison) -> Iterator[None]:
    with comparison.hold():
        yield


def stored(comparison: Comparison) -> Store:
    return Store.existing(comparison.folder.parents[1])


def call(comparison: Comparison, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(run.app, [*words, "--store", str(comparison.folder.parents[1])])
    return done.exit_code, done.output


def searched(comparison: Comparison, method: str, state: str = "finished", study: int = 1) -> Sweep:
    """Return a search with one complete trial of four epochs and a failed one after two."""
    part = comparison.runs[study - 1]
    configuration = design.search_of(part.configuration, method)
    sweep = Sweep.create(stored(comparison).sweep(part.search(method)), configuration, "sweep")
    history = [0.1, 0.2, 0.3, 0.4]
    sweep.save_trial(Trial(0, {}, "complete", value=0.4, epochs=4, history=[*history]))
    sweep.save_trial(Trial(1, {}, "failed", epochs=2, message="it diverged"))
    sweep.state, sweep.seconds = state, 12.0
    sweep.save()
    return sweep


def test_progress_counts_all_parts(comparison: Comparison) -> None:
    searched(comparison, "cross_entropy")
    found = read_progress(stored(comparison), comparison)
    assert (found.state, found.trials, found.ended, found.failed) == (
        "interrupted",
        2 * (2 * 2 + 2 * 3),
        2,
        1,
    )
    assert [part.state for part in found.parts] == ["finished", *["waiting"] * 5]
    assert found.left_s is None


def test_time_left_is_that_of_the_remaining_epochs(comparison: Comparison, lock_held: None) -> None:
    """Each search trains 3 epochs per trial on average, and each training over seeds 4."""
    searched(comparison, "cross_entropy")
    found = read_progress(stored(comparison), comparison)
    left = 3 * (2 * 3) + 2 * (6 * 4)
    assert found.state == "running" and found.left_s == pytest.approx(left * 12.0 / 6)


def test_time_left_is_unknown_before_the_first_epoch() -> None:
    waiting = Part("mine-kd", "kd", "waiting", 2)
    assert estimate_left_s([waiting], 4) is None
    running_part = Part("mine-ttm", "ttm", "running", 2, epochs=4, seconds=8.0)
    assert estimate_left_s([waiting, running_part], 4) == pytest.approx((8 + 4) * 2.0)


def test_a_comparison_without_any_settings_has_failed(comparison: Comparison) -> None:
    comparison.runs[0].choose({method: {"message": "it diverged"} for method in FEW})
    assert read_progress(stored(comparison), comparison).state == "failed"


def test_status_of_a_comparison(comparison: Comparison) -> None:
    searched(comparison, "cross_entropy")
    comparison.runs[0].choose({"cross_entropy": {"trial": 0, "value": 0.4, "settings": {}}})
    code, text = call(comparison, "status", "mine", "--json")
    plain = json.loads(text)
    assert code == 0 and plain["comparison"] == "mine" and plain["methods"] == list(FEW)
    assert (plain["ended"], plain["trials"], plain["expected_end"]) == (2, 20, None)
    assert plain["chosen"]["cross_entropy"]["trial"] == 0
    code, text = call(comparison, "status", "mine")
    assert code == 0 and "mine-study2-seeds" in text and "compare --resume mine" in text
    code, text = call(comparison, "status")
    assert code == 0 and "2 of 20 trials, 1 failed" in text and "cross_entropy, kd" in text
    code, text = call(comparison, "status", "mine-cross_entropy")
    assert code == 0 and "it diverged" in text


def test_plan_estimates_the_time_from_earlier_trainings(comparison: Comparison) -> None:
    opened, sweep = stored(comparison), searched(comparison, "kd")
    request = design.Design(FEW, 3, 2)
    assert describe_time(opened, comparison.configuration, request).startswith("unknown")
    sweep.trials[0].metrics = {TOTAL: 4 * 90.0}
    sweep.save_trial(sweep.trials[0])
    found = describe_time(opened, comparison.configuration, request)
    assert "at most 2 worker hours for 20 trainings, by 1 earlier" in found  # 20 x 4 x 90 s
    other = design.base(load(None, ["student.width=9"]), FEW, 3)
    assert describe_time(opened, other, request).startswith("unknown")
    assert "2 studies with 20 trainings in total" in describe_plan(
        comparison.configuration, request
    )


@pytest.mark.parametrize("command", ["export", "importance"])
def test_a_command_for_one_sweep_names_those_of_the_comparison(
    comparison: Comparison, command: str
) -> None:
    searched(comparison, "kd")
    code, text = call(comparison, command, "mine")
    assert code == 2 and "give one of its sweeps: mine-kd" in " ".join(text.split())


def test_a_sweep_has_precedence_and_unknown_names_are_refused(comparison: Comparison) -> None:
    opened = stored(comparison)
    searched(comparison, "kd")
    assert find_comparison(opened, "mine-kd") is None
    found = find_comparison(opened, "mine")
    assert found is not None and found.seeds == 3
    with refused("name", "mime", ("mine-kd", "mine")):
        find_comparison(opened, "mime")
    Sweep.create(opened.sweep("mine"), load(None, []), "sweep")
    assert find_comparison(opened, "mine") is None


def test_a_sweep_cannot_have_the_name_of_a_comparison(comparison: Comparison) -> None:
    opened, configuration = stored(comparison), load(None, [])
    with refused("--name", "mine", "a name that no comparison has"):
        resolve_run(opened, configuration, "sweep", "mine", 0)
    Sweep.create(opened.sweep("plain"), configuration, "sweep")
    with refused("--name", "plain", "a new name"):
        require_new(opened, "plain", FEW)
    code, text = call(comparison, "sweep", "--resume", "mine")
    assert code == 2 and "compare --resume mine" in " ".join(text.split())


def test_watching_follows_each_sweep(comparison: Comparison) -> None:
    """The `wait` between two reads acts as the driver."""
    opened, driver = stored(comparison), comparison.hold()
    driver.__enter__()
    sweep = searched(comparison, "cross_entropy", state="running")
    lock = sweep.hold()
    lock.__enter__()

    def end_search(_: float) -> None:
        sweep.state = "finished"
        sweep.save()
        lock.__exit__(None, None, None)

    def end_driver(_: float) -> None:
        driver.__exit__(None, None, None)

    def wait(wait_s: float) -> None:
        steps.pop(0)(wait_s)

    steps = [end_search, end_driver]
    console = Console(file=io.StringIO(), width=200)
    assert watch("mine", opened.root, False, console, wait) == 0
    assert not steps and isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "mine: sweep 1 of 6, running, 2 of 20 trials, 1 failed, expected end" in text
    assert "mine: interrupted" in text and "compare --resume mine" in text
    assert watch("mine", opened.root, True, console) == 0


def test_stop_ends_the_driver_of_a_comparison(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text = call(comparison, "stop", "mine")
    assert code == 0 and "no process runs it" in text
    driver = comparison.hold()
    driver.__enter__()
    monkeypatch.setattr(os, "kill", lambda *_: driver.__exit__(None, None, None))
    code, text = call(comparison, "stop", "mine")
    assert code == 0 and "stopped" in text and "compare --resume mine" in text
    code, text = call(comparison, "stop", "mine", "--address", "127.0.0.1:1")
    assert code == 2 and "--store" in text


def test_the_owner_of_a_sweep_is_its_comparison(comparison: Comparison) -> None:
    opened = Store.existing(comparison.folder.parents[1])
    assert find_owner(opened, comparison.sweeps[0]) == "mine"
    assert find_owner(opened, "another") is None


def test_report_writes_the_tables(store: Store, here: Here, tmp_path: Path) -> None:  # noqa: F811
    comparison, console = prepared(store, methods=FEW, seeds=1), Console(quiet=True)
    with refused("name", "mine", "a comparison with trainings over seeds"):
        write_comparison(store, comparison, None, console)
    here.interrupted_in = "mine-seeds"
    with pytest.raises(KeyboardInterrupt):
        running.run_comparison(store, comparison, console)
    write_comparison(store, comparison, None, console)
    page = comparison.folder / "comparison.md"
    assert "unfinished: 1 of 2 trainings" in page.read_text()
    running.run_comparison(store, comparison, console)
    write_comparison(store, comparison, None, console)
    assert "unfinished" not in page.read_text()
    target = tmp_path / "tables.md"
    for _ in range(2):  # an earlier page is replaced
        write_comparison(store, comparison, target, console)
    assert target.read_text() == page.read_text()
    target.write_text("a diary")
    with refused("--to", str(target), "a new file, or an earlier page"):
        write_comparison(store, comparison, target, console)
