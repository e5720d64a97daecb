"""Test a sweep's runs in MLflow with a real client, also after resumes and deletions."""

import json
import math
from pathlib import Path

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.core.provenance import describe
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, read_json, write_json
from orchestrator.tracking._values import flatten, tracking_uri
from orchestrator.tracking.tracker import Tracker


def test_a_removed_experiment_and_a_removed_database_are_made_again(tracked_store: Store) -> None:
    store = tracked_store
    from mlflow import MlflowClient

    sweep = Sweep.create(store.sweep("mine"), load(None, ["project=tests"]), "sweep")
    for step in ("first", "deleted", "gone"):
        tracker = Tracker(store, sweep)
        tracker.trial_started(Trial(0, {}, state="running"))
        tracker.trial_ended(Trial(0, {}, state="waiting"))
        tracker.close("interrupted", timeout=60)
        client = MlflowClient(tracking_uri(store, sweep.configuration))
        experiment = client.get_experiment_by_name("tests")
        assert experiment is not None and experiment.lifecycle_stage == "active", step
        assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {
            "mine",
            "mine/000 kd",
        }
        if step == "first":
            client.delete_experiment(experiment.experiment_id)
            sweep.folder.joinpath("mlflow.json").unlink()  # as for a new sweep
        else:  # as after the removal of the database
            client.delete_experiment(experiment.experiment_id)
            write_json(sweep.folder / "mlflow.json", {"parent": "0" * 32, "0": "1" * 32})


def test_a_resumed_sweep_goes_on_with_its_runs(tracked_store: Store) -> None:
    store = tracked_store
    from mlflow import MlflowClient

    sweep = Sweep.create(store.sweep("mine"), load(None, ["project=tests"]), "sweep")
    trial = Trial(0, {"temperature": 2.0}, state="running")
    sweep.save_trial(trial)
    for epoch, (state, ended) in enumerate(
        [("waiting", "interrupted"), ("complete", "finished")], start=1
    ):
        tracker = Tracker(store, sweep)
        tracker.trial_started(trial)
        trial.value = 0.5 * epoch
        tracker.trial_reported(trial, epoch, {"validation/accuracy": 0.5 * epoch})
        trial.state = state  # type: ignore[assignment]
        tracker.trial_ended(trial)
        tracker.close(ended, timeout=60)
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


def test_settings_that_change_are_metrics_with_a_step_and_tags(tracked_store: Store) -> None:
    store = tracked_store
    from mlflow import MlflowClient

    configuration = load(
        None, ["project=tests", "search.scheduler=pbt", "search.methods=[kd, ttm]"]
    )
    sweep = Sweep.create(store.sweep("mine"), configuration, "sweep")
    trial = Trial(
        0,
        {"method.name": "kd", "kd.temperature": 2.0, "training.learning_rate": 0.1},
        state="running",
    )
    sweep.save_trial(trial)
    for epoch in (5, 10):  # the second time after a resume
        tracker = Tracker(store, sweep)
        tracker.trial_started(trial)
        params = {
            "method.name": "ttm",
            "ttm.temperature": 3.0 * epoch,
            "training.learning_rate": 0.2 * epoch,
        }
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
        assert [
            (point.step, "nan" if math.isnan(point.value) else point.value) for point in history
        ] == points
    assert run.data.params["training.learning_rate"] == "0.1", "what the study drew"
    assert run.data.tags["method"] == run.data.tags["setting/method.name"] == "ttm"
    assert (
        run.data.tags["taken_over"]
        == "copied the weights of trial 3 after epoch 5, trial 3 after epoch 10"
    )
    text = Path(
        client.download_artifacts(run.info.run_id, "configuration.json", str(store.root))
    ).read_text()
    assert json.loads(text)["training"]["learning_rate"] == 2.0


def test_tags_of_the_settings_in_force_are_there_from_the_start_and_go_when_they_leave(
    tracked_store: Store,
) -> None:
    store = tracked_store
    from mlflow import MlflowClient

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
        run = MlflowClient(tracking_uri(store, configuration)).get_run(
            read_json(sweep.folder / "mlflow.json")["0"]
        )
        found.append(
            {name: value for name, value in run.data.tags.items() if name.startswith("setting/")}
        )
    assert found == [{"setting/depth": "2", "setting/loss": "mse"}, {"setting/depth": "4"}]
    assert math.isnan(run.data.metrics["setting/alpha"]) and run.data.metrics["setting/beta"] == 0.1


