"""The runs of a sweep in MLflow: a parent for the sweep, a child per trial. Written by the driver's thread alone.

Where a trial has several students, its run has a child for each: metrics of one student stand there, under their plain names.
"""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.config import LETTERS, Configuration
from orchestrator.errors import ConfigurationError
from orchestrator.gains import gains
from orchestrator.objectives import goals, in_words
from orchestrator.records import Sweep, Trial
from orchestrator.store import Store, read_json, write_json
from orchestrator.tracking import figures
from orchestrator.tracking.client import Writer
from orchestrator.tracking.environment import describe
from orchestrator.trial import apply

STATUS = {"complete": "FINISHED", "stopped_early": "FINISHED", "failed": "FAILED", "running": "KILLED", "waiting": "KILLED"}
PARENT = "parent"
CONFIGURATION = "configuration.json"
RUNS = "mlflow.json"  # in the sweep's folder: the ids of its runs
FIGURES = "figures"
FRONT = "pareto_front"
SOURCE = {"mlflow.source.name": "run.py", "mlflow.source.type": "LOCAL"}
SETTING = "setting/"  # metrics and tags of what a take-over changes
Point = tuple[str, float, int, int]  # name, value, milliseconds, step
FLUSH_S = 1.0  # metrics of a trial are sent together at most so often: 26 ms a batch against 389 ms one by one


