"""Test sweeps on Ray with a hanging worker, a dead dispatcher, and consecutive failures."""

import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import psutil
import pytest

from orchestrator.store.records import Trial
from tests.processes import titled
from tests.sweep_runs import RunSweep, Watch, run_small

pytestmark = pytest.mark.ray
SETTINGS = (
    "method.name=ttm",
    "training.epochs=12",
    "search.trials=4",
    "search.scheduler=none",
    "resources.groups=1",
)


@pytest.fixture
def run(tmp_path: Path) -> RunSweep:
    """Return a function that runs a sweep on a Ray of its own."""
    return partial(run_small, tmp_path / "store")


def alone(run: RunSweep, trial: Trial) -> list[float | None]:
    """Return the reported values of the trial when trained alone in this process."""
    given = [
        f"{key if '.' in key else f'method.{key}'}={json.dumps(value)}"
        for key, value in trial.params.items()
    ]
    return (
        run(*SETTINGS, *given, kind="train", local=True, name=f"alone-{trial.number}")
        .trials[0]
        .history
    )


@pytest.mark.faults
def test_a_worker_that_hangs_is_replaced_and_a_dispatcher_or_a_stand_in_that_dies_comes_back(
    run: RunSweep,
) -> None:
    hit: list[int] = []

    def strike(trial: Trial, epoch: int) -> None:
        if trial.number == 1 and epoch == 4 and len(hit) == 0:
            hit.append(titled("ray::DispatcherActor")[0].pid)
            os.kill(hit[-1], signal.SIGKILL)
        if trial.number == 2 and epoch == 4 and len(hit) == 1:
            hit.append(titled("ray::RayTrainWorker")[0].pid)
            os.kill(hit[-1], signal.SIGSTOP)
        if trial.number == 3 and epoch == 4 and len(hit) == 2:
            hit.append(titled("ray::ProxyTrainable")[0].pid)
            os.kill(hit[-1], signal.SIGKILL)

    watch = Watch(strike)
    sweep = run(
        *SETTINGS, "resources.heartbeat_warning_s=2", "resources.heartbeat_timeout_s=4", watch=watch
    )
    assert len(hit) == 3 and not any(map(psutil.pid_exists, hit))
    assert [trial.state for trial in sweep.trials.values()] == ["complete"] * 4
    for number in (1, 2, 3):
        assert sweep.trials[number].history == alone(run, sweep.trials[number]), (
            "no epoch is lost, none is told twice"
        )
    notes = "\n".join(watch.notes)
    assert "the trial dispatcher died and was restarted" in notes
    replaced = re.search(r"group 0 is replaced: (trial-\d+) has sent no heartbeat", notes)
    assert replaced, notes
    stopped = replaced[1]  # the trial after the second one, if that has ended when it is reported
    silent = rf"{stopped} has sent no heartbeat for [23] s: group 0 trains it, last at "
    assert re.search(silent, notes) and "the cluster has 1 node with" in notes, notes
    assert (
        f"{stopped} continues from its checkpoint: its worker died (failure 1 of at most 2" in notes
    )
    shown = [note for note in watch.notes if not note.startswith(("augmentation", "normalisation"))]
    assert [note["text"] for note in sweep.notes] == shown


@pytest.mark.faults
def test_two_workers_survive_the_death_of_one(run: RunSweep) -> None:
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
    # no epoch is lost and none is reported twice
    assert all(len(trial.history) == 40 for trial in sweep.trials.values())
    again = run(*options, name="again")
    assert [trial.history for trial in again.trials.values()] == [
        trial.history for trial in sweep.trials.values()
    ]
