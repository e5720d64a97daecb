"""Test synchronous sweeps on Ray: more trials than groups, copies of weights, and the end."""

import json

import pytest
from optuna.trial import TrialState

from orchestrator.config.trial import SNAPSHOTS
from orchestrator.sweep._study import open_study
from orchestrator.tracking._runs import RUN_IDS
from tests.sweep_runs import RunSweep, Watch

pytestmark = pytest.mark.ray


@pytest.mark.slow  # decisions: tests/sweep/test_population.py; copies on Ray: test_pair_sweeps.py
def test_population_of_four_on_two_groups(run: RunSweep) -> None:
    from mlflow import MlflowClient

    watch = Watch()
    given = (
        "method.name=kd",
        "search.scheduler=pbt",
        "search.trials=4",
        "search.perturb_epochs=2",
        "resources.groups=2",
    )
    sweep = run(*given, "training.epochs=5", "data.limit.train=400", watch=watch)
    assert sorted(watch.ended) == [(number, "complete") for number in range(4)]
    takers = [trial for trial in sweep.trials.values() if trial.changes]
    assert (
        takers
        and watch.changed
        and {change["epoch"] for trial in takers for change in trial.changes} <= {2, 4}
    )
    ids = json.loads((sweep.folder / "mlflow.json").read_text())
    client = MlflowClient(f"sqlite:///{sweep.folder.parent.parent / 'mlflow.db'}")
    study = open_study(sweep.folder, sweep.configuration, resume=True)
    for number, trial in sweep.trials.items():
        assert len(trial.history) == 5 and study.trials[number].state == TrialState.COMPLETE
        assert study.trials[number].user_attrs.get("changes", []) == trial.changes
        for name, value in trial.params.items():
            history = client.get_metric_history(ids[str(number)], f"setting/{name}")
            points = [
                (0, value),
                *((change["epoch"], change["params"][name]) for change in trial.changes),
            ]
            assert [(point.step, point.value) for point in history] == points
        assert not (sweep.trial_folder(number) / SNAPSHOTS).exists()
    taker = takers[0]
    progress = json.loads(
        (sweep.trial_folder(taker.number) / "checkpoint" / "progress.json").read_text()
    )
    assert progress["record"]["epoch"] == 5 and progress["record"]["done"]


# `asha` ends at the same deadline; its waiting trials are not part of a population
@pytest.mark.parametrize("scheduler", ["pbt", pytest.param("asha", marks=pytest.mark.slow)])
def test_time_budget_ends_the_sweep_with_the_finished_trials(scheduler: str, run: RunSweep) -> None:
    watch = Watch()
    given = (
        "method.name=kd",
        f"search.scheduler={scheduler}",
        "search.trials=12",
        "search.perturb_epochs=200",
        "resources.groups=1",
    )
    sweep = run(
        *given, "student.name=cnn", "training.epochs=400", "search.time_budget=14", watch=watch
    )
    assert sweep.state == "finished" and sweep.best() is not None
    run_numbers = {
        number for number, trial in sweep.trials.items() if trial.state == "stopped_early"
    }
    assert run_numbers and run_numbers == set(watch.started)
    assert all(
        trial.state == "waiting" and not trial.epochs
        for number, trial in sweep.trials.items()
        if number not in run_numbers
    )
    assert scheduler == "asha" or len(sweep.trials) == 12 > len(run_numbers)
    assert set(RUN_IDS.read(sweep.folder / "mlflow.json")) == {"parent", *map(str, run_numbers)}
    assert not list(sweep.folder.glob(f"trials/*/{SNAPSHOTS}"))


def test_hyperband_stops_trials_at_the_milestones(run: RunSweep) -> None:
    """With more epochs there are more milestones: tests/sweep/test_brackets.py."""
    given = (
        "method.name=kd",
        "search.scheduler=hyperband",
        "search.trials=6",
        "search.reduction_factor=3",
        "resources.groups=2",
    )
    sweep = run(*given, "training.epochs=3", "data.limit.train=400")
    assert sweep.state == "finished"
    epochs = {number: trial.epochs for number, trial in sweep.trials.items()}
    assert [epochs[number] for number in (0, 1)] == [3, 3], "the first bracket has no milestone"
    assert sorted(epochs[number] for number in range(2, 5)) == [1, 1, 3] and epochs[5] == 3
    assert all(len(trial.history) == trial.epochs for trial in sweep.trials.values())
    assert sum(trial.state == "stopped_early" for trial in sweep.trials.values()) == 2
