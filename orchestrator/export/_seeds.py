"""Average the metrics of an exported student's settings over the seeds of its run."""

from orchestrator.config.trial import SEED, Parameters
from orchestrator.export.settings import OverSeeds
from orchestrator.reporting.statistics import mean
from orchestrator.store.records import Sweep, Trial

PARTS = ("validation/", "test/")


def average_over_seeds(sweep: Sweep, trial: Trial, letter: str) -> OverSeeds | None:
    """Average the metrics of the complete trials with the trial's settings over their seeds.

    Args:
        sweep: Records of the run.
        trial: The exported trial.
        letter: Letter of the exported student.

    Returns:
        The averages. Metrics are named as those of the export: `validation/last/nll`,
        `test/best/accuracy`. A metric that not all trials have is left out. None if the run named
        no seeds, or fewer than two such trials exist.
    """
    alike = [
        one
        for one in sweep.trials.values()
        if one.state == "complete" and _rest(one) == _rest(trial)
    ]
    if not sweep.configuration.search.seeds or len(alike) < 2:
        return None
    trial_metrics = [heldout_metrics(student_metrics(one.metrics, letter)) for one in alike]
    shared = sorted(set[str].intersection(*map(set, trial_metrics)))
    means = {name: mean([metrics[name] for metrics in trial_metrics]) for name in shared}
    seeds = sorted(one.settings.get(SEED, sweep.configuration.seed) for one in alike)
    metrics = {name: {"mean": one.value, "error": one.error} for name, one in means.items()}
    return OverSeeds(seeds=seeds, metrics=metrics)


def student_metrics(metrics: dict[str, float], letter: str) -> dict[str, float]:
    """Return a student's own metrics under their plain names.

    In a trial of several students, the names begin with the student's letter.
    """
    prefix = f"{letter}/"
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix)
    } or metrics


def heldout_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Return the validation and test metrics, under names that include the weights.

    `validation/nll` is a metric of the last weights.
    """
    plain = {name: float(value) for name, value in metrics.items() if name.startswith(PARTS)}
    return {name.replace("validation/", "validation/last/"): value for name, value in plain.items()}


def _rest(trial: Trial) -> Parameters:
    return {name: value for name, value in trial.settings.items() if name != SEED}
