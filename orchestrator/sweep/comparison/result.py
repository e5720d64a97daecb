"""Compute the result of a comparison, a row per method, from the records of its sweeps."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.config.schema import Network
from orchestrator.config.trial import METHOD, SEED, Parameters, apply
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import DataSummary, read_summary
from orchestrator.reporting.statistics import Difference, Mean, difference, holm, mean
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.comparison._published import Published, find_published
from orchestrator.sweep.comparison._student_cost import StudentCost, student_cost
from orchestrator.sweep.comparison.design import REFERENCES, seeds_of
from orchestrator.sweep.comparison.record import Comparison
from orchestrator.teacher.quality import read_qualities
from orchestrator.training.cost import CPU_TOTAL, GPU_TOTAL

COMPARED = "test/last/accuracy"
MEANS = {
    "accuracy": COMPARED,
    "best_accuracy": "test/best/accuracy",
    "nll": "test/last/nll",
    "ece": "test/last/ece",
}
Values = Mapping[int, float]


@dataclass(frozen=True)
class Against:
    """Paired difference to a reference.

    `corrected` is its p after Holm's correction for all differences of the table.
    """

    difference: Difference
    corrected: float | None


@dataclass(frozen=True)
class Cost:
    """Compute time of some trials, of all workers together; None if a record lacks it."""

    trials: int
    cpu_s: float | None
    gpu_s: float | None


@dataclass(frozen=True)
class Row:
    """Result of a method.

    Without `means` the method could not be trained over seeds, and `message` explains why. `means`
    are over the seeds that were trained to their end. `against` holds the references by name.
    `search` is the cost to find the settings, `over_seeds` the cost to train them. `searched` is
    the number of ended trials of the search. If the store has no such search any more, it is None
    and the cost is unknown.
    """

    method: str
    settings: Parameters
    message: str
    means: dict[str, Mean]
    against: dict[str, Against]
    student: StudentCost | None
    search: Cost
    over_seeds: Cost
    searched: int | None = None


@dataclass(frozen=True)
class Result:
    """Result of a comparison, with all rows in the requested order.

    `student` names all students where several train together. `teacher_accuracy` is on the
    validation part; None without a teacher, or if its accuracy is unknown. `unfinished` describes
    the progress before the last training has ended: there are no conclusions then.
    """

    name: str
    data: str
    sizes: dict[str, int]
    teacher: str
    teacher_accuracy: float | None
    student: str
    epochs: int
    seeds: tuple[int, ...]
    trials: int
    rows: tuple[Row, ...]
    published: Published | None
    unfinished: str = ""

    def plain(self) -> dict[str, Any]:
        """Return the result as JSON values; `published` has the stored key `beside`."""
        return {
            "beside" if key == "published" else key: value for key, value in asdict(self).items()
        }

    @property
    def references(self) -> list[str]:
        """Return the reference methods that were compared and trained."""
        return [
            name
            for name in REFERENCES
            if any(row.method == name and row.means for row in self.rows)
        ]


def result(store: Store, comparison: Comparison, unfinished: str = "") -> Result:
    """Return the rows of what has been trained so far.

    An `unfinished` comparison is shown without measuring the cost of its students.
    """
    over_seeds = Sweep.open(store, comparison.over_seeds)
    configuration, summary = comparison.configuration, read_summary(over_seeds.folder)
    values = {method: by_seed(over_seeds, method, COMPARED) for method in comparison.methods}
    against = differences(values)
    students: dict[str, StudentCost] = {}
    rows = []
    for method in comparison.methods:
        trials = list(_complete(over_seeds, method))
        measured = trials and not unfinished
        student = (
            _cost(apply(over_seeds.configuration, trials[0].settings).student, summary, students)
            if measured
            else None
        )
        searched = _searched(store, comparison.search(method))
        rows.append(
            Row(
                method,
                comparison.settings.get(method, {}),
                _message(comparison, over_seeds, method),
                {
                    name: value
                    for name, key in MEANS.items()
                    if (value := _mean(by_seed(over_seeds, method, key)))
                },
                against[method],
                student,
                cost(searched or []),
                cost(_trials_of(over_seeds, method)),
                None if searched is None else sum(trial.ended for trial in searched),
            )
        )
    qualities = read_qualities(over_seeds.folder, len(configuration.named_teachers))
    reached = tuple(quality.accuracy if quality else None for quality in qualities)
    names = ", ".join(student.network.name for student in configuration.students.values())
    seeds, epochs = seeds_of(configuration, comparison.seeds), configuration.training.epochs
    data = summary.name
    trials_each = configuration.search.trials
    published_result = find_published(configuration)
    sizes = asdict(summary.sizes)
    return Result(
        comparison.name,
        data,
        sizes,
        configuration.teacher_names or "none",
        reached[0] if len(reached) == 1 else None,
        names,
        epochs,
        seeds,
        trials_each,
        tuple(rows),
        published_result,
        unfinished,
    )


def by_seed(sweep: Sweep, method: str, metric: str) -> dict[int, float]:
    """Return a metric of the complete trials of a method, by their seeds."""
    return {
        trial.settings[SEED]: trial.metrics[metric]
        for trial in _complete(sweep, method)
        if metric in trial.metrics
    }


def differences(values: Mapping[str, Values]) -> dict[str, dict[str, Against]]:
    """Return the difference of each method to each reference that has values.

    They are one family of tests, in which the difference of two references counts once.
    """
    pairs: dict[tuple[str, str], Difference] = {}
    for method, method_values in values.items():
        for reference in REFERENCES:
            if method != reference and (
                paired := difference(method_values, values.get(reference, {}))
            ):
                pairs[method, reference] = paired
    reversed_pairs = {(one, other) for one, other in pairs if (other, one) in pairs and one < other}
    corrected = holm(
        {
            pair: paired.p
            for pair, paired in pairs.items()
            if paired.p is not None and pair not in reversed_pairs
        }
    )
    corrected |= {
        (one, other): corrected[other, one]
        for one, other in reversed_pairs
        if (other, one) in corrected
    }
    against: dict[str, dict[str, Against]] = {method: {} for method in values}
    for (method, reference), paired in pairs.items():
        against[method][reference] = Against(paired, corrected.get((method, reference)))
    return against


def cost(trials: Iterable[Trial]) -> Cost:
    """Return the cost of the trials up to their last report, stopped and failed ones included."""
    reported_metrics = [trial.metrics for trial in trials if trial.epochs]
    known = bool(reported_metrics) and all(CPU_TOTAL in metrics for metrics in reported_metrics)
    gpu = sum(metrics.get(GPU_TOTAL, 0.0) for metrics in reported_metrics)
    return Cost(
        len(reported_metrics),
        sum(metrics[CPU_TOTAL] for metrics in reported_metrics) if known else None,
        gpu if known else None,
    )


def _searched(store: Store, name: str) -> list[Trial] | None:
    """Return the trials of a search; None if it was removed or cannot be read any more."""
    try:
        return list(Sweep.open(store, name).trials.values())
    except ConfigurationError:
        return None


def _trials_of(sweep: Sweep, method: str) -> list[Trial]:
    return [trial for trial in sweep.trials.values() if trial.settings.get(METHOD) == method]


def _complete(sweep: Sweep, method: str) -> list[Trial]:
    return [trial for trial in _trials_of(sweep, method) if trial.state == "complete"]


def _mean(values: Values) -> Mean | None:
    return mean(list(values.values())) if values else None


def _cost(network: Network, summary: DataSummary, known: dict[str, StudentCost]) -> StudentCost:
    """Return the cost of a network, measured once.

    Methods that train the same student must not differ by noise.
    """
    key = network.model_dump_json()
    if key not in known:
        known[key] = student_cost(network, summary)
    return known[key]


def _message(comparison: Comparison, over_seeds: Sweep, method: str) -> str:
    """Return an explanation of missing numbers in a row; empty if it is complete."""
    if message := comparison.chosen.get(method, {}).get("message", ""):
        return str(message)
    trials = _trials_of(over_seeds, method)
    complete = [trial for trial in trials if trial.state == "complete"]
    failures = [trial.message for trial in trials if trial.state == "failed"]
    if len(complete) == comparison.seeds:
        return ""
    why = f": {failures[-1]}" if failures else ""
    return f"{len(complete)} of {comparison.seeds} seeds completed their training{why}"
