"""Test whole sweeps on Ray: early stops, failures, several objectives, equal MLflow runs."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from orchestrator.config.schema import Configuration
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep._study import open_study
from orchestrator.sweep.driver import run_sweep
from search_spaces import SPACES, Space
from tests.sweep_runs import RunSweep, SharedGroups, Watch, prepare_here

pytestmark = pytest.mark.ray
LONG = 25  # epochs of which an early stop leaves out most
STATES = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def two_faults(trial: Any) -> None:
    """Suggest from a space in which one point diverges and another is an invalid setting.

    No check can foresee it, because the range begins with valid values.
    """
    trial.suggest_float("alpha", 0.5, 2.0)
    trial.suggest_categorical("training.learning_rate", (1e-5, 2e-5, 0.04, 0.05, 1e12))


POINTS = (
    {"alpha": 0.9, "training.learning_rate": 0.05},
    {"alpha": 0.9, "training.learning_rate": 1e12},
    {"alpha": 2.0, "training.learning_rate": 0.05},
    {"alpha": 0.9, "training.learning_rate": 0.04},
    {"alpha": 0.9, "training.learning_rate": 1e-5},
    {"alpha": 0.9, "training.learning_rate": 2e-5},
)


def test_sweep_with_failures_and_early_stops(
    run: RunSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPACES, "kd", Space(POINTS, two_faults))
    watch = Watch()
    # seconds a trial; a decision takes milliseconds
    slow = ("student.name=cnn", f"training.epochs={LONG}", "data.limit.train=600")
    sweep = run(
        "method.name=kd",
        "search.trials=6",
        "search.reduction_factor=2",
        "search.protect_initial_trials=false",
        *slow,
        watch=watch,
    )
    assert sweep.state == "finished"
    states = {number: trial.state for number, trial in sweep.trials.items()}
    assert Counter(watch.ended) == Counter(states.items())  # each trial ended once
    assert states[1] == states[2] == "failed" and "complete" in (states[0], states[3])
    assert "not finite" in sweep.trials[1].message and "alpha = 2.0" in sweep.trials[2].message
    assert states[4] == states[5] == "stopped_early"
    for number in (4, 5):  # the group is free long before the trial's last epoch
        progress = json.loads(
            (sweep.trial_folder(number) / "checkpoint" / "progress.json").read_text()
        )
        assert progress["record"]["epoch"] < LONG
    assert sweep.best() is not None and sweep.best().number in (0, 3)  # type: ignore[union-attr]
    check_study(sweep)
    check_mlflow(sweep)


def check_study(sweep: Sweep) -> None:
    study = open_study(sweep.folder, sweep.configuration, resume=True)
    assert {trial.number: trial.state for trial in study.trials} == {
        n: STATES[t.state] for n, t in sweep.trials.items()
    }
    for number, trial in sweep.trials.items():
        assert study.trials[number].params == trial.params
        if trial.state != "failed":
            assert study.trials[number].value == trial.value
            assert list(study.trials[number].intermediate_values.values()) == trial.history


def check_mlflow(sweep: Sweep) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep.folder.parent.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    parents = [run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1 and len(runs) == 1 + len(sweep.trials)
    (parent,) = parents
    best = sweep.best()
    assert best is not None
    assert parent.info.status == "FINISHED" and parent.data.tags["state"] == "finished"
    assert (
        parent.data.tags["best.trial"] == str(best.number)
        and parent.data.metrics["best_so_far"] == best.value
    )
    assert {"git.commit", "git.dirty", "version.torch"} <= set(parent.data.tags)
    assert "teacher/validation/accuracy" in parent.data.metrics
    ids = json.loads((sweep.folder / "mlflow.json").read_text())
    for number, trial in sweep.trials.items():
        child = runs[ids[str(number)]]
        assert (
            child.data.tags["mlflow.parentRunId"] == parent.info.run_id
            and child.data.tags["state"] == trial.state
        )
        assert child.info.status == ("FAILED" if trial.state == "failed" else "FINISHED")
        history = client.get_metric_history(child.info.run_id, "validation/accuracy")
        assert [(point.step, point.value) for point in history] == list(
            enumerate(trial.history, start=1)
        )
        drawn = ["figures"] if trial.state == "complete" else []
        assert [file.path for file in client.list_artifacts(child.info.run_id)] == [
            "configuration.json",
            *drawn,
        ]
        if trial.state == "complete":
            assert {
                "seconds/data",
                "seconds/teacher",
                "seconds/student",
                "test/last/accuracy",
            } <= set(child.data.metrics)


@pytest.mark.parametrize(
    "settings", [("method.name=wttm",), ("method.name=kd_aif", "data.label_noise=0.3")]
)
def test_training_on_ray_equals_training_in_this_process(
    settings: tuple[str, ...], run: RunSweep
) -> None:
    """With and without sample weights of an influence actor."""
    settings = (*settings, "data.limit.train=400")
    local = run(*settings, kind="train", name="local", local=True)
    on_ray = run(*settings, kind="train", name="on-ray")
    assert local.state == on_ray.state == "finished"
    assert local.trials[0].history == on_ray.trials[0].history
    assert local.trials[0].metrics["test/last/nll"] == on_ray.trials[0].metrics["test/last/nll"]


def test_sweep_of_two_objectives_over_the_student_width(run: RunSweep) -> None:
    objectives = (
        "search.objectives=[validation/accuracy, validation/nll]",
        "search.scheduler=none",
    )
    chosen = (
        "search.extra_space={student.width: [4, 16], training.batch_size: [64, 128]}",
        "search.sampler=random",
    )
    sweep = run("method.name=kd", "search.trials=4", "training.epochs=3", *objectives, *chosen)
    assert sweep.state == "finished" and {trial.state for trial in sweep.trials.values()} == {
        "complete"
    }
    for trial in sweep.trials.values():
        assert trial.values == [
            trial.metrics["validation/accuracy"],
            trial.metrics["validation/nll"],
        ]
        assert trial.params["student.width"] in (4, 16) and len(trial.history) == 3
    study = open_study(sweep.folder, sweep.configuration, resume=True)
    assert {trial.number for trial in study.best_trials} == {
        trial.number for trial in sweep.front()
    }


def learning_rates(trial: Any) -> None:
    trial.suggest_categorical("training.learning_rate", (0.05, 1e12, 2e12, 0.04))


def test_consecutive_failures_end_the_sweep_and_a_resume_counts_from_zero(
    run: RunSweep,
    shared_groups: Callable[[Configuration], SharedGroups],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = tuple(
        {"training.learning_rate": value} for value in (0.05, 1e12, 2e12, 0.04)
    )  # none twice
    monkeypatch.setitem(SPACES, "kd", Space(points, learning_rates))
    given = (
        "method.name=kd",
        "training.epochs=2",
        "search.trials=4",
        "search.max_failed_trials=2",
        "resources.groups=1",
    )
    sweep = run(*given, "search.scheduler=none")
    assert sweep.state == "failed" and {
        number: trial.state for number, trial in sweep.trials.items() if trial.ended
    } == {0: "complete", 1: "failed", 2: "failed"}
    expected = (
        "the last 2 trials all failed (search.max_failed_trials = 2): same error: the "
        "loss is not finite in epoch 1"
    )
    assert expected in sweep.notes[-1]["text"] and not any(
        trial.ended for trial in sweep.trials.values() if trial.number > 2
    )
    store = Store.open(sweep.folder.parent.parent)
    prepared = prepare_here(store, sweep.configuration, "sweep", local=False)
    run_sweep(
        sweep,
        store,
        prepared.data,
        prepared.teacher_access,
        Watch(),
        resume=True,
        shared_groups=shared_groups(sweep.configuration),
    )
    assert (
        sweep.state == "finished"
        and [trial.state for trial in sweep.trials.values()].count("complete") == 2
    )
    assert sorted(sweep.trials) == [0, 1, 2, 3]
