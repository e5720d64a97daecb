"""Run sweeps in their own processes, break them, and compare the results."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import psutil

from orchestrator.core.errors import ConfigurationError
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from tests.processes import titled

ROOT = Path(__file__).parents[2]
NAME = "sweep"
SETTINGS = (
    "data.name=digits",
    "teacher.network.width=32",
    "teacher.training.epochs=2",
    "student.name=cnn",
    "method.name=kd",
    "search.sampler=random",
    "search.scheduler=none",
    "resources.groups=1",
    "project=tests",
)
TIME_METRICS = (  # differs from run to run
    "seconds/",
    "train/images_per_second",
    "cache/",
    "influence/seconds",
    "influence/waited",
    "influence/cpu_seconds",
)
PROCESS_TIMEOUT_S = 280.0  # limit for a process: many times its duration on an idle machine
# limit for leftovers of a dead driver: Ray's agents search for their head for a minute
LEFTOVER_TIMEOUT_S = 120.0


class DriverProcess:
    """One process of `run.py` with its output in a file; leaving the block ends it.

    `seen` holds every process that any of them started.
    """

    seen: ClassVar[set[psutil.Process]] = set()

    def __init__(
        self, store: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        store.parent.mkdir(parents=True, exist_ok=True)
        self.printed = store.parent / f"printed-{len(list(store.parent.glob('printed-*')))}.txt"
        command = [sys.executable, "run.py", *arguments, "--store", str(store)]
        with open(self.printed, "w") as printed:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> "DriverProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def output(self) -> str:
        """Return the output so far."""
        return self.printed.read_text()

    def descendants(self, name: str) -> list[psutil.Process]:
        """Return the live descendants whose title begins with `name`."""
        return titled(name, self._look())

    def _look(self) -> list[psutil.Process]:
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.Error:
            children = []
        self.seen.update(children)
        return children

    def wait_for(
        self, condition: Callable[[], Any], description: str, seconds: float = PROCESS_TIMEOUT_S
    ) -> Any:
        """Wait for a truthy value of the condition, and return it.

        Raises:
            AssertionError: The process ends before, or the time runs out.
        """
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, (
                f"it ended with {self.process.returncode} before {description}:\n{self.output}"
            )
            assert time.monotonic() < end, f"no {description} within {seconds:g} s:\n{self.output}"
            time.sleep(0.01)
        return found

    def kill(self) -> None:
        """Send SIGKILL to the driver only."""
        self._look()
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_until_ended(self, seconds: float = PROCESS_TIMEOUT_S) -> int:
        """Wait until the process ends by itself, and return its exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < end, f"not ended within {seconds:g} s:\n{self.output}"
            self._look()
            time.sleep(0.1)
        return int(self.process.returncode)


def kill_leftovers(wait_s: float) -> list[str]:
    """Kill and name all processes that do not end with their driver within `wait_s`."""
    _, left = psutil.wait_procs(DriverProcess.seen, timeout=wait_s)
    DriverProcess.seen.clear()
    names = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(" ".join(process.cmdline())[:100])
            process.kill()
    return names


def start_sweep(
    store: Path,
    *pairs: str,
    environment: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
) -> DriverProcess:
    """Start a new sweep with these settings, and further options of the command."""
    empty = store.parent / "empty.yaml"
    empty.parent.mkdir(parents=True, exist_ok=True)
    empty.touch()
    settings = [part for pair in (*SETTINGS, *pairs) for part in ("--set", pair)]
    return DriverProcess(
        store,
        "sweep",
        "--config",
        str(empty),
        "--name",
        NAME,
        *settings,
        *options,
        environment=environment,
    )


