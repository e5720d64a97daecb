"""Perform each kind of write on the runs of a sweep in MLflow, in the process that sends them.

A run is identified by its key: `parent`, `7` for a trial, `7/b` for a student of it. The sweep's
folder holds the MLflow ids, and tags record the owner. So a run is found again after its process
has died. Every write is idempotent.
"""

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.schema import LETTERS, Configuration
from orchestrator.config.uris import database_file, scheme_of
from orchestrator.core.program import program_name
from orchestrator.reporting.figures import trial
from orchestrator.store.checkpoint_storage import LIGHT, checkpoint_storage
from orchestrator.store.record_file import DamagedRecordError, RecordSchema
from orchestrator.store.records import Sweep
from orchestrator.store.retained_weights import trials_with_weights
from orchestrator.store.store import Store, set_aside
from orchestrator.tracking._client import status_of
from orchestrator.tracking._description import NOTE, RUN
from orchestrator.tracking._outbox import OUTBOX
from orchestrator.tracking._relocation import missing_artifacts, relocate_artifacts
from orchestrator.tracking._values import PARENT, tracking_uri
from orchestrator.tracking._writes import (
    CloseRun,
    LogDataset,
    LogFigures,
    LogFront,
    LogParams,
    LogPoints,
    LogText,
    OpenRun,
    Point,
    RegisterModel,
    SetTags,
    Write,
)
from orchestrator.tracking.model_registry import ExportProgram, register

RUNS = "mlflow.json"  # file in the sweep's folder with the ids of its runs
RUN_IDS = RecordSchema[dict[str, str]](dict[str, str])
log = logging.getLogger(__name__)
FIGURES = "figures"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
OWNER, KEY = "sweep.id", "sweep.key"  # tags that identify a run


