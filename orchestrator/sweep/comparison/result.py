"""What came of a comparison: a row per method, out of the records of its sweeps. Trains nothing and prints nothing."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.config.schema import Network
from orchestrator.config.trial import METHOD, SEED, apply
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import read_summary
from orchestrator.reporting.statistics import Difference, Mean, difference, holm, mean
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.comparison._published import Published, published
from orchestrator.sweep.comparison._student_cost import StudentCost, student_cost
from orchestrator.sweep.comparison.design import REFERENCES, seeds_of
from orchestrator.sweep.comparison.record import Comparison
from orchestrator.teacher.quality import read_quality
from orchestrator.training.cost import CPU_TOTAL, GPU_TOTAL

COMPARED = "test/last/accuracy"
MEANS = {"accuracy": COMPARED, "best_accuracy": "test/best/accuracy", "nll": "test/last/nll", "ece": "test/last/ece"}
Values = Mapping[int, float]


@dataclass(frozen=True)
class Against:
    """A paired difference to a reference, with its p after Holm's correction for all differences of the table."""

    difference: Difference
    corrected: float | None


@dataclass(frozen=True)
class Cost:
    """What some trials took of the machine, all workers together; None where a record says nothing of it."""

    trials: int
    cpu_s: float | None
    gpu_s: float | None


@dataclass(frozen=True)
class Row:
    """A method; without `means` nothing of it could be trained over seeds, and `message` says why.

    `means` are over the seeds that were trained to their end, `against` the references by name. `search` is what finding its
    settings cost, `over_seeds` what training them did. `searched`: how many trials of the search have ended; None, and a cost that
    is not known, when the store has no such search any more.
    """

    method: str
    settings: dict[str, Any]
    message: str
    means: dict[str, Mean]
    against: dict[str, Against]
    student: StudentCost | None
    search: Cost
    over_seeds: Cost
    searched: int | None = None


@dataclass(frozen=True)
class Result:
    """All rows, in the order that was asked for. `student` names all of them where several train together.

    `teacher_accuracy` is on the validation part; None without a teacher, or where its accuracy is not known.

    `unfinished` says how far it has come, where somebody looks at it before the last training: nothing is claimed then.
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
    beside: Published | None
    unfinished: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def references(self) -> list[str]:
        """What the others are measured by, as far as it was compared and trained."""
        return [name for name in REFERENCES if any(row.method == name and row.means for row in self.rows)]


def result(store: Store, comparison: Comparison, unfinished: str = "") -> Result:
    """The rows of what has been trained so far; what is `unfinished` is shown at once, and its students are not measured."""
    over_seeds = Sweep.open(store, comparison.over_seeds)
    configuration, summary = comparison.configuration, read_summary(over_seeds.folder)
    values = {method: by_seed(over_seeds, method, COMPARED) for method in comparison.methods}
    against = differences(values)
    students: dict[str, StudentCost] = {}
    rows = []
    for method in comparison.methods:
        trials = list(_complete(over_seeds, method))
        measured = trials and not unfinished
        student = _cost(apply(over_seeds.configuration, trials[0].settings).student, summary, students) if measured else None
        searched = _searched(store, comparison.search(method))
        rows.append(
            Row(
                method,
                comparison.settings.get(method, {}),
                _message(comparison, over_seeds, method),
                {name: found for name, key in MEANS.items() if (found := _mean(by_seed(over_seeds, method, key)))},
                against[method],
                student,
                cost(searched or []),
                cost(_of(over_seeds, method)),
                None if searched is None else sum(trial.ended for trial in searched),
            )
        )
    teacher = configuration.teacher.network.name if configuration.teacher else "none"
    quality = read_quality(over_seeds.folder)
    reached = quality.accuracy if quality else None
    names = ", ".join(student.network.name for student in configuration.students.values())
    seeds, epochs = seeds_of(configuration, comparison.seeds), configuration.training.epochs
    data, trials_each, beside = str(summary["name"]), configuration.search.trials, published(configuration)
    sizes, told = summary["sizes"], tuple(rows)
    return Result(comparison.name, data, sizes, teacher, reached, names, epochs, seeds, trials_each, told, beside, unfinished)


def by_seed(sweep: Sweep, method: str, metric: str) -> dict[int, float]:
    """A metric of the complete trials of a method, by their seeds."""
    return {trial.settings[SEED]: trial.metrics[metric] for trial in _complete(sweep, method) if metric in trial.metrics}


def differences(values: Mapping[str, Values]) -> dict[str, dict[str, Against]]:
    """Of every method to every reference that has values: one family of tests, in which that of two references counts once."""
    found: dict[tuple[str, str], Difference] = {}
    for method, own in values.items():
        for reference in REFERENCES:
            if method != reference and (paired := difference(own, values.get(reference, {}))):
                found[method, reference] = paired
    twice = {(one, other) for one, other in found if (other, one) in found and one < other}
    corrected = holm({pair: paired.p for pair, paired in found.items() if paired.p is not None and pair not in twice})
    corrected |= {(one, other): corrected[other, one] for one, other in twice if (other, one) in corrected}
    against: dict[str, dict[str, Against]] = {method: {} for method in values}
    for (method, reference), paired in found.items():
        against[method][reference] = Against(paired, corrected.get((method, reference)))
    return against


def cost(trials: Iterable[Trial]) -> Cost:
    """What the trials took, those that were stopped or failed too, up to their last report."""
    told = [trial.metrics for trial in trials if trial.epochs]
    known = bool(told) and all(CPU_TOTAL in metrics for metrics in told)
    gpu = sum(metrics.get(GPU_TOTAL, 0.0) for metrics in told)
    return Cost(len(told), sum(metrics[CPU_TOTAL] for metrics in told) if known else None, gpu if known else None)


def _searched(store: Store, name: str) -> list[Trial] | None:
    """The trials of a search; None when it was removed, or cannot be read, since its settings were chosen."""
    try:
        return list(Sweep.open(store, name).trials.values())
    except ConfigurationError:
        return None


def _of(sweep: Sweep, method: str) -> list[Trial]:
    return [trial for trial in sweep.trials.values() if trial.settings.get(METHOD) == method]


def _complete(sweep: Sweep, method: str) -> list[Trial]:
    return [trial for trial in _of(sweep, method) if trial.state == "complete"]


def _mean(values: Values) -> Mean | None:
    return mean(list(values.values())) if values else None


def _cost(network: Network, summary: dict[str, Any], known: dict[str, StudentCost]) -> StudentCost:
    """Each network is measured once: methods that train the same student are not told apart by noise."""
    key = network.model_dump_json()
    if key not in known:
        known[key] = student_cost(network, summary)
    return known[key]


def _message(comparison: Comparison, over_seeds: Sweep, method: str) -> str:
    """What a person should know beside the numbers of a row."""
    if message := comparison.chosen.get(method, {}).get("message", ""):
        return str(message)
    trials = _of(over_seeds, method)
    complete = [trial for trial in trials if trial.state == "complete"]
    failures = [trial.message for trial in trials if trial.state == "failed"]
    if len(complete) == comparison.seeds:
        return ""
    why = f": {failures[-1]}" if failures else ""
    return f"{len(complete)} of {comparison.seeds} seeds were trained to their end{why}"