def resume_sweep(
    store: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> DriverProcess:
    """Resume the same sweep."""
    return DriverProcess(store, "sweep", "--resume", NAME, *arguments, environment=environment)


def load_sweep(store: Path) -> Sweep | None:
    """Return the sweep from its current files; None if there are none."""
    try:
        return Sweep.open(Store(store), NAME)
    except ConfigurationError:
        return None


def epochs(store: Path) -> int:
    """Return the number of recorded epochs of all trials."""
    found = load_sweep(store)
    return sum(trial.epochs for trial in found.trials.values()) if found else 0


def has_epochs(store: Path, count: int) -> Callable[[], bool]:
    """Return a condition: `count` epochs are recorded."""
    return lambda: epochs(store) >= count


def without_times(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are bit-identical in every run."""
    return {name: value for name, value in metrics.items() if not name.startswith(TIME_METRICS)}


def compare(found: Sweep | None, expected: Sweep) -> None:
    """Assert that both sweeps have the same trials with bit-identical results."""
    assert found is not None and found.state == expected.state == "finished"
    assert sorted(found.trials) == sorted(expected.trials), "trials are missing or duplicated"
    for number, trial in expected.trials.items():
        other = found.trials[number]
        assert _result(other) == _result(trial), f"trial {number}"


def _result(trial: Trial) -> dict[str, Any]:
    named = ("number", "params", "state", "value", "epochs", "history", "message")
    return {name: getattr(trial, name) for name in named} | {
        "metrics": without_times(trial.metrics)
    }


def check_study(sweep: Sweep) -> None:
    """Assert that the study has exactly the sweep's trials, with their states and values."""
    from optuna.trial import TrialState

    from orchestrator.sweep._study import open_study

    states = {
        "complete": TrialState.COMPLETE,
        "stopped_early": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    trials = open_study(sweep.folder, sweep.configuration, resume=True).trials
    assert {trial.number: trial.state for trial in trials} == {
        number: states[trial.state] for number, trial in sweep.trials.items()
    }
    for trial in trials:
        mine = sweep.trials[trial.number]
        assert trial.params == mine.params
        if mine.state != "failed":
            assert (
                trial.value == mine.value
                and list(trial.intermediate_values.values()) == mine.history
            )


def check_runs(sweep: Sweep, uri: str | None = None) -> int:
    """Return the number of metric points in MLflow, after checks.

    Each trial must be one run, and each epoch one point of every metric. The parent run and the
    runs of all trials that have not failed must be FINISHED.
    """
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as apart:  # MLflow keeps a former file of the same path open
        copy = shutil.copy(Store(sweep.folder.parents[1]).database, apart) if uri is None else None
        return _checked_runs(sweep, MlflowClient(uri or f"sqlite:///{copy}"))


def _checked_runs(sweep: Sweep, client: Any) -> int:
    experiment = client.get_experiment_by_name(sweep.configuration.project)
    assert experiment is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    ids = json.loads((sweep.folder / "mlflow.json").read_text())
    parents = [run for run in runs.values() if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_id for run in parents] == [ids["parent"]] and parents[
        0
    ].info.status == "FINISHED"
    names = sorted(run.info.run_name for run in runs.values())
    of_trial = 1 + (len(sweep.configuration.students) if sweep.configuration.peers else 0)
    assert len(runs) == 1 + of_trial * len(sweep.trials), f"runs are missing or duplicated: {names}"
    points = 0
    for number, trial in sweep.trials.items():
        run = runs[ids[str(number)]]
        assert run.info.status == ("FAILED" if trial.state == "failed" else "FINISHED")
        assert (
            run.data.tags["state"] == trial.state
            and run.data.tags["mlflow.parentRunId"] == ids["parent"]
        )
        for name in run.data.metrics:
            history = sorted(
                (point.step, point.value)
                for point in client.get_metric_history(run.info.run_id, name)
            )
            if name == "validation/accuracy":
                assert history == list(enumerate(trial.history, start=1)), (
                    f"{name} of trial {number}"
                )
            steps = [step for step, _ in history]
            assert len(steps) == len(set(steps)), f"{name} of trial {number} twice: {steps}"
            points += len(steps)
    return points


def check_all(store: Path, expected: Sweep) -> None:
    """Assert that records, study and MLflow equal those of an uninterrupted sweep, and agree."""
    found = load_sweep(store)
    compare(found, expected)
    assert found is not None
    check_study(found)
    check_runs(found)
