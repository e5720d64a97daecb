"""Show records of runs as tables of pandas."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.config.trial import apply
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.progress import reported_epochs
from orchestrator.store.records import Sweep, Trial
from orchestrator.sweep.comparison.result import Result as ComparisonResult

if TYPE_CHECKING:
    from pandas import DataFrame


def trial_row(trial: Trial) -> dict[str, Any]:
    """Return a trial as a row: state, value, epochs, settings and metrics by their names."""
    own = {
        "trial": trial.number,
        "state": trial.state,
        "value": trial.value,
        "epochs": trial.epochs,
    }
    return own | dict(trial.settings) | dict(sorted(trial.metrics.items()))


def run_columns(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    """Return the columns that distinguish the runs of a store."""
    configuration = sweep.configuration
    try:
        method = apply(configuration, trial.settings).method.name
    except ConfigurationError:  # settings of an earlier version
        method = str(trial.settings.get("method.name", configuration.method.name))
    return {
        "run": sweep.name,
        "kind": sweep.kind,
        "method": method,
        "student": configuration.student.name,
        "teacher": configuration.teacher_names or None,
        "data": configuration.data.name,
        "seed": trial.settings.get("seed", configuration.seed),
    }


def make_frame(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> "DataFrame":
    """Return rows as a table whose first columns are `columns`, also without rows."""
    import pandas

    rows = list(rows)
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    return pandas.DataFrame(rows, columns=list(names))


def sweep_frame(sweep: Sweep) -> "DataFrame":
    """Return the trials of a sweep, a row each."""
    trials = [trial for _, trial in sorted(sweep.trials.items())]
    return make_frame(map(trial_row, trials), ("trial", "state", "value", "epochs"))


def history_frame(sweep: Sweep, trial: Trial) -> "DataFrame":
    """Return the metrics of a trial, a row for each epoch.

    A trial whose checkpoint was removed has its objective alone.
    """
    records = reported_epochs(sweep.trial_folder(trial.number))
    if len(records) == trial.epochs:
        rows = [{"epoch": record.epoch, **record.metrics} for record in records]
    else:
        objective = sweep.configuration.search.objective
        rows = [{"epoch": epoch, objective: value} for epoch, value in trial.known]
    return make_frame(rows, ("epoch",)).set_index("epoch")


def comparison_frame(result: ComparisonResult) -> "DataFrame":
    """Return the result of a comparison, a row for each method.

    The columns are the means over seeds with their standard errors, and the differences to the
    reference methods with their p-values after Holm's correction and the verdicts of equivalence.
    """
    rows, unit = [], "studies" if result.studies > 1 else "seeds"
    for row in result.rows:
        values: dict[str, Any] = {"method": row.method}
        for name, mean in row.means.items():
            values |= {name: mean.value, f"{name}_error": mean.error, unit: mean.count}
        for reference, against in row.against.items():
            values |= {
                f"over_{reference}": against.difference.mean,
                f"over_{reference}_p": against.corrected,
            }
            if against.within:
                values[f"within_{reference}"] = against.within.verdict
        rows.append(values | ({"message": row.message} if row.message else {}))
    return make_frame(rows, ("method",)).set_index("method")