class Runs:
    """Performer of writes for the runs of a sweep.

    Args:
        store: The store of the sweep.
        sweep: The sweep.
        classes: The names of the classes, for the figures.
        export_program: Exports a student; without it no model is registered.
        notify: Receives notes about the location of the runs.
        update_trials: Reads the trials of the sweep again, if another process writes them.
    """

    def __init__(
        self,
        store: Store,
        sweep: Sweep,
        classes: Sequence[str] = (),
        export_program: ExportProgram | None = None,
        notify: Callable[[str], None] = log.warning,
        update_trials: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self.sweep = sweep
        self.classes = classes
        self.export_program = export_program
        self.artifacts: Path | None = None
        if scheme_of(tracking_uri(store, sweep.configuration)) in DATABASES:
            self.artifacts = store.artifacts
        self.notify, self.update_trials = notify, update_trials
        self.fonts = store.root / "fonts"
        self.file = sweep.folder / RUNS
        self.owner = f"{sweep.name} {sweep.started!r}"
        self.experiment = ""
        self.checked = False
        self.ids: dict[str, str] = {}
        # Some runs may exist in MLflow without an id in the file
        self.ids_incomplete = not self.file.exists() and (sweep.folder / OUTBOX).exists()
        if self.file.exists():
            try:
                self.ids = RUN_IDS.read(self.file)
            except DamagedRecordError as error:
                self.ids_incomplete = True
                notify(
                    f"{error}: the file was renamed to {set_aside(self.file).name}, and the runs "
                    f"are searched by their tags"
                )
        self.kinds: dict[type[Any], Callable[[Any, Any], None]] = {
            LogParams: self._params,
            SetTags: self._tags,
            CloseRun: self._close,
            LogText: self._text,
            LogFigures: self._figures,
            LogFront: self._front,
            LogDataset: self._dataset,
            RegisterModel: self._model,
        }

    def is_open(self, write: Write) -> bool:
        """Return whether the run of a write is open."""
        return write.run in self.ids

    def perform(self, client: Any, writes: Sequence[Write], again: bool) -> None:
        """Perform one write, or several writes of points together.

        Args:
            client: The MLflow client.
            writes: The writes.
            again: Whether an earlier process may have performed them before it died.
        """
        self._check_runs(client)
        try:
            self._perform(client, writes, again)
        except Exception as error:
            if status_of(error) != 404 or not self._forget(client, writes):
                raise
            self._perform(client, writes, again=True)

    def _perform(self, client: Any, writes: Sequence[Write], again: bool) -> None:
        for write in writes:
            if isinstance(write, LogPoints):
                continue
            if write.existing and not self.is_open(write):
                continue
            if isinstance(write, OpenRun):
                self._open(client, write, again)
            else:
                self.kinds[type(write)](client, write)
        self._points(client, [write for write in writes if isinstance(write, LogPoints)])

    def _check_runs(self, client: Any) -> None:
        """Check once whether the runs still exist.

        A removed MLflow database does not stop the sweep.
        """
        if self.checked:
            return
        for before in relocate(self.store, self.sweep.configuration):
            self.notify(
                f"the store was moved from {before}: its artifacts in MLflow now point to "
                f"{self.store.artifacts}"
            )
        if PARENT in self.ids:
            run = _get(client, self.ids[PARENT])
            if run is None:
                self.ids, self.ids_incomplete = {}, True
            else:
                self._use_experiment(client.get_experiment(run.info.experiment_id))
        if self.ids_incomplete:
            self._find_all(client)
        self.checked = True

    def _forget(self, client: Any, writes: Sequence[Write]) -> bool:
        """Return whether runs of these writes are gone from MLflow. Their ids are dropped."""
        keys = {PARENT} | {write.run for write in writes}
        keys |= {key for write in writes if isinstance(write, LogPoints) for key in write.points}
        gone = [key for key in keys if key in self.ids and _get(client, self.ids[key]) is None]
        for key in gone:
            del self.ids[key]
        if PARENT in gone:
            self.experiment = ""
        return bool(gone)

    def _experiment_id(self, client: Any) -> str:
        """Return the id of the experiment. Create the experiment if there is none."""
        if self.experiment:
            return self.experiment
        name = self.sweep.configuration.project
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            location = self.artifacts.as_uri() if self.artifacts else None
            # Without this tag the interface opens with its GenAI pages
            tags = {"mlflow.experimentKind": "custom_model_development"}
            try:
                self.experiment = str(
                    client.create_experiment(name, artifact_location=location, tags=tags)
                )
                return self.experiment
            except Exception:
                experiment = client.get_experiment_by_name(
                    name
                )  # another sweep may have created it
                if experiment is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        self._use_experiment(experiment)
        return self.experiment

    def _use_experiment(self, experiment: Any) -> None:
        """Use an existing experiment. Send a note if its artifacts would be misplaced."""
        self.experiment = str(experiment.experiment_id)
        if self.artifacts and (
            missing := missing_artifacts(experiment.artifact_location, self.artifacts)
        ):
            self.notify(missing)

    def _id(self, client: Any, key: str) -> str:
        """Return the id of a run. Create a run with only its name if the opened one is gone."""
        if key not in self.ids:
            name = self.sweep.name if key == PARENT else f"{self.sweep.name}/{key}"
            kind = self.sweep.kind if key == PARENT else "student" if "/" in key else "trial"
            tags, now = {"kind": kind, "state": "running"}, int(time.time() * 1000)
            bare = OpenRun(run=key, name=name, tags=tags, at=now)
            self._open(client, bare, again=True)
        return self.ids[key]

    def _open(self, client: Any, write: OpenRun, again: bool) -> None:
        key = write.run
        source = {"mlflow.source.name": program_name().split()[-1], "mlflow.source.type": "LOCAL"}
        tags = write.tags | source | {OWNER: self.owner, KEY: key}
        if key != PARENT:
            above = key.partition("/")[0] if "/" in key else PARENT
            tags |= {"mlflow.parentRunId": self._id(client, above), "sweep": self.sweep.name}
        if key not in self.ids and (again or self.ids_incomplete):
            self._find(client, key)
        if key in self.ids:
            client.update_run(self.ids[key], status="RUNNING", name=write.name)
            _batch(client, self.ids[key], tags=tags)
        else:
            experiment = self._experiment_id(client)
            run = client.create_run(experiment, start_time=write.at, tags=tags, run_name=write.name)
            self._store_id(key, run.info.run_id)

    def _find(self, client: Any, key: str) -> None:
        wanted = f"tags.`{OWNER}` = '{self.owner}' and tags.`{KEY}` = '{key}'"
        for run in client.search_runs(
            [self._experiment_id(client)], filter_string=wanted, max_results=1
        ):
            self._store_id(key, run.info.run_id)

    def _find_all(self, client: Any) -> None:
        """Find all runs of the sweep, including those of trials that get no more writes."""
        token, wanted = None, f"tags.`{OWNER}` = '{self.owner}'"
        while True:
            page = client.search_runs(
                [self._experiment_id(client)], filter_string=wanted, page_token=token
            )
            self.ids = {run.data.tags[KEY]: run.info.run_id for run in page} | self.ids
            token = getattr(page, "token", None)
            if not token:
                break
        if self.ids:
            RUN_IDS.write(self.file, self.ids)

    def _store_id(self, key: str, run: str) -> None:
        RUN_IDS.write(self.file, self.ids | {key: run})
        self.ids[key] = run

    def _points(self, client: Any, writes: Sequence[LogPoints]) -> None:
        together: dict[str, list[Point]] = {}
        for write in writes:
            for key, points in write.points.items():
                if key in self.ids or not write.existing:
                    together.setdefault(key, []).extend(points)
        for key, points in together.items():
            log_points(client, self._id(client, key), points)

    def _params(self, client: Any, write: LogParams) -> None:
        """Log params.

        A param cannot change its value in MLflow, so a run keeps the values that it has.
        """
        run = self._id(client, write.run)
        try:
            _batch(client, run, params=write.params)
        except Exception as error:
            known = client.get_run(run).data.params if status_of(error) == 400 else {}
            if not known:
                raise
            _batch(
                client,
                run,
                params={name: value for name, value in write.params.items() if name not in known},
            )

    def _tags(self, client: Any, write: SetTags) -> None:
        run = self._id(client, write.run)
        ids = {name: self.ids.get(key, "") for name, key in write.ids.items()}
        here = f"#/experiments/{self._experiment_id(client)}/runs/{run}"
        tags = {
            name: value.replace(RUN, here) if name == NOTE else value
            for name, value in write.tags.items()
        }
        _batch(client, run, tags=tags | ids)
        if write.without:
            known = client.get_run(run).data.tags
            for name in write.without:
                if name in known:
                    client.delete_tag(run, name)

    def _close(self, client: Any, write: CloseRun) -> None:
        run = self._id(client, write.run)
        _batch(client, run, tags=write.tags)
        client.set_terminated(run, write.status, write.at)

    def _text(self, client: Any, write: LogText) -> None:
        client.log_text(self._id(client, write.run), write.text, write.file)

    def _figures(self, client: Any, write: LogFigures) -> None:
        """Draw the figures of a trial and send them to the runs of its students, or to its own."""
        if not self._has_figures(write):
            return
        trial.set_font_cache(self.fonts)
        key, letters = write.run, write.letters
        folder = self.sweep.trial_folder(int(key))
        with contextlib.suppress(OSError):  # the remote store is unreachable: nothing is drawn
            checkpoint_storage(self.store, folder).download(LIGHT)
        for letter in letters or LETTERS[0]:
            drawn = trial.pictures(folder, write.complete, self.classes, letter)
            if trial.AGREEMENT in drawn:
                self._send(client, key, {trial.AGREEMENT: drawn.pop(trial.AGREEMENT)})
            self._send(client, f"{key}/{letter}" if letters else key, drawn)

    def _has_figures(self, write: LogFigures) -> bool:
        """Return whether `tracking.figures` selects a trial that has ended.

        A trial that is no longer among the best never is again, so that drawing late costs no
        figure of a trial that stays.
        """
        which = self.sweep.configuration.tracking.figures
        if which == "kept" and self.sweep.kind == "sweep":
            self.update_trials()
            return write.complete and int(write.run) in trials_with_weights(self.sweep)
        return which != "none"

    def _front(self, client: Any, write: LogFront) -> None:
        """Log the Pareto front as a file and a picture."""
        client.log_text(
            self._id(client, write.run), json.dumps(write.content, indent=1), f"{write.file}.json"
        )
        if write.numbers:
            trial.set_font_cache(self.fonts)
            points = {int(number): values for number, values in write.values.items()}
            drawn = trial.picture(trial.pareto_front(points, write.numbers, write.names))
            self._send(client, write.run, {write.file: drawn})

    def _dataset(self, client: Any, write: LogDataset) -> None:
        """Log the data as a dataset entity.

        MLflow stores equal datasets once, however often they are logged.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        used = DatasetInput(
            Dataset(**write.dataset), tags=[InputTag("mlflow.data.context", "training")]
        )
        client.log_inputs(self._id(client, write.run), datasets=[used])

    def _model(self, client: Any, write: RegisterModel) -> None:
        """Log and register the best student, and tag its run. Do nothing without an exporter."""
        if self.export_program is None:
            return
        run, owned = self._id(client, write.run), write.tags | {OWNER: self.owner}
        tags = register(
            client,
            self.store,
            self.sweep,
            self.export_program,
            run,
            self._experiment_id(client),
            write.trial,
            write.letter,
            owned,
        )
        _batch(client, run, tags=tags)

    def _send(self, client: Any, key: str, drawn: Mapping[str, bytes]) -> None:
        if not drawn:
            return
        run = self._id(client, key)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in drawn.items():
                Path(folder, f"{name}.png").write_bytes(content)
            client.log_artifacts(run, folder, FIGURES)


def relocate(store: Store, configuration: Configuration) -> list[str]:
    """Point the runs of a moved store to its artifacts. Return the folders that runs had before."""
    file = database_file(tracking_uri(store, configuration))
    return relocate_artifacts(file, store.artifacts, own=file == store.database) if file else []


def log_points(client: Any, run: str, points: Sequence[Point]) -> None:
    """Log metrics to a run; a point is name, value, milliseconds since 1970, and step."""
    from mlflow.entities import Metric

    metrics = [Metric(*point) for point in points]
    for start in range(0, len(metrics), 1000):
        client.log_batch(run, metrics=metrics[start : start + 1000])


def _batch(
    client: Any,
    run: str,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    from mlflow.entities import Param, RunTag

    pairs = [Param(name, value[:6000]) for name, value in (params or {}).items()]
    for start in range(0, len(pairs), 100):
        client.log_batch(run, params=pairs[start : start + 100])
    labels = [RunTag(name, value[:5000]) for name, value in (tags or {}).items()]
    for start in range(0, len(labels), 100):
        client.log_batch(run, tags=labels[start : start + 100])


def _get(client: Any, run: str) -> Any:
    """Return a run, or None if MLflow has no run of that id or has it in its trash."""
    try:
        stored = client.get_run(run)
    except Exception as error:
        if status_of(error) in (400, 404):
            return None
        raise
    return stored if stored.info.lifecycle_stage == "active" else None
