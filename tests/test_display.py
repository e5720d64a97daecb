"""Test the display: plain lines with counts and the best value, final tables, expected time."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.config.loader import load
from orchestrator.reporting.terminal.progress import Display, status_table, summary
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from tests.pairs import metrics_of, peer_method


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
        for made in (
            trial(0, "complete", 0.5, temperature=2.0),
            trial(1, "failed", None),
            trial(2, "stopped_early", 0.9),
        ):
            sweep.trials[made.number] = made
            made.message = "the loss is not finite" if made.state == "failed" else ""
            display.trial_started(made)
            display.trial_ended(made)
    lines = text(console).splitlines()
    assert lines[0].startswith(
        "trial 0 complete after 3 epochs, validation/accuracy 0.5000 [1 complete, 0 running"
    )
    assert lines[1] == "best so far: trial 0 at 0.5000 with temperature=2"
    assert (
        "the loss is not finite [1 complete, 0 running, 0 stopped early, 1 failed, of 4" in lines[2]
    )
    assert len(lines) == 4  # a trial that was stopped early is not better than a complete one


@pytest.mark.parametrize(
    ("direction", "first", "second"), [("maximize", 0.2630, 0.2565), ("minimize", 0.2565, 0.2630)]
)
def test_best_value_may_decrease_with_a_reason(
    tmp_path: Path, direction: str, first: float, second: float
) -> None:
    objective = "validation/accuracy" if direction == "maximize" else "validation/nll"
    configuration = load(None, [f"search.objective={objective}", f"search.direction={direction}"])
    found = Sweep.create(Store(tmp_path).sweep("mine"), configuration, "sweep")
    console = printed(400)
    with Display(found, console) as display:
        for made in (
            trial(0, "stopped_early", first, seed=1),
            trial(1, "complete", second, seed=2),
        ):
            found.trials[made.number] = made
            display.trial_ended(made)
    best = [line for line in text(console).splitlines() if line.startswith("best so far")]
    assert best[0] == (
        f"best so far: trial 0 at {first:.4f} with seed=1; it was stopped after 3 epochs, and "
        f"a complete trial will rank above it"
    )
    assert best[1].endswith(
        f"; trial 0 had {first:.4f} when it was stopped after 3 epochs, which is not comparable"
    )
    assert "which is not comparable" in display.frame().plain


def test_the_expected_time_counts_what_this_run_did(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 20.0])
    for number in range(2):
        sweep.trials[number] = trial(number, "complete", 0.5)
    monkeypatch.setattr(
        "orchestrator.reporting.terminal.progress.time.monotonic", lambda: next(clock)
    )
    display = Display(sweep, printed())
    sweep.trials[2] = trial(2, "complete", 0.5)
    assert display._times() == "10 s elapsed, about 20 s left"


def test_trials_that_wait_for_one_another_are_expected_by_their_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = load(None, ["search.scheduler=pbt", "search.trials=4", "training.epochs=10"])
    found = Sweep.create(tmp_path / "mine", configuration, "sweep")
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(
        "orchestrator.reporting.terminal.progress.time.monotonic", lambda: next(clock)
    )
    display = Display(found, printed())
    # one has ended, and the others are almost finished
    for number, epochs in enumerate((10, 8, 8, 6)):
        found.trials[number] = Trial(
            number, {}, "complete" if epochs == 10 else "running", epochs=epochs
        )
    assert display._times() == "10 s elapsed, about 5 s left"


def test_the_summary_shows_the_best_of_every_method(sweep: Sweep) -> None:
    for number in range(6):
        sweep.trials[number] = trial(
            number, "complete", 0.9 - 0.01 * number, **{"method.name": "ttm"}
        )
    sweep.trials[6] = trial(6, "complete", 0.1, **{"method.name": "kd"})
    sweep.trials[0].metrics = {
        "test/last/accuracy": 0.8,
        "test/best/accuracy": 0.7,
        "best_epoch": 2.0,
    }
    sweep.trials[7] = trial(7, "failed", None)
    console = printed()
    summary(sweep, console, {"status": "the status command", "open MLflow": "the ui command"})
    found = text(console)
    assert "method.name=kd" in found and "│ 5 " not in found
    assert "test accuracy 0.8000 with its last weights, 0.7000 with the weights of epoch 2" in found
    assert (
        "1 of 8 trials failed: run `the status command`" in found
        and "open MLflow: the ui command" in found
    )


def test_status_shows_why_a_trial_failed(sweep: Sweep) -> None:
    sweep.trials[0] = trial(0, "failed", None)
    sweep.trials[0].message = "temperature = [0] is not allowed"
    console = printed()
    status_table(sweep, console)
    assert "temperature = [0] is not allowed" in text(console)


def test_summary_explains_missing_test_accuracy(sweep: Sweep) -> None:
    sweep.trials[0] = trial(0, "stopped_early", 0.5)
    sweep.state = "finished"
    console = printed()
    summary(sweep, console, {})
    assert "the test part was not read: increase search.time_budget" in text(console)


def ended(configured: tuple[str, ...], folder: Path, kind: str = "sweep", **trials: Trial) -> str:
    """Return the summary of a run of pairs, or of several objectives."""
    made = Sweep.create(folder / "mine", load(None, list(configured)), kind)
    made.trials, made.state = {each.number: each for each in trials.values()}, "finished"
    console = printed()
    summary(made, console, {})
    return text(console)


def test_lines_and_tables_of_pairs_name_the_objective_over_students(tmp_path: Path) -> None:
    configuration = load(None, ["peers.b.network.name=mlp", "search.students=min"])
    found, console = Sweep.create(tmp_path / "mine", configuration, "sweep"), printed()
    found.trials[0] = trial(0, "stopped_early", 0.5)
    with Display(found, console) as display:
        display.trial_ended(found.trials[0])
    summary(found, console, {})
    status_table(found, console)
    line, output = text(console).splitlines()[0], text(console)
    assert line.startswith(
        "trial 0 stopped_early after 3 epochs, validation/accuracy (the worst of a, b) 0.5000 ["
    )
    assert (
        output.count("validation/accuracy (the worst of a, b)") == 3
        and "maximize validation/accuracy (the worst of a, b)" in output
    )


def test_training_of_pairs_prints_the_accuracy_of_each_student(tmp_path: Path) -> None:
    found, console = (
        Sweep.create(tmp_path / "mine", load(None, ["peers.b.network.name=mlp"]), "train"),
        printed(),
    )
    shared = {"train/loss": 0.5, "validation/accuracy": 0.75, "validation/nll": 0.25}
    with Display(found, console) as display:
        display.trial_reported(
            trial(0, "running", 0.5),
            2,
            shared | {"a/validation/accuracy": 0.7, "b/validation/accuracy": 0.8},
        )
    assert text(console) == (
        "epoch 2: train/loss 0.5000, validation/accuracy 0.7500, validation/nll 0.2500 (mean "
        "of a, b); "
        "a/validation/accuracy 0.7000, b/validation/accuracy 0.8000\n"
    )


def test_of_several_objectives_the_best_is_so_by_the_first(tmp_path: Path) -> None:
    several = ("search.objectives=[validation/nll, parameters]", "search.scheduler=none")
    tested = {"test/last/accuracy": 0.8, "test/best/accuracy": 0.7, "best_epoch": 2.0}
    made = Trial(0, {}, "complete", 0.5, metrics=tested, values=[0.5, 9.0])
    assert "best student by validation/nll: trial 0, test accuracy" in ended(
        several, tmp_path / "one", made=made
    )
    pair = Trial(0, {}, "complete", 0.5, metrics=ALONE, values=[0.5, 9.0])
    output = ended((*several, "peers.b.network.name=mlp"), tmp_path / "two", made=pair)
    assert (
        "best trial by validation/nll (mean of a, b): 0 (kd)" in output
        and "parameters (sum of a, b)" in output
    )
    found, console = Sweep.create(tmp_path / "three", load(None, list(several)), "sweep"), printed()
    found.trials[0] = made
    with Display(found, console) as display:
        display.trial_ended(made)
    assert "best so far by validation/nll: trial 0 at 0.5000" in text(console)


PAIR = ("student.name=cnn", "peers.b.network.name=mlp", "search.methods=[kd, mutual]")
ALONE = metrics_of((0.80, 0.90), (0.60, 0.94))
BETTER_TOGETHER = metrics_of((0.85, 0.895), (0.70, 0.9512), epoch=6.0)


def test_summary_of_pairs_has_the_gain_from_peer_learning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer_method(monkeypatch)
    kd = Trial(0, {"method.name": "kd"}, "complete", 0.7, metrics=ALONE)
    mutual = Trial(1, {"method.name": "mutual"}, "complete", 0.8, metrics=BETTER_TOGETHER)
    found = ended(PAIR, tmp_path, kd=kd, mutual=mutual).splitlines()[-3:]
    assert found == [
        "best trial: 1 (mutual)",
        "student a (cnn): test accuracy 0.8950, -0.0050 over single-student KD (trial 0), with its "
        "last weights, 0.8850 with the weights of "
        "epoch 6, best on validation",
        "student b (mlp): test accuracy 0.9512, +0.0112 over single-student KD (trial 0), with its "
        "last weights, 0.9412 with the weights of "
        "epoch 6, best on validation",
    ]


def test_summary_explains_a_missing_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer_method(monkeypatch)
    mutual = Trial(1, {"method.name": "mutual"}, "complete", 0.8, metrics=BETTER_TOGETHER)
    stopped = Trial(0, {"method.name": "kd"}, "stopped_early", 0.9, metrics=ALONE)
    found = ended(PAIR, tmp_path, kd=stopped, mutual=mutual)
    assert (
        "over single-student KD" not in found
        and "no kd trial with the same network is complete" in found
        and "student b (mlp): test accuracy 0.9512 with" in found
    )
    alone = ended(
        PAIR,
        tmp_path / "train",
        kind="train",
        mutual=Trial(0, {}, "complete", 0.8, metrics=BETTER_TOGETHER),
    )
    assert (
        "no gain from peer learning for student a and b" in found
        and "no kd trial" not in alone
        and "best trial" not in alone
        and "student a (cnn): test accuracy 0.8950 with its last weights" in alone
    )


def test_a_best_trial_of_kd_has_no_gain_and_pairs_that_were_stopped_no_test(tmp_path: Path) -> None:
    kd = Trial(0, {"method.name": "kd"}, "complete", 0.9, metrics=ALONE)
    found = ended(("peers.b.network.name=mlp", "search.methods=[kd, ttm]"), tmp_path, kd=kd)
    assert (
        "best trial: 0 (kd)" in found
        and "over single-student KD" not in found
        and "no kd trial" not in found
    )
    stopped = Trial(0, {}, "stopped_early", 0.9, metrics={"a/validation/accuracy": 0.9})
    assert "the test part was not read" in ended(
        ("peers.b.network.name=mlp",), tmp_path / "stopped", kd=stopped
    )


def test_the_front_stands_below_the_table(tmp_path: Path) -> None:
    configured = ("search.objectives=[validation/accuracy, parameters]", "search.scheduler=none")
    found = ended(
        configured,
        tmp_path,
        big=Trial(0, {"n": 1}, "complete", 0.9, values=[0.9, 12345.0]),
        small=Trial(1, {"n": 2}, "complete", 0.8, values=[0.8, 100.0]),
        poor=Trial(2, {"n": 3}, "complete", 0.7, values=[0.7, 101.0]),
    )
    below = found[found.index("Pareto front") :]
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in below.splitlines()
        if line.startswith("│")
    ]
    assert rows == [["0", "0.9000", "12345", "n=1"], ["1", "0.8000", "100", "n=2"]]
    assert "Pareto" not in ended((), tmp_path / "one", big=Trial(0, {}, "complete", 0.9))
