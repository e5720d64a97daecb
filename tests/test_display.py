"""What a person reads: plain lines with counts and the best so far, tables at the end, and an honest expected time."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.display import Display, status_table, summary
from orchestrator.reading import load
from orchestrator.records import Sweep, Trial
from orchestrator.store import Store


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    configuration = load(None, ["search.trials=4", "search.methods=[kd, ttm]"])
    return Sweep.create(Store.open(tmp_path).sweep("mine"), configuration, "sweep")


def trial(number: int, state: str, value: float | None, **params: object) -> Trial:
    return Trial(number, dict(params), state=state, value=value, epochs=3)  # type: ignore[arg-type]


def printed(width: int = 200) -> Console:
    return Console(file=io.StringIO(), width=width)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lines(sweep: Sweep) -> None:
    console = printed()
    with Display(sweep, console) as display:
        for made in (trial(0, "complete", 0.5, temperature=2.0), trial(1, "failed", None), trial(2, "stopped_early", 0.9)):
            sweep.trials[made.number] = made
            made.message = "the loss is not finite" if made.state == "failed" else ""
            display.trial_started(made)
            display.trial_ended(made)
    lines = text(console).splitlines()
    assert lines[0].startswith("trial 0 complete after 3 epochs, validation/accuracy 0.5000 [1 complete, 0 running")
    assert lines[1] == "best so far: trial 0 at 0.5000 with temperature=2"
    assert "the loss is not finite [1 complete, 0 running, 0 stopped early, 1 failed, of 4" in lines[2]
    assert len(lines) == 4  # what was stopped early is not better than what is complete


def test_the_expected_time_counts_what_this_run_did(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 20.0])
    for number in range(2):
        sweep.trials[number] = trial(number, "complete", 0.5)
    monkeypatch.setattr("orchestrator.display.time.monotonic", lambda: next(clock))
    display = Display(sweep, printed())
    sweep.trials[2] = trial(2, "complete", 0.5)
    assert display._times() == "10 s elapsed, about 20 s left"


def test_trials_that_wait_for_one_another_are_expected_by_their_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = load(None, ["search.scheduler=pbt", "search.trials=4", "training.epochs=10"])
    found = Sweep.create(tmp_path / "mine", configuration, "sweep")
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("orchestrator.display.time.monotonic", lambda: next(clock))
    display = Display(found, printed())
    for number, epochs in enumerate((10, 8, 8, 6)):  # one has ended, and the others are nearly there
        found.trials[number] = Trial(number, {}, "complete" if epochs == 10 else "running", epochs=epochs)
    assert display._times() == "10 s elapsed, about 5 s left"


def test_the_summary_shows_the_best_of_every_method(sweep: Sweep) -> None:
    for number in range(6):
        sweep.trials[number] = trial(number, "complete", 0.9 - 0.01 * number, **{"method.name": "ttm"})
    sweep.trials[6] = trial(6, "complete", 0.1, **{"method.name": "kd"})
    sweep.trials[0].metrics = {"test/last/accuracy": 0.8, "test/best/accuracy": 0.7, "best_epoch": 2.0}
    sweep.trials[7] = trial(7, "failed", None)
    console = printed()
    summary(sweep, console, {"status": "the status command", "open MLflow": "the ui command"})
    found = text(console)
    assert "method.name=kd" in found and "│ 5 " not in found
    assert "test accuracy 0.8000 with its last weights, 0.7000 with those of epoch 2" in found
    assert "1 of 8 trials failed: `the status command`" in found and "open MLflow: the ui command" in found


def test_the_status_says_why_a_trial_failed(sweep: Sweep) -> None:
    sweep.trials[0] = trial(0, "failed", None)
    sweep.trials[0].message = "temperature = [0] is not allowed"
    console = printed()
    status_table(sweep, console)
    assert "temperature = [0] is not allowed" in text(console)


def test_the_summary_says_why_there_is_no_test_accuracy(sweep: Sweep) -> None:
    sweep.trials[0] = trial(0, "stopped_early", 0.5)
    sweep.state = "finished"
    console = printed()
    summary(sweep, console, {})
    assert "the test part was not read: give it more time" in text(console)
