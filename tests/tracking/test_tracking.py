"""The runs of a sweep in MLflow, also after a resume and where somebody removed them: a real client on a database."""

import json
import math
from pathlib import Path

from orchestrator.config import Configuration
from orchestrator.reading import load
from orchestrator.records import Sweep, Trial
from orchestrator.store import Store, read_json, write_json
from orchestrator.tracking.environment import describe
from orchestrator.tracking.runs import tracking_uri
from orchestrator.tracking.tracker import Tracker, flat


def test_a_removed_experiment_and_a_removed_database_are_made_again(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = Store.open(tmp_path)
    sweep = Sweep.create(store.sweep("mine"), load(None, ["project=tests"]), "sweep")
    for step in ("first", "deleted", "gone"):
        tracker = Tracker(store, sweep)
        tracker.trial_started(Trial(0, {}, state="running"))
        tracker.trial_ended(Trial(0, {}, state="waiting"))
        tracker.close("interrupted")
        client = MlflowClient(tracking_uri(store, sweep.configuration))
        experiment = client.get_experiment_by_name("tests")
        assert experiment is not None and experiment.lifecycle_stage == "active", step
        assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {"mine", "mine/000 kd"}
        if step == "first":
            client.delete_experiment(experiment.experiment_id)
            sweep.folder.joinpath("mlflow.json").unlink()  # as a new sweep would find it
        else:  # as a sweep finds it whose database was removed
            client.delete_experiment(experiment.experiment_id)
            write_json(sweep.folder / "mlflow.json", {"parent": "0" * 32, "0": "1" * 32})


def test_a_resumed_sweep_goes_on_with_its_runs(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = Store.open(tmp_path)
    sweep = Sweep.create(store.sweep("mine"), load(None, ["project=tests"]), "sweep")
    trial = Trial(0, {"temperature": 2.0}, state="running")
    sweep.save_trial(trial)
    for epoch, (state, ended) in enumerate([("waiting", "interrupted"), ("complete", "finished")], start=1):
        tracker = Tracker(store, sweep)
        tracker.trial_started(trial)
        trial.value = 0.5 * epoch
        tracker.trial_reported(trial, epoch, {"validation/accuracy": 0.5 * epoch})
        trial.state = state  # type: ignore[assignment]
        tracker.trial_ended(trial)
        tracker.close(ended)
        client = MlflowClient(tracking_uri(store, sweep.configuration))
        experiment = client.get_experiment_by_name("tests")
        assert experiment is not None
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert set(runs) == {"mine", "mine/000 kd"}
        expected = ("KILLED", "KILLED") if state == "waiting" else ("FINISHED", "FINISHED")
        assert (runs["mine"].info.status, runs["mine/000 kd"].info.status) == expected
    child = runs["mine/000 kd"]
    assert child.data.params["temperature"] == "2.0" and child.data.tags["method"] == "kd"
    history = client.get_metric_history(child.info.run_id, "validation/accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 1.0)]


def test_settings_that_change_are_metrics_with_a_step_and_tags(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = Store.open(tmp_path)
    configuration = load(None, ["project=tests", "search.scheduler=pbt", "search.methods=[kd, ttm]"])
    sweep = Sweep.create(store.sweep("mine"), configuration, "sweep")
    trial = Trial(0, {"method.name": "kd", "kd.temperature": 2.0, "training.learning_rate": 0.1}, state="running")
    sweep.save_trial(trial)
    for epoch in (5, 10):  # the second time after a resume
        tracker = Tracker(store, sweep)
        tracker.trial_started(trial)
        params = {"method.name": "ttm", "ttm.temperature": 3.0 * epoch, "training.learning_rate": 0.2 * epoch}
        trial.changes = [*trial.changes, {"epoch": epoch, "source": 3, "params": params}]
        tracker.trial_changed(trial)
        tracker.trial_ended(trial)
        tracker.close("finished")
    client = MlflowClient(tracking_uri(store, configuration))
    run = client.get_run(read_json(sweep.folder / "mlflow.json")["0"])
    for name, points in [
        ("kd.temperature", [(0, 2.0), (5, "nan")]),
        ("ttm.temperature", [(5, 15.0), (10, 30.0)]),
        ("training.learning_rate", [(0, 0.1), (5, 1.0), (10, 2.0)]),
    ]:
        history = client.get_metric_history(run.info.run_id, f"setting/{name}")
        assert [(point.step, "nan" if math.isnan(point.value) else point.value) for point in history] == points
    assert run.data.params["training.learning_rate"] == "0.1", "what the study drew"
    assert run.data.tags["method"] == run.data.tags["setting/method.name"] == "ttm"
    assert run.data.tags["taken_over"] == "took over trial 3 after epoch 5, trial 3 after epoch 10"
    text = Path(client.download_artifacts(run.info.run_id, "configuration.json", str(tmp_path))).read_text()
    assert json.loads(text)["training"]["learning_rate"] == 2.0


def test_tags_of_the_settings_in_force_are_there_from_the_start_and_go_when_they_leave(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = Store.open(tmp_path)
    configuration = load(None, ["project=tests", "search.scheduler=pbt"])
    sweep = Sweep.create(store.sweep("mine"), configuration, "sweep")
    trial = Trial(0, {"depth": 2, "loss": "mse", "alpha": 0.5}, state="running")
    found = []
    for changed in (False, True):
        tracker = Tracker(store, sweep)
        tracker.trial_started(trial)
        if changed:
            trial.changes = [{"epoch": 3, "source": 1, "params": {"depth": 4, "beta": 0.1}}]
            tracker.trial_changed(trial)
        tracker.close("finished")
        run = MlflowClient(tracking_uri(store, configuration)).get_run(read_json(sweep.folder / "mlflow.json")["0"])
        found.append({name: value for name, value in run.data.tags.items() if name.startswith("setting/")})
    assert found == [{"setting/depth": "2", "setting/loss": "mse"}, {"setting/depth": "4"}]
    assert math.isnan(run.data.metrics["setting/alpha"]) and run.data.metrics["setting/beta"] == 0.1


def test_flat_leaves_nothing_nested() -> None:
    pairs = flat(Configuration().plain())
    assert pairs["training.epochs"] == "12" and pairs["teacher.network.name"] == "mlp"
    assert not any(value.startswith("{") for value in pairs.values())


def test_the_environment_is_described() -> None:
    tags = describe()
    assert tags["version.torch"] and tags["git.dirty"] in ("true", "false", "unknown")
