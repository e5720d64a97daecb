"""Test the runs of pairs in MLflow: a child run per student, and the Pareto front of a sweep."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from orchestrator.config.loader import load
from orchestrator.reporting.figures import trial as figures
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking._runs import RUN_IDS
from orchestrator.tracking._values import split_by_run, tracking_uri
from orchestrator.tracking.tracker import Tracker
from tests.pairs import metrics_of, peer_method
from tests.tracking.test_figures import class_arrays, traced, unsure, write

PAIR = (
    "project=tests",
    "student.name=cnn",
    "student.width=4",
    "peers.b.network.name=mlp",
    "peers.b.network.depth=2",
)


def begin(folder: Path, *pairs: str) -> Sweep:
    return Sweep.create(Store.open(folder).sweep("mine"), load(None, [*PAIR, *pairs]), "sweep")


def tracked(sweep: Sweep, *trials: Trial, ended: str = "finished") -> None:
    """Log one epoch of each trial and its end, as a driver does."""
    tracker = Tracker(Store(sweep.folder.parent.parent), sweep)
    for trial in trials:
        sweep.save_trial(trial)
        tracker.trial_started(trial)
        if trial.metrics:
            tracker.trial_reported(trial, trial.epochs, trial.metrics)
        tracker.trial_ended(trial)
    tracker.close(ended, timeout=60)


def client_of(sweep: Sweep) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(Store(sweep.folder.parent.parent), sweep.configuration))


def runs_of(sweep: Sweep) -> dict[str, Any]:
    """Return the runs by the sweep's keys."""
    client = client_of(sweep)
    return {
        key: client.get_run(run) for key, run in RUN_IDS.read(sweep.folder / "mlflow.json").items()
    }


def test_metrics_are_split_by_run() -> None:
    metrics = {
        "validation/nll": 1.0,
        "a/validation/nll": 2.0,
        "b/test/last/nll": 3.0,
        "pair/agreement": 4.0,
        "c/parameters": 5.0,
    }
    assert split_by_run(7, metrics, ("a", "b")) == {
        "7": {"validation/nll": 1.0, "pair/agreement": 4.0, "c/parameters": 5.0},
        "7/a": {"validation/nll": 2.0},
        "7/b": {"test/last/nll": 3.0},
    }
    assert split_by_run(7, metrics, ()) == {"7": metrics}


def test_every_student_has_a_run_below_that_of_its_trial(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    params = {
        "temperature": 2.0,
        "training.learning_rate": 0.1,
        "peers.b.training.learning_rate": 0.3,
    }
    tracked(
        sweep,
        Trial(0, params, "complete", 0.6, epochs=3, metrics=metrics_of((0.7, 0.6), (0.5, 0.4))),
    )
    runs = runs_of(sweep)
    assert set(runs) == {"parent", "0", "0/a", "0/b"}
    assert runs["0/b"].info.run_name == "mine/000 kd/b" and runs["0"].info.run_name == "mine/000 kd"
    assert (
        runs["0"].data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
        and runs["0"].data.tags["kind"] == "trial"
    )
    for letter, network in (("a", "cnn"), ("b", "mlp")):
        run = runs[f"0/{letter}"]
        expected = {
            "mlflow.parentRunId": runs["0"].info.run_id,
            "kind": "student",
            "student": network,
            "letter": letter,
            "method": "kd",
            "data": "digits",
            "sweep": "mine",
            "state": "complete",
        }
        assert expected.items() <= run.data.tags.items() and run.info.status == "FINISHED"
    assert (
        runs["0/a"].data.params["training.learning_rate"] == "0.1"
        and runs["0/a"].data.params["network.width"] == "4"
    )
    assert (
        runs["0/b"].data.params["training.learning_rate"] == "0.3"
        and runs["0/b"].data.params["network.depth"] == "2"
    )
    own = {
        "validation/accuracy": 0.5,
        "test/last/accuracy": 0.4,
        "test/best/accuracy": 0.39,
        "best_epoch": 2.0,
        "parameters": 200.0,
    }
    assert runs["0/b"].data.metrics == pytest.approx(own)
    assert set(runs["0"].data.metrics) == {
        "validation/accuracy",
        "test/last/accuracy",
        "pair/agreement",
        "parameters",
        "seconds/epoch",
    }


def test_a_resume_goes_on_with_the_runs_of_the_students_and_a_failure_closes_them(
    tmp_path: Path,
) -> None:
    sweep = begin(tmp_path)
    trial = Trial(0, {}, "waiting", epochs=1, metrics={"b/train/loss": 2.0})
    tracked(sweep, trial, ended="interrupted")
    before = runs_of(sweep)
    assert [before[key].info.status for key in ("0", "0/a", "0/b")] == ["KILLED"] * 3
    trial.state, trial.message, trial.epochs, trial.metrics = (
        "failed",
        "it diverged",
        2,
        {"b/train/loss": 3.0},
    )
    tracked(sweep, trial)
    after = runs_of(sweep)
    assert {key: run.info.run_id for key, run in after.items()} == {
        key: run.info.run_id for key, run in before.items()
    }
    for key in ("0", "0/a", "0/b"):
        assert (
            after[key].info.status == "FAILED" and after[key].data.tags["message"] == "it diverged"
        )
    history = client_of(sweep).get_metric_history(after["0/b"].info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 3.0)]


