"""Test sweeps of two students on Ray, each in its own worker."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from orchestrator.sweep._study import open_study
from search_spaces import SPACES, Space
from tests.sweep_runs import RunSweep, Watch, student_trace

pytestmark = pytest.mark.ray
RATE = "training.learning_rate"
# then b has a's
B = (
    "peers.b.network.name=mlp",
    "peers.b.network.width=8",
    "search.freeze=[peers.b.training.learning_rate]",
)
PAIRS = (*B, "data.limit.train=400", "resources.workers=2", "resources.groups=1")


def beginning(
    monkeypatch: pytest.MonkeyPatch, suggest: Callable[[Any], None], **rates: tuple[float, ...]
) -> None:
    """Let each method try these learning rates first, in a space with nothing else."""
    for method, values in rates.items():
        monkeypatch.setitem(
            SPACES, method, Space(tuple({RATE: value} for value in values), suggest)
        )


def good_poor_or_impossible(trial: Any) -> None:
    trial.suggest_categorical(RATE, (0.05, 1e-5, 1e12))


def any_rate(trial: Any) -> None:
    trial.suggest_float(RATE, 1e-6, 0.1, log=True)


def test_sweep_of_pairs_with_and_without_peer_learning(
    run: RunSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning(
        monkeypatch,
        good_poor_or_impossible,
        kd=(0.05, 1e-5),
        dual_student=(0.05, 1e12),
        dml=(1e-5, 0.05),
    )
    watch = Watch()
    given = (
        "search.methods=[kd, dual_student, dml]",
        "search.trials=6",
        "search.reduction_factor=2",
        "search.grace_epochs=2",
    )
    # seconds a trial; a decision takes milliseconds
    slow = ("student.name=cnn", "training.epochs=12")
    sweep = run(
        *given,
        *PAIRS,
        *slow,
        "search.protect_initial_trials=false",
        "search.students=min",
        watch=watch,
    )
    assert sweep.state == "finished" and sorted(watch.ended) == [
        (n, trial.state) for n, trial in sweep.trials.items()
    ]
    assert [trial.params["method.name"] for trial in sweep.trials.values()] == [
        "kd",
        "dual_student",
        "dml",
    ] * 2
    assert sweep.trials[0].state == "complete" and sweep.trials[4].state == "failed"
    assert "the loss of students a and b is not finite" in sweep.trials[4].message, (
        "each student uses the logits of the other"
    )
    assert sweep.trials[5].epochs >= 2, "the group continues after a pair whose loss is not finite"
    for number in (2, 3):  # the only group is free long before the trial's last epoch
        assert sweep.trials[number].state == "stopped_early"
        progress = json.loads(
            (sweep.trial_folder(number) / "checkpoint" / "progress.json").read_text()
        )
        assert progress["record"]["epoch"] < 12
    study = open_study(sweep.folder, sweep.configuration, resume=True)
    assert [study.trials[number].state.name for number in (0, 2, 3, 4)] == [
        "COMPLETE",
        "PRUNED",
        "PRUNED",
        "FAIL",
    ]
    for number, trial in sweep.trials.items():
        if number != 4:
            check_metrics(trial.metrics)
            assert (
                trial.value
                == trial.history[-1]
                == trial.metrics["validation/accuracy"]
                == study.trials[number].value
            )
    tested = sweep.trials[0].metrics
    assert {
        "a/test/best/accuracy",
        "b/test/best/accuracy",
        "test/best/accuracy",
        "b/best_epoch",
    } <= set(tested)


def check_metrics(metrics: dict[str, float]) -> None:
    """Assert metrics of each student under its letter, and of the worse one for the trial."""
    of = {
        letter: {
            name[2:]: value for name, value in metrics.items() if name.startswith(f"{letter}/")
        }
        for letter in "ab"
    }
    assert (
        set(of["a"])
        == set(of["b"])
        > {"train/loss", "validation/accuracy", "validation/nll", "parameters"}
    )
    worse = min(of.values(), key=lambda own: own["validation/accuracy"])
    assert all(metrics[name] == value for name, value in worse.items() if name != "parameters")
    assert (
        metrics["parameters"]
        == of["a"]["parameters"] + of["b"]["parameters"]
        > of["a"]["parameters"]
    )
    # students that are both right agree; students that are both wrong may agree
    accuracies = [own["validation/accuracy"] for own in of.values()]
    assert (
        max(0.0, sum(accuracies) - 1) - 1e-6
        <= metrics["pair/agreement"]
        <= 1 - abs(accuracies[0] - accuracies[1]) + 1e-6
    )


def test_pair_copies_both_students_of_another_pair(
    run: RunSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    beginning(monkeypatch, any_rate, dual_student=(0.05, 0.03, 1e-6))
    given = (
        "method.name=dual_student",
        "search.scheduler=pbt",
        "search.trials=3",
        "search.perturb_epochs=2",
    )
    sweep = run(*given, *PAIRS, "training.epochs=4")
    assert [trial.state for trial in sweep.trials.values()] == ["complete"] * 3
    (taker,) = (trial for trial in sweep.trials.values() if trial.changes)
    (change,) = taker.changes
    assert taker.number == 2 and change["epoch"] == 2 and change["source"] != 2
    for letter in "ab":
        ours, theirs = (
            student_trace(sweep, 2, letter),
            student_trace(sweep, change["source"], letter),
        )
        for name, value in ours.items():
            half = len(value) // 2
            assert torch.equal(value[:half], theirs[name][:half]), (
                f"{name} of {letter}: it did not take over what was learned"
            )
        name = "steps/loss"
        assert not torch.equal(ours[name], theirs[name]), "the same settings were trained twice"
    assert all(len(trial.history) == 4 for trial in sweep.trials.values())
