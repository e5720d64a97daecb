"""Results of runs: one training, a sweep, and a comparison of methods."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.api._console import make_console, make_note_printer
from orchestrator.api._objects import Objects, reopen_session
from orchestrator.api._tables import (
    comparison_frame,
    history_frame,
    make_frame,
    run_columns,
    sweep_frame,
    trial_row,
)
from orchestrator.config.objectives import list_objectives
from orchestrator.config.trial import apply
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.export.export import Exported, export
from orchestrator.export.loading import load_predictions
from orchestrator.export.predict import Picture, probabilities
from orchestrator.extensions.record import require_code
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.store.study_file import JOURNAL, copy_study
from orchestrator.sweep.comparison import page
from orchestrator.sweep.comparison.design import (
    ALL,
    DEFAULT_SEEDS,
    DEFAULT_STUDIES,
    Design,
    read_design,
)
from orchestrator.sweep.comparison.lifecycle import (
    create_comparison,
    resolve_comparison,
    write_result,
)
from orchestrator.sweep.comparison.record import DEFAULT_MARGIN
from orchestrator.sweep.comparison.record import Comparison as ComparisonRecord
from orchestrator.sweep.comparison.result import Result as ComparisonResult
from orchestrator.sweep.comparison.result import result as comparison_result
from orchestrator.sweep.comparison.runnable import select_methods
from orchestrator.sweep.comparison.running import run_comparison
from orchestrator.sweep.report_file import write_report

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 10  # rows of a table in a notebook


@dataclass(frozen=True)
class Result:
    """One training: its metrics, its settings and its student.

    Attributes:
        name: Name of the run in the store.
        number: Number of the trial in the run.
    """

    name: str
    number: int
    _store: Store
    _sweep: Sweep
    _objects: Objects

    @property
    def _trial(self) -> Trial:
        return self._sweep.trials[self.number]

    @property
    def state(self) -> str:
        """Return complete, stopped_early, failed, running or waiting."""
        return self._trial.state

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics of the last epoch and of the test, by name."""
        return dict(self._trial.metrics)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the complete configuration of the training."""
        return apply(self._sweep.configuration, self._trial.settings).plain()

    @property
    def params(self) -> dict[str, Any]:
        """Return the values that the search drew; empty for a single training."""
        return dict(self._trial.settings)

    @property
    def history(self) -> "DataFrame":
        """Return the metrics of every epoch, a row each."""
        return history_frame(self._sweep, self._trial)

    def export(
        self,
        to: Path | str | None = None,
        *,
        format: str = "safetensors",
        weights: str = "best",
        student: str = "a",
    ) -> Path:
        """Write the student to a new folder, as the command `export` does, and return the folder.

        Args:
            to: The folder; None for one in the store.
            format: safetensors, torchexport or onnx.
            weights: `best` for those best on the validation part, or `last`.
            student: The letter of the student, if several were trained together.

        Raises:
            ConfigurationError: There are no such weights or format, or the folder is not empty.
            PreflightError: The folder cannot be written, or a package of the format is missing.
        """
        return self._export(None if to is None else Path(to), format, weights, student).folder

    def predict(self, images: NDArray[np.uint8], weights: str = "best") -> NDArray[np.float32]:
        """Return the probabilities (n, K) of the classes for images.

        Args:
            images: Images (n, H, W) or (n, H, W, C) uint8, as the training images.
            weights: `best` for those best on the validation part, or `last`.

        Raises:
            ConfigurationError: The images have another type or shape.
        """
        with tempfile.TemporaryDirectory() as folder, reopen_session(self._objects):
            exported = self._export(Path(folder) / "student", "safetensors", weights, "a")
            channels, height, width = exported.settings.input.shape
            stack = images[..., None] if images.ndim == 3 else images
            if stack.dtype != np.uint8 or stack.shape[1:] != (height, width, channels):
                raise ConfigurationError(
                    f"images are {images.dtype} of shape {images.shape}: give uint8 of shape (n, "
                    f"{height}, {width}, {channels})"
                ).with_details("images", images.shape, (height, width, channels))
            pictures = [
                Picture(str(index), image.transpose(2, 0, 1)) for index, image in enumerate(stack)
            ]
            student = load_predictions(exported.folder)
            rows: torch.Tensor = probabilities(student, pictures, exported.settings)
        return rows.numpy()

    def _export(self, to: Path | None, form: str, weights: str, student: str) -> Exported:
        with reopen_session(self._objects):
            return export(self._store, self.name, student, self.number, weights, to, form)

    def __repr__(self) -> str:
        value, goal = self._trial.value, list_objectives(self._sweep.configuration.search)[0]
        shown = "" if value is None else f", {goal} {value:.4f}"
        epochs = f"{self._trial.epochs} epoch{'s' * (self._trial.epochs != 1)}"
        return f"Result({self.name}, trial {self.number}: {self.state} after {epochs}{shown})"

    def _repr_html_(self) -> str:
        """Return the accuracies and the settings as a table for a notebook."""
        rows = {name: value for name, value in self.metrics.items() if name.endswith("/accuracy")}
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(_format(value))}</td></tr>"
            for name, value in (rows | self.params).items()
        )
        return f"<p>{escape(repr(self))}</p><table>{cells}</table>"


@dataclass(frozen=True)
class Study:
    """Sweep: its trials, and what can be made of them.

    Attributes:
        name: Name of the run in the store.
    """

    name: str
    _store: Store
    _sweep: Sweep
    _objects: Objects

    @property
    def state(self) -> str:
        """Return finished, failed, interrupted or running."""
        return self._sweep.state

    @property
    def trials(self) -> list[Result]:
        """Return all trials, by their number."""
        return [self._result(number) for number in sorted(self._sweep.trials)]

    @property
    def best(self) -> Result:
        """Return the best trial by the objective on validation.

        Raises:
            ConfigurationError: No trial has results.
        """
        best = self._sweep.best()
        if best is None:
            failures = [trial.message for trial in self._sweep.trials.values() if trial.message]
            reason = f": {failures[-1]}" if failures else ""
            raise ConfigurationError(
                f"{self.name!r} has no trial with results{reason}"
            ).with_details("name", self.name, "a run with a complete or early-stopped trial")
        return self._result(best.number)

    def frame(self) -> "DataFrame":
        """Return the trials with their settings and metrics, a row each."""
        return sweep_frame(self._sweep)

    def to_optuna(self) -> Any:
        """Return a copy of the study, an `optuna.Study`, whose changes do not affect the sweep."""
        return copy_study(self._sweep.folder / JOURNAL, self.name)

    def report(self, to: Path | str | None = None) -> Path:
        """Write the HTML report of the sweep, and return the file.

        Args:
            to: The file; None for one in the store.
        """
        with reopen_session(self._objects):
            return write_report(self._store, self.name, None if to is None else Path(to)).file

    def compare(
        self,
        methods: str | Sequence[str],
        *,
        seeds: int = DEFAULT_SEEDS,
        studies: int = DEFAULT_STUDIES,
        margin: float = DEFAULT_MARGIN,
        name: str | None = None,
        resume: str | None = None,
        progress: bool = True,
    ) -> "Comparison":
        """Compare methods: equal search budgets, then each method's best settings on paired seeds.

        The searches have the configuration of this sweep.

        Args:
            methods: Two or more methods, as a sequence or as text such as "kd,wttm"
                or "all", the methods that the configuration allows.
            seeds: Trainings per method after its search.
            studies: Repetitions of the searches and the trainings, with other seeds.
            margin: Points of accuracy within which two methods are equivalent.
            name: Name of the comparison; None for one with the time.
            resume: Name of the comparison to resume; `methods`, `seeds`, `studies` and `margin`
                must be its own.
            progress: Show the progress.

        Raises:
            KeyboardInterrupt: The comparison was interrupted; the message says how to resume it.
            UserError: The comparison cannot be started.
        """
        names = methods if isinstance(methods, str) else ",".join(methods)
        request = read_design(names, seeds, studies, margin)
        return compare(self, request, name, resume, progress)

    def _result(self, number: int) -> Result:
        return Result(self.name, number, self._store, self._sweep, self._objects)

    def __repr__(self) -> str:
        states = [trial.state for trial in self._sweep.trials.values()]
        counts = ", ".join(
            f"{states.count(state)} {state.replace('_', ' ')}" for state in dict.fromkeys(states)
        )
        return f"Study({self.name}: {self.state}, {counts or 'no trial'})"

    def _repr_html_(self) -> str:
        """Return the best trials as a table for a notebook."""
        ranked = [trial_row(trial) for trial in self._sweep.ranked()[:SHOWN]]
        names = {name for trial in self._sweep.trials.values() for name in trial.settings}
        columns = ("trial", "state", "value", "epochs", *sorted(names))
        table = make_frame(ranked, columns)[list(columns)]
        return f"<p>{escape(repr(self))}</p>{_table(table)}"


@dataclass(frozen=True)
class Comparison:
    """Comparison of methods over seeds.

    Attributes:
        name: Name of the comparison in the store.
    """

    name: str
    _result: ComparisonResult

    def frame(self) -> "DataFrame":
        """Return means over seeds and differences to the reference methods, a row per method."""
        return comparison_frame(self._result)

    def conclusions(self) -> list[str]:
        """Return what the comparison shows, in sentences."""
        return page.list_conclusions(self._result)

    def __repr__(self) -> str:
        methods = ", ".join(row.method for row in self._result.rows)
        return f"Comparison({self.name}: {methods} with {len(self._result.seeds)} seeds)"

    def _repr_html_(self) -> str:
        """Return the conclusions and the table for a notebook."""
        items = "".join(f"<li>{escape(line)}</li>" for line in self.conclusions())
        titles, rows = page.quality(self._result)
        head = "".join(f"<th>{escape(title)}</th>" for title in titles)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
        )
        table = f"<table><tr>{head}</tr>{body}</table>"
        return f"<p>{escape(repr(self))}</p><ul>{items}</ul>{table}"


def compare(
    study: Study, request: Design, name: str | None, resume: str | None, progress: bool
) -> Comparison:
    """Run or resume a comparison with the configuration of a sweep; see `Study.compare`."""
    from orchestrator.cluster.connect import require_disconnected

    store, console = study._store, make_console(progress)
    with reopen_session(study._objects):
        require_disconnected()
        comparison = None
        try:
            if resume is None:
                configuration, note = study._sweep.configuration, make_note_printer(console)
                request = select_methods(store, configuration, request, note)
                common, name = resolve_comparison(store, configuration, request, name)
                comparison = create_comparison(store, common, name, request, note)
            else:
                comparison = _reopen_comparison(store, resume, request)
            run_comparison(store, comparison, console)
        except KeyboardInterrupt:
            again = f"continue with resume={comparison.name!r}" if comparison else "start it again"
            raise KeyboardInterrupt(f"the comparison was interrupted: {again}") from None
        except PreflightError as error:
            if comparison is None:
                raise
            again = f"{error}; then continue with resume={comparison.name!r}"
            raise PreflightError.from_error(error, again) from error
        outcome = comparison_result(store, comparison)
        if reason := write_result(store, comparison, outcome):
            make_note_printer(console)(f"not logged to MLflow: {reason}")
    return Comparison(comparison.name, outcome)


def _reopen_comparison(store: Store, name: str, request: Design) -> ComparisonRecord:
    comparison = ComparisonRecord.open(store, name)
    require_code(comparison.code, f"resume = {name!r}", comparison.configuration)
    for key, value in request._asdict().items():
        if key == "methods" and value == (ALL,):
            continue
        recorded = getattr(comparison, key)
        if value != recorded:
            raise ConfigurationError(
                f"resume = {name!r}: {key} = {value}, and the comparison has {recorded}: give the "
                f"same {key}, or start another comparison"
            ).with_details(key, value, recorded)
    return comparison


def results(store: Path | str = "runs") -> "DataFrame":
    """Return every trial of a store as a table of pandas, a row each.

    Args:
        store: Folder or URI of the store.

    Returns:
        The columns are the run, its method, networks and data, the state of the trial, its settings
        and its metrics. A run whose record is damaged is left out with a warning.

    Raises:
        ConfigurationError: There is no store.

    Examples:
        >>> import orchestrator as od
        >>> result = od.distil("mlp", None, "digits", "cross_entropy", epochs=1, progress=False)
        >>> frame = od.results()
        >>> frame.loc[0, ["method", "student", "data", "state"]].tolist()
        ['cross_entropy', 'mlp', 'digits', 'complete']
    """
    opened = Store.existing(store)
    rows: list[Mapping[str, Any]] = []
    for name in opened.sweeps():
        try:
            sweep = Sweep.open(opened, name)
        except ConfigurationError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        for _, trial in sorted(sweep.trials.items()):
            rows.append(run_columns(sweep, trial) | trial_row(trial))
    first = ("run", "kind", "trial", "state", "method", "student", "teacher", "data", "seed")
    return make_frame(rows, (*first, "value", "epochs"))


def _format(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _table(frame: "DataFrame") -> str:
    html: str = frame.to_html(index=False, na_rep="", float_format="%.4g", escape=True, border=0)
    return html