def test_flat_leaves_nothing_nested() -> None:
    pairs = flatten(Configuration().plain())
    assert pairs["training.epochs"] == "12" and pairs["teacher.network.name"] == "mlp"
    assert not any(value.startswith("{") for value in pairs.values())


def test_the_environment_is_described() -> None:
    tags = describe()
    assert tags["version.torch"] and tags["git.dirty"] in ("true", "false", "unknown")


def history(store: Store, sweep: Sweep, key: str, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(store, sweep.configuration))
    found = client.get_metric_history(read_json(sweep.folder / "mlflow.json")[key], name)
    return [(point.step, point.value) for point in found]


def all_runs(store: Store, sweep: Sweep) -> list[tuple[str, str]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(store, sweep.configuration))
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return sorted(
        (run.info.run_name, run.info.status)
        for run in client.search_runs([experiment.experiment_id])
    )


def die(tracker: Tracker) -> None:
    """End the process: nothing more is sent or written."""
    tracker.writer._end_process()
    tracker.writer.writes.close()
    tracker.writer.files.close()


def test_what_a_killed_driver_left_is_written_once_and_in_order(tracked_store: Store) -> None:
    """Killed before a send, with lost ids, between record and tracker, with a running parent."""
    store = tracked_store
    sweep = Sweep.create(store.sweep("mine"), load(None, ["project=tests"]), "sweep")
    trial, other = Trial(0, {"temperature": 2.0}), Trial(1, {"temperature": 3.0})

    def driver(*epochs: int) -> Tracker:
        tracker = Tracker(store, sweep)
        trial.state = "running"
        tracker.trial_started(trial)
        for epoch in epochs:
            tracker.trial_reported(trial, epoch, {"validation/accuracy": epoch / 10})
        return tracker

    tracker = Tracker(store, sweep)
    tracker.trial_started(trial)
    die(tracker)
    die(driver(1, 2))
    tracker = driver(2, 3)  # epoch 2 is reported again: the record lacked it
    tracker.close("interrupted", timeout=60)
    assert history(store, sweep, "0", "validation/accuracy") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    (sweep.folder / "mlflow.json").write_text('{"parent": "0')  # in the middle of a write
    die(driver(4))
    (sweep.folder / "mlflow.json").unlink(missing_ok=True)
    for each, state in ((trial, "complete"), (other, "failed")):
        each.state, each.value, each.epochs = state, 0.4, 4  # type: ignore[assignment]
        # killed before the tracker received it; it never received the other one
        sweep.save_trial(each)
    Tracker(store, sweep).close("finished")
    assert all_runs(store, sweep) == [
        ("mine", "FINISHED"),
        ("mine/000 kd", "FINISHED"),
        ("mine/001 kd", "FAILED"),
    ]
    assert history(store, sweep, "0", "validation/accuracy") == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
        (4, 0.4),
    ]
    best = history(store, sweep, "parent", "best_so_far")
    Tracker(store, sweep).close("finished")
    assert best == history(store, sweep, "parent", "best_so_far") == [(0, 0.4)], (
        "and nothing is sent twice"
    )
    sweep.state = "finished"
    quiet = Tracker(store, sweep)
    assert quiet.writer.unsent == 0 and quiet.close("finished") == 0 and not quiet.writer.started


def test_a_database_that_is_removed_while_writes_wait(tracked_store: Store) -> None:
    store = tracked_store
    sweep = Sweep.create(store.sweep("mine"), load(None, ["project=tests"]), "sweep")
    trial = Trial(0, {}, state="running")
    tracker = Tracker(store, sweep)
    tracker.trial_started(trial)
    tracker.trial_reported(trial, 1, {"validation/accuracy": 0.1})
    tracker.close("interrupted", timeout=60)
    tracker = Tracker(store, sweep)
    tracker.writer.begin = lambda: None  # type: ignore[method-assign]
    tracker.trial_reported(trial, 2, {"validation/accuracy": 0.2})
    die(tracker)
    # as of a deleted database
    write_json(sweep.folder / "mlflow.json", {"parent": "0" * 32, "0": "1" * 32})
    again = Tracker(store, sweep)
    assert again.writer.unsent
    trial.state = "complete"
    again.trial_ended(trial)
    assert again.close("finished") == 0
    assert history(store, sweep, "0", "validation/accuracy")[-1] == (2, 0.2)
    assert not (sweep.folder / "outbox-refused.jsonl").exists()
