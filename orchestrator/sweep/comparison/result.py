"""Compute the result of a comparison, a row per method, from the records of its sweeps."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.config.trial import METHOD, SEED, Parameters
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import read_summary
from orchestrator.reporting.statistics import Difference, Mean, average_studies, difference, mean
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.comparison._equivalence import (
    Pair,
    Within,
    correct_pairs,
    decide_equivalence,
)
from orchestrator.sweep.comparison._published import describe_training, find_published, select_rows
from orchestrator.sweep.comparison._published_table import Published
from orchestrator.sweep.comparison.design import REFERENCES
from orchestrator.sweep.comparison.record import (
    DEFAULT_MARGIN,
    TEACHER,
    Comparison,
    InferenceCost,
    StudyRun,
)
from orchestrator.teacher.quality import read_qualities
from orchestrator.training.cost import CPU_TOTAL, GPU_TOTAL
from orchestrator.training.metric_names import TEST_HIGHEST

COMPARED = "test/last/accuracy"
MEANS = {
    "accuracy": COMPARED,
    "best_accuracy": "test/best/accuracy",
    "best_test_accuracy": TEST_HIGHEST,
    "nll": "test/last/nll",
    "ece": "test/last/ece",
}
POINTS = 100.0  # per unit of accuracy
Values = Mapping[int, float]
Studies = Sequence[Collection[int]]


@dataclass(frozen=True)
class Against:
    """Paired difference to a reference.

    `corrected` is its p after Holm's correction for all differences of the table. `within` is the
    verdict of the equivalence tests.
    """

    difference: Difference
    corrected: float | None
    within: Within | None = None


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
    are over the seeds that were trained to their end, or over the means of several studies.
    `settings` are those of the first study, and `study_settings` those of each one if there are
    several. `against` holds the references by name. `search` is the cost to find the settings,
    `over_seeds` the cost to train them. `searched` is the number of ended trials of the search, the
    smallest one of several studies. If the store has no such search any more, it is None and the
    cost is unknown.
    """

    method: str
    settings: Parameters
    message: str
    means: dict[str, Mean]
    against: dict[str, Against]
    student: InferenceCost | None
    search: Cost
    over_seeds: Cost
    searched: int | None = None
    study_settings: dict[int, Parameters] = field(default_factory=dict)


@dataclass(frozen=True)
class TeacherRow:
    """Quality of the teacher on the test part, and its inference cost; None if it is unknown."""

    network: str
    metrics: dict[str, float]
    cost: InferenceCost | None