class Tracker:
    """Listens to a sweep. Run ids are kept in the sweep's folder, so that a resume goes on with the same runs."""

    def __init__(self, store: Store, sweep: Sweep, classes: Sequence[str] = ()) -> None:
        self.sweep, self.classes = sweep, classes
        self.uri = tracking_uri(store, sweep.configuration)
        self.artifacts = store.artifacts
        self.fonts = store.root / "fonts"
        self.file = sweep.folder / RUNS
        self.runs: dict[str, str] = read_json(self.file) if self.file.exists() else {}
        self.letters = tuple(sweep.configuration.students) if sweep.configuration.peers else ()
        self.pending: dict[str, list[Point]] = {}
        self.flushed: dict[int, float] = {}
        self.writer = Writer(self.uri)
        self.writer.add(self._open_parent)
        self.writer.add(self._describe_parent)

    def trial_started(self, trial: Trial) -> None:
        """Open the child run, or go on with it."""
        configuration = apply_or_base(self.sweep.configuration, trial.params)
        params = {name: str(value) for name, value in trial.params.items()}
        params |= {f"training.{name}": str(value) for name, value in configuration.training.model_dump(mode="json").items()}
        method, number = configuration.method.name, trial.number
        tags = {"method": method, "student": configuration.student.name, "data": configuration.data.name, "kind": "trial"}
        resolved = apply_or_base(self.sweep.configuration, trial.settings).plain()
        drawn: list[Point] = []
        if self.sweep.configuration.search.scheduler == "pbt":
            drawn, tags = setting_points(trial.params, 0), tags | setting_tags(trial.settings)
        name, key = f"{self.sweep.name}/{number:03d} {method}", str(number)
        self.writer.add(lambda client: self._open_child(client, PARENT, name, key, tags, drawn))
        self.writer.add(lambda client: self._describe_child(client, key, params, resolved))
        for letter in self.letters:
            student = configuration.students[letter]
            own = tags | {"kind": "student", "letter": letter, "student": student.network.name}
            parts = {"network": student.network.model_dump(mode="json"), "training": student.training.model_dump(mode="json")}
            below = f"{number}/{letter}"
            self.writer.add(partial(self._open_child, above=key, name=f"{name}/{letter}", key=below, tags=own, drawn=[]))
            self.writer.add(partial(self._describe_student, key=below, params=flat(parts)))

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Collect the metrics of an epoch."""
        self.writer.begin()
        now = int(time.time() * 1000)
        for key, own in by_run(trial.number, metrics, self.letters).items():
            self.pending.setdefault(key, []).extend((name, value, now, epoch) for name, value in own.items())
        if time.monotonic() - self.flushed.get(trial.number, 0.0) > FLUSH_S:
            self._flush(trial.number)

    def trial_changed(self, trial: Trial) -> None:
        """The settings in force: numbers as metrics, for a param cannot be written twice, the others as tags. What left is NaN."""
        change, key = trial.changes[-1], str(trial.number)
        configuration = apply_or_base(self.sweep.configuration, trial.settings)
        points, resolved = setting_points(change["params"], change["epoch"]), configuration.plain()
        tags = setting_tags(change["params"])
        tags |= {"method": configuration.method.name, "taken_over": trial.taken_over[:5000]}
        self.writer.add(lambda client: self._describe_change(client, key, points, tags, resolved, change["epoch"]))

    def trial_ended(self, trial: Trial) -> None:
        """Close the child run with its state, and draw the best value so far on the parent."""
        self._flush(trial.number)
        state, message = trial.state, trial.said
        for key in self._keys(trial.number):
            self.writer.add(partial(self._close_child, key=key, state=state, message=message))
        if trial.ended:
            self.writer.add(lambda client: self._draw(client, trial.number, complete=state == "complete"))
        best = self.sweep.best()
        if best and best.value is not None and trial.state == "complete":
            point = ("best_so_far", best.value, int(time.time() * 1000), trial.number)
            self.writer.add(lambda client: log_points(client, self.runs[PARENT], [point]))

    def note(self, text: str) -> None:
        """The record of the sweep keeps it."""

    def teacher_ready(self, metrics: dict[str, float], seconds: float, asked: str) -> None:
        """What the teacher reached and how it is asked, on the parent."""
        self.writer.begin()
        now = int(time.time() * 1000)
        self.writer.add(lambda client: client.set_tag(self.runs[PARENT], "teacher", asked))
        points = [(f"teacher/{name}", value, now, 0) for name, value in {**metrics, "seconds": seconds}.items()]
        self.writer.add(lambda client: log_points(client, self.runs[PARENT], points))

    def close(self, state: str, timeout: float | None = None) -> None:
        """Close the parent run, with the best trial's metrics and the Pareto front, and wait until everything is written."""
        best = self.sweep.best()
        self.writer.add(self._log_gains)
        if self.sweep.configuration.search.objectives and self.sweep.kind == "sweep":
            self.writer.add(self._log_front)
        self.writer.add(lambda client: self._close_parent(client, state, best))
        self.writer.close(timeout)

    def _keys(self, number: int) -> list[str]:
        """Under which the runs of a trial are kept: its own and those of its students."""
        return [str(number), *(f"{number}/{letter}" for letter in self.letters)]

    def _flush(self, number: int) -> None:
        self.flushed[number] = time.monotonic()
        for key in self._keys(number):
            batch = self.pending.pop(key, [])
            if batch:
                self.writer.add(partial(self._log_batch, key=key, batch=batch))

    def _log_batch(self, client: Any, key: str, batch: list[Point]) -> None:
        log_points(client, self.runs[key], batch)

    def _draw(self, client: Any, number: int, complete: bool) -> None:
        """Draw what the trial left, once, and send all of it together: to its students' runs, or to its own."""
        figures.settle_cache(self.fonts)
        folder = self.sweep.trial_folder(number)
        for letter in self.letters or LETTERS[0]:
            drawn = figures.pictures(folder, complete, self.classes, letter)
            if figures.AGREEMENT in drawn:
                self._log_figures(client, str(number), {figures.AGREEMENT: drawn.pop(figures.AGREEMENT)})
            self._log_figures(client, f"{number}/{letter}" if self.letters else str(number), drawn)

    def _log_figures(self, client: Any, key: str, drawn: Mapping[str, bytes]) -> None:
        if not drawn:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in drawn.items():
                Path(folder, f"{name}.png").write_bytes(content)
            client.log_artifacts(self.runs[key], folder, FIGURES)

    def _log_gains(self, client: Any) -> None:
        """What the students of each complete trial have of each other."""
        now = int(time.time() * 1000)
        for trial in self.sweep.ranked() if self.letters else ():
            for letter, gain in gains(self.sweep, trial).items():
                run = self.runs.get(f"{trial.number}/{letter}")  # none: MLflow's database was removed after it
                if run:
                    named = {"gain/validation_accuracy": gain.validation, "gain/test_accuracy": gain.test}
                    log_points(client, run, [(name, value, now, 0) for name, value in named.items()])

    def _log_front(self, client: Any) -> None:
        """The Pareto front as a file and a picture of the parent, and as a tag of the trials."""
        objectives, front = goals(self.sweep.configuration.search), self.sweep.front()
        names = [goal.name for goal in objectives]
        numbers = [trial.number for trial in front]
        points = {trial.number: trial.values for trial in self.sweep.ranked() if trial.state == "complete" and trial.values}
        members = [
            {"trial": trial.number, "values": dict(zip(names, trial.values or (), strict=True)), "settings": trial.settings}
            for trial in front
        ]
        plain = {"objectives": [goal._asdict() for goal in objectives], "front": members}
        client.log_text(self.runs[PARENT], json.dumps(plain, indent=1), f"{FRONT}.json")
        if front:
            figures.settle_cache(self.fonts)
            words = [in_words(self.sweep.configuration, name) for name in names]
            self._log_figures(client, PARENT, {FRONT: figures.picture(figures.pareto_front(points, numbers, words))})
        for number in points:
            run = self.runs.get(str(number))  # none: MLflow's database was removed after the trial
            if run:
                client.set_tag(run, FRONT, str(number in numbers).lower())

    def _open_parent(self, client: Any) -> None:
        if PARENT in self.runs and not _exists(client, self.runs[PARENT]):
            self.runs = {}  # somebody removed MLflow's database, which is no reason not to go on
        if PARENT in self.runs:
            client.update_run(self.runs[PARENT], status="RUNNING")
            return
        experiment = self._experiment(client, self.sweep.configuration.project)
        tags = {"kind": self.sweep.kind, "state": "running", **SOURCE, **describe()}
        self._keep(PARENT, client.create_run(experiment, tags=tags, run_name=self.sweep.name).info.run_id)

    def _describe_parent(self, client: Any) -> None:
        plain = self.sweep.configuration.plain()
        _params(client, self.runs[PARENT], flat(plain))
        client.log_text(self.runs[PARENT], json.dumps(plain, indent=1), CONFIGURATION)

    def _experiment(self, client: Any, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found:
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        location = self.artifacts.as_uri() if self.uri.startswith("sqlite") else None
        tags = {"mlflow.experimentKind": "custom_model_development"}  # else the interface opens with its GenAI pages
        return str(client.create_experiment(name, artifact_location=location, tags=tags))

    def _open_child(self, client: Any, above: str, name: str, key: str, tags: dict[str, str], drawn: list[Point]) -> None:
        """The run of a trial below the parent's, or that of a student below its trial's; `above` and `key` are those of `runs`."""
        if key in self.runs:
            client.update_run(self.runs[key], status="RUNNING")
            client.set_tag(self.runs[key], "state", "running")
            return
        experiment = client.get_run(self.runs[PARENT]).info.experiment_id
        tags = tags | SOURCE | {"mlflow.parentRunId": self.runs[above], "sweep": self.sweep.name, "state": "running"}
        self._keep(key, client.create_run(experiment, tags=tags, run_name=name).info.run_id)
        if drawn:
            log_points(client, self.runs[key], drawn)

    def _describe_child(self, client: Any, number: str, params: dict[str, str], resolved: dict[str, Any]) -> None:
        _params(client, self.runs[number], params)
        client.log_text(self.runs[number], json.dumps(resolved, indent=1), CONFIGURATION)

    def _describe_student(self, client: Any, key: str, params: dict[str, str]) -> None:
        _params(client, self.runs[key], params)

    def _close_child(self, client: Any, key: str, state: str, message: str) -> None:
        _close(client, self.runs[key], state, message)

    def _describe_change(
        self, client: Any, number: str, points: list[Point], tags: dict[str, str], resolved: dict[str, Any], epoch: int
    ) -> None:
        now = int(time.time() * 1000)
        run, in_force = self.runs[number], {name for name, *_ in points}
        for name, value in tags.items():
            client.set_tag(run, name, value)
        client.log_text(run, json.dumps(resolved, indent=1), CONFIGURATION)
        log_points(client, run, points)
        known = client.get_run(run).data
        for name in known.tags:
            if name.startswith(SETTING) and name not in tags:
                client.delete_tag(run, name)
        left = [name for name, value in known.metrics.items() if name.startswith(SETTING) and not math.isnan(value)]
        log_points(client, run, [(name, math.nan, now, epoch) for name in left if name not in in_force])

    def _keep(self, key: str, run: str) -> None:
        self.runs[key] = run
        write_json(self.file, self.runs)

    def _close_parent(self, client: Any, state: str, best: Trial | None) -> None:
        run = self.runs[PARENT]
        if best:
            now = int(time.time() * 1000)
            log_points(client, run, [(f"best/{name}", value, now, 0) for name, value in best.metrics.items()])
            client.set_tag(run, "best.trial", str(best.number))
            client.set_tag(run, "best.run", self.runs.get(str(best.number), ""))
            for name, value in best.settings.items():
                client.set_tag(run, f"best.{name}", str(value))
        client.set_tag(run, "state", state)
        client.set_terminated(run, {"finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED"))


def _exists(client: Any, run: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run)
    except MlflowException as error:
        if error.get_http_status_code() >= 500:
            raise
        return False
    return True


def tracking_uri(store: Store, configuration: Configuration) -> str:
    """Where runs go: the configured server, or SQLite in the store (many writers would get "database is locked")."""
    return configuration.tracking.uri or f"sqlite:///{store.database}"


def by_run(number: int, metrics: Mapping[str, float], letters: Sequence[str]) -> dict[str, dict[str, float]]:
    """The metrics of a trial by the key of the run that has them; those of a student lose its letter."""
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        first, _, rest = name.partition("/")
        key, own = (f"{number}/{first}", rest) if first in letters else (str(number), name)
        found.setdefault(key, {})[own] = value
    return found


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted names, as text."""
    pairs: dict[str, str] = {}
    for name, value in values.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
        pairs |= inner
    return pairs


def setting_points(parameters: dict[str, Any], epoch: int) -> list[Point]:
    """The continuous parameters as metrics after `epoch` epochs."""
    now = int(time.time() * 1000)
    return [(f"{SETTING}{name}", value, now, epoch) for name, value in parameters.items() if isinstance(value, float)]


def setting_tags(parameters: dict[str, Any]) -> dict[str, str]:
    """The other parameters as tags."""
    return {f"{SETTING}{name}": str(value) for name, value in parameters.items() if not isinstance(value, float)}


def apply_or_base(configuration: Configuration, parameters: dict[str, Any]) -> Configuration:
    """The configuration of a trial; that of the sweep when the trial's own cannot be built, and so fails."""
    try:
        return apply(configuration, parameters)
    except ConfigurationError:
        return configuration


def _params(client: Any, run: str, values: dict[str, str]) -> None:
    from mlflow.entities import Param

    pairs = [Param(name, value[:6000]) for name, value in values.items()]
    for start in range(0, len(pairs), 100):
        client.log_batch(run, params=pairs[start : start + 100])


def log_points(client: Any, run: str, points: list[Point]) -> None:
    """Metrics of a run: name, value, milliseconds since 1970, step."""
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points]
    for start in range(0, len(metrics), 1000):
        client.log_batch(run, metrics=metrics[start : start + 1000])


def _close(client: Any, run: str, state: str, message: str) -> None:
    client.set_tag(run, "state", state)
    if message:
        client.set_tag(run, "message", message[:5000])
    client.set_terminated(run, STATUS[state])