def test_pictures_of_each_student_are_in_its_own_run(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    folder = write(sweep.trial_folder(0), traced(), class_arrays(10))
    (folder / "checkpoint" / "b").mkdir()
    save_file(traced(alpha=False) | unsure(), folder / "checkpoint" / "b" / figures.TRACE)
    tracked(sweep, Trial(0, {}, "complete", 0.5))
    client, runs = client_of(sweep), runs_of(sweep)

    def drawn(key: str) -> set[str]:
        return {
            Path(file.path).stem for file in client.list_artifacts(runs[key].info.run_id, "figures")
        }

    assert drawn("0/a") == {"terms", "alpha_per_sample", "class_weights", "distributions"}
    assert drawn("0/b") == {"terms", "uncertainty"} and drawn("0") == set()


def test_gains_are_metrics_of_the_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer_method(monkeypatch)
    sweep = begin(tmp_path, "search.methods=[kd, mutual]")
    tracked(
        sweep,
        Trial(
            0, {"method.name": "kd"}, "complete", 0.6, metrics=metrics_of((0.7, 0.6), (0.5, 0.4))
        ),
        Trial(
            1,
            {"method.name": "mutual"},
            "complete",
            0.7,
            metrics=metrics_of((0.8, 0.65), (0.45, 0.5)),
        ),
    )
    runs = runs_of(sweep)
    gained = {
        key: {name: value for name, value in run.data.metrics.items() if "gain" in name}
        for key, run in runs.items()
    }
    assert gained["1/a"] == pytest.approx(
        {"gain/validation_accuracy": 0.1, "gain/test_accuracy": 0.05}
    )
    assert gained["1/b"] == pytest.approx(
        {"gain/validation_accuracy": -0.05, "gain/test_accuracy": 0.1}
    )
    assert not any(gained[key] for key in ("parent", "0", "0/a", "0/b", "1"))


def test_the_front_is_a_file_a_picture_and_a_tag_which_a_later_trial_may_take_away(
    tmp_path: Path,
) -> None:
    objectives = ("search.objectives=[validation/accuracy, parameters]", "search.scheduler=none")
    configuration = load(None, ["project=tests", *objectives])
    sweep = Sweep.create(Store.open(tmp_path).sweep("mine"), configuration, "sweep")
    trials = [
        Trial(n, {"n": n}, "complete", a, values=[a, p])
        for n, (a, p) in enumerate([(0.9, 90.0), (0.5, 10.0), (0.4, 20.0)])
    ]
    tracked(sweep, *trials, Trial(3, {}, "stopped_early", 1.0, values=[1.0, 1.0]))
    client, tags = (
        client_of(sweep),
        {key: run.data.tags.get("pareto_front") for key, run in runs_of(sweep).items()},
    )
    assert tags == {"parent": None, "0": "true", "1": "true", "2": "false", "3": None}
    parent = runs_of(sweep)["parent"]
    assert parent.data.tags["best.trial"] == "0", "by the first objective, of the complete ones"
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "figures")} == {
        "figures/pareto_front.png"
    }

    def front_file() -> Any:
        return json.loads(
            Path(
                client.download_artifacts(parent.info.run_id, "pareto_front.json", str(tmp_path))
            ).read_text()
        )

    assert front_file()["objectives"][1] == {"name": "parameters", "direction": "minimize"}
    assert [each["trial"] for each in front_file()["front"]] == [0, 1]
    assert front_file()["front"][1] == {
        "trial": 1,
        "values": {"validation/accuracy": 0.5, "parameters": 10.0},
        "settings": {"n": 1},
    }
    tracked(sweep, Trial(4, {}, "complete", 0.6, values=[0.6, 10.0]))
    later = {key: run.data.tags.get("pareto_front") for key, run in runs_of(sweep).items()}
    assert (
        later["1"] == "false"
        and later["4"] == later["0"] == "true"
        and [each["trial"] for each in front_file()["front"]] == [0, 4]
    )


def test_gains_of_trials_with_removed_runs_are_still_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer_method(monkeypatch)
    objectives = (
        "search.objectives=[validation/accuracy, parameters]",
        "search.scheduler=none",
        "search.methods=[kd, mutual]",
    )
    sweep, same = begin(tmp_path, *objectives), metrics_of((0.5, 0.5), (0.5, 0.5))

    def made(number: int, method: str, size: float) -> Trial:
        return Trial(
            number, {"method.name": method}, "complete", 0.5, metrics=same, values=[0.5, size]
        )

    tracked(sweep, made(0, "kd", 9.0), made(1, "mutual", 5.0), ended="interrupted")
    elsewhere = sweep.configuration.tracking.model_copy(
        update={"uri": f"sqlite:///{tmp_path}/new.db"}
    )
    # a server that has none of the runs
    sweep.configuration = sweep.configuration.model_copy(update={"tracking": elsewhere})
    tracked(sweep, made(2, "mutual", 7.0))
    client, runs = client_of(sweep), runs_of(sweep)
    assert (
        set(runs) == {"parent", "2", "2/a", "2/b"}
        and runs["2"].data.tags["pareto_front"] == "false"
    )
    assert (
        "gain/test_accuracy" in runs["2/a"].data.metrics
        and "gain/test_accuracy" in runs["2/b"].data.metrics
    )
    files = {
        file.path
        for folder in (None, "figures")
        for file in client.list_artifacts(runs["parent"].info.run_id, folder)
    }
    assert {"pareto_front.json", "figures/pareto_front.png"} <= files