@dataclass(frozen=True)
class Result:
    """Result of a comparison, with all rows in the requested order.

    `student` names all students where several train together. `teacher_accuracy` is on the
    validation part; None without a teacher, or if its accuracy is unknown. `unfinished` describes
    the progress before the last training has ended: there are no conclusions then. `seeds` are
    those of all `studies`. `margin` is in points of accuracy. `trials` is 0 if nothing was
    searched. `published` has the rows of the compared methods, and `remarks` are sentences about
    the training, which include its differences to the published one.
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
    studies: int = 1
    margin: float = DEFAULT_MARGIN
    teacher_row: TeacherRow | None = None
    remarks: tuple[str, ...] = ()

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
    """Return the rows of what has been trained so far."""
    trained = open_seed_sweeps(store, comparison)
    over_seeds = [sweep for _, sweep in trained]
    configuration, summary = comparison.configuration, read_summary(over_seeds[0].folder)
    studies = [run.seeds for run in comparison.runs]
    values = {method: _by_seed(over_seeds, method, COMPARED) for method in comparison.methods}
    against = differences(values, studies, comparison.margin)
    rows = tuple(
        _row(store, comparison, trained, method, against[method]) for method in comparison.methods
    )
    qualities = read_qualities(over_seeds[0].folder, len(configuration.named_teachers))
    reached = qualities[0].accuracy if len(qualities) == 1 and qualities[0] else None
    published = find_published(configuration)
    return Result(
        name=comparison.name,
        data=summary.name,
        sizes=asdict(summary.sizes),
        teacher=configuration.teacher_names or "none",
        teacher_accuracy=reached,
        student=", ".join(student.network.name for student in configuration.students.values()),
        epochs=configuration.training.epochs,
        seeds=tuple(seed for seeds in studies for seed in seeds),
        trials=0 if configuration.search.configurations else configuration.search.trials,
        rows=rows,
        published=select_rows(configuration, published, comparison.runs[0].settings),
        unfinished=unfinished,
        studies=comparison.studies,
        margin=comparison.margin,
        remarks=tuple(
            describe_training(
                configuration, published, summary.sizes.train, comparison.teacher.get("accuracy")
            )
        ),
        teacher_row=TeacherRow(
            configuration.teacher.network.name,
            comparison.teacher,
            comparison.inference.get(TEACHER),
        )
        if configuration.teacher
        else None,
    )


def open_seed_sweeps(store: Store, comparison: Comparison) -> list[tuple[StudyRun, Sweep]]:
    """Return the studies whose training over seeds is in the store, each with that sweep."""
    names = store.sweeps()
    return [
        (run, Sweep.open(store, run.over_seeds))
        for run in comparison.runs
        if run.over_seeds in names
    ]


def describe_unfinished(comparison: Comparison, sweeps: Sequence[Sweep]) -> str:
    """Return how many trainings over seeds have ended; empty if all have.

    Args:
        comparison: The comparison.
        sweeps: The sweeps over seeds in the store.
    """
    states = [sweep.state for sweep in sweeps]
    if len(states) == comparison.studies and set(states) <= {"finished", "failed"}:
        return ""
    ended = sum(sweep.count_ended() for sweep in sweeps)
    return f"{ended} of {comparison.studies * len(comparison.methods) * comparison.seeds} trainings"


def _row(
    store: Store,
    comparison: Comparison,
    trained: Sequence[tuple[StudyRun, Sweep]],
    method: str,
    against: dict[str, Against],
) -> Row:
    """Return the row of a method, from the sweeps of all studies."""
    over_seeds, studies = [sweep for _, sweep in trained], [run.seeds for run in comparison.runs]
    settings = {
        run.number: run.settings[method] for run in comparison.runs if method in run.settings
    }
    searches = [_searched(store, run.search(method)) for run, _ in trained]
    known = [trials for trials in searches if trials is not None]
    ended = [sum(trial.ended for trial in trials) for trials in known]
    is_known = len(known) == len(searches)
    means = {
        name: mean(average_studies(by_seed, studies))
        for name, key in MEANS.items()
        if (by_seed := _by_seed(over_seeds, method, key))
    }
    return Row(
        method,
        settings.get(1, {}),
        _message(trained, method, comparison.studies),
        means,
        against,
        comparison.inference.get(method),
        cost([trial for trials in known for trial in trials] if is_known else []),
        cost(trial for sweep in over_seeds for trial in trials_of(sweep, method)),
        min(ended) if is_known else None,
        settings if comparison.studies > 1 else {},
    )


def _by_seed(sweeps: Iterable[Sweep], method: str, metric: str) -> dict[int, float]:
    """Return a metric of all studies; no two have a seed in common."""
    return {
        seed: value for sweep in sweeps for seed, value in by_seed(sweep, method, metric).items()
    }


def by_seed(sweep: Sweep, method: str, metric: str) -> dict[int, float]:
    """Return a metric of the complete trials of a method, by their seeds."""
    return {
        trial.settings[SEED]: trial.metrics[metric]
        for trial in complete_trials(sweep, method)
        if metric in trial.metrics
    }


def differences(
    values: Mapping[str, Values], studies: Studies = (), margin: float = DEFAULT_MARGIN
) -> dict[str, dict[str, Against]]:
    """Return the difference of each method to each reference that has values.

    They are one family of tests, in which the difference of two references counts once.

    Args:
        values: Accuracies by method and seed.
        studies: The seeds of each study.
        margin: The margin of equivalence in points.
    """
    pairs: dict[Pair, Difference] = {}
    for method, method_values in values.items():
        for reference in REFERENCES:
            if method != reference and (
                paired := difference(method_values, values.get(reference, {}), studies=studies)
            ):
                pairs[method, reference] = paired
    corrected = correct_pairs({pair: paired.p for pair, paired in pairs.items()})
    within = decide_equivalence(pairs, margin / POINTS)
    against: dict[str, dict[str, Against]] = {method: {} for method in values}
    for pair, paired in pairs.items():
        against[pair[0]][pair[1]] = Against(paired, corrected.get(pair), within[pair])
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


def trials_of(sweep: Sweep, method: str) -> list[Trial]:
    """Return the trials of a method."""
    return [trial for trial in sweep.trials.values() if trial.settings.get(METHOD) == method]


def complete_trials(sweep: Sweep, method: str) -> list[Trial]:
    """Return the trials of a method that were trained to their end."""
    return [trial for trial in trials_of(sweep, method) if trial.state == "complete"]


def _message(trained: Sequence[tuple[StudyRun, Sweep]], method: str, studies: int) -> str:
    """Return an explanation of missing numbers in a row; empty if it is complete."""
    messages = {run.number: _study_message(run, sweep, method) for run, sweep in trained}
    return "; ".join(
        f"study {number}: {message}" if studies > 1 else message
        for number, message in messages.items()
        if message
    )


def _study_message(run: StudyRun, over_seeds: Sweep, method: str) -> str:
    if message := run.chosen.get(method, {}).get("message", ""):
        return str(message)
    trials = trials_of(over_seeds, method)
    complete = [trial for trial in trials if trial.state == "complete"]
    failures = [trial.message for trial in trials if trial.state == "failed"]
    if len(complete) == len(run.seeds):
        return ""
    why = f": {failures[-1]}" if failures else ""
    return f"{len(complete)} of {len(run.seeds)} seeds completed their training{why}"
