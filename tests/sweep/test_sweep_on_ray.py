"""Test whole sweeps on Ray: early stops, isolated failures, a dead worker, equal MLflow runs."""

import json
import os
import signal
from collections import Counter
from typing import Any

import pytest
from optuna.trial import TrialState

from methods import METHODS
from orchestrator.core.errors import TrialError
from orchestrator.store.records import Sweep, Trial
from orchestrator.sweep._study import open_study
from search_spaces import SPACES, Space
from tests.processes import titled
from tests.refusal import refused
from tests.sweep.conftest import Conduct, Watch

pytestmark = pytest.mark.ray
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


def test_a_sweep_with_failures_and_early_stops(
    run: Conduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPACES, "kd", Space(POINTS, two_faults))
    watch = Watch()
    # seconds a trial; a decision takes milliseconds
    slow = ("student.name=cnn", "training.epochs=100")
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
        assert progress["record"]["epoch"] < 100
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
        drawn = [] if trial.state == "failed" else ["figures"]
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


@pytest.mark.faults
def test_two_workers_survive_the_death_of_one(run: Conduct) -> None:
    killed: list[int] = []

    def kill_once(trial: Trial, epoch: int) -> None:
        if epoch >= 3 and not killed:
            killed.extend(process.pid for process in titled("ray::RayTrainWorker")[:1])
            os.kill(killed[0], signal.SIGKILL)

    options = (
        "method.name=ttm",
        "resources.workers=2",
        "training.epochs=40",
        "search.trials=2",
        "search.scheduler=none",
    )
    sweep = run(*options, watch=Watch(kill_once))
    assert killed
    assert [trial.state for trial in sweep.trials.values()] == ["complete", "complete"]
    assert all(
        len(trial.history) == 40 for trial in sweep.trials.values()
    )  # no epoch lost, none reported twice
    again = run(*options, name="again")
    assert [trial.history for trial in again.trials.values()] == [
        trial.history for trial in sweep.trials.values()
    ]


@pytest.mark.parametrize(
    "settings", [("method.name=wttm",), ("method.name=kd_aif", "data.label_noise=0.3")]
)
def test_train_on_ray_and_in_this_process_agree(settings: tuple[str, ...], run: Conduct) -> None:
    """Also with sample weights, from an actor and from the worker itself."""
    local = run(*settings, kind="train", name="local", local=True)
    on_ray = run(*settings, kind="train", name="on-ray")
    assert local.state == on_ray.state == "finished"
    assert local.trials[0].history == on_ray.trials[0].history
    assert local.trials[0].metrics["test/last/nll"] == on_ray.trials[0].metrics["test/last/nll"]


def test_a_failed_training_says_why(run: Conduct) -> None:
    with refused("trial", error=TrialError) as told:
        run(
            "method.name=cross_entropy",
            "teacher=null",
            "training.learning_rate=1e12",
            kind="train",
            local=True,
        )
    assert "not finite" in str(told.value.value)


def test_every_method_trains(run: Conduct) -> None:
    for name, kind in METHODS.items():
        peers = ("peers.b.network.name=mlp", "search.students=b") if kind.needs.peer else ()
        sweep = run(
            f"method.name={name}", "training.epochs=2", *peers, kind="train", name=name, local=True
        )
        metrics = sweep.trials[0].metrics
        assert sweep.trials[0].state == "complete" and "validation/agreement" in metrics
        assert all((f"{letter}/test/best/accuracy" in metrics) == bool(peers) for letter in "ab")
        assert (
            not peers
            or metrics["validation/nll"]
            == metrics["b/validation/nll"]
            != metrics["a/validation/nll"]
        )
