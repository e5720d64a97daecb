"""Create a comparison after all checks, and write its result."""

from collections.abc import Callable
from datetime import datetime
from statistics import fmean
from typing import Any

from orchestrator.config.path_settings import resolve_paths
from orchestrator.config.schema import Configuration, Section
from orchestrator.config.yielding import describe_yielded
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, replacing
from orchestrator.sweep.comparison import design, page
from orchestrator.sweep.comparison.design import Design
from orchestrator.sweep.comparison.formats import list_files
from orchestrator.sweep.comparison.record import Comparison, require_new
from orchestrator.sweep.comparison.result import Result, open_seed_sweeps
from orchestrator.sweep.preflight.preflight import prepare_run
from orchestrator.tracking.artifacts import log_to_sweep
from orchestrator.training.cost import TOTAL

FOLDER = "comparison"  # of the artifacts in MLflow


def resolve_comparison(
    store: Store, configuration: Configuration, request: Design, name: str | None
) -> tuple[Configuration, str]:
    """Return the common configuration of the sweeps of a new comparison, and its name.

    Args:
        store: The store that holds the comparison.
        configuration: The settings of the searches.
        request: The methods, and the numbers of seeds and studies.
        name: Name of the comparison; None for one with the time.

    Raises:
        ConfigurationError: The name is taken, or the configuration does not allow a comparison.
    """
    design.require_margin(request.margin)
    methods, seeds, studies, _ = request
    common = design.base(resolve_paths(configuration), methods, seeds, studies)
    name = name or default_comparison_name()
    require_new(store, name, methods, studies)
    return common, name


def default_comparison_name() -> str:
    """Return the default name of a comparison, with the time."""
    return f"compare-{datetime.now():%Y%m%d-%H%M%S}"


def describe_plan(common: Configuration, request: Design) -> str:
    """Return the numbers of trials and trainings of a comparison."""
    seeds, studies = request.seeds, request.studies
    methods, trials, last = len(common.search.methods), common.search.trials, common.seed
    search = (
        "no search"
        if common.search.configurations
        else (f"{trials} trials for each of {methods} methods")
    )
    study = f"{search}, then {methods} x {seeds} trainings, seeds {last + 1} to {last + seeds}"
    if studies == 1:
        return study
    total = studies * methods * (trials + seeds)
    return (
        f"{studies} studies with {total} trainings in total; each has {study}, and the following "
        f"ones the next seeds"
    )


def describe_time(store: Store, common: Configuration, request: Design) -> str:
    """Return the time of a comparison at most, estimated from earlier trainings in the store.

    It counts those of the same data, networks and batch size. A search that stops trials early
    takes less.
    """
    seconds = [
        trial.metrics[TOTAL] / trial.epochs
        for name in store.sweeps()
        if (sweep := _open_similar(store, name, common))
        for trial in sweep.trials.values()
        if trial.epochs and TOTAL in trial.metrics
    ]
    if not seconds:
        return "unknown: the store has no training with the same data, networks and batch size"
    trainings = request.studies * len(request.methods) * (common.search.trials + request.seeds)
    hours = fmean(seconds) * trainings * common.training.epochs / 3600
    return (
        f"at most {hours:.2g} worker hours for {trainings} trainings, by {len(seconds)} earlier "
        f"trainings in the store"
    )


def _open_similar(store: Store, name: str, common: Configuration) -> Sweep | None:
    """Return a sweep if its trainings take about as long as those of the comparison."""
    try:
        sweep = Sweep.open(store, name)
    except ConfigurationError:
        return None
    own = sweep.configuration
    kept = {"data": {"augmentation"}, "teacher": {"mode"}}  # resolved in the record
    same = all(getattr(own, key) == getattr(common, key) for key in ("student", "peers")) and all(
        _without(getattr(own, key), keys) == _without(getattr(common, key), keys)
        for key, keys in kept.items()
    )
    return sweep if same and own.training.batch_size == common.training.batch_size else None


def _without(section: Section | None, keys: set[str]) -> dict[str, Any]:
    return section.model_dump(exclude=keys) if section else {}


def create_comparison(
    store: Store, common: Configuration, name: str, request: Design, note: Callable[[str], None]
) -> Comparison:
    """Check a comparison, prepare its data and create its record.

    `common` and `name` are those of `resolve_comparison`; `note` receives messages about behaviour
    that the user may not expect.
    """
    prepared = prepare_run(store, common, "sweep", local_processes=0, note=note)
    for sentence in describe_yielded(common, "sweep"):
        note(sentence)
    return Comparison.create(store, name, prepared.configuration, *request[1:])


def write_result(store: Store, comparison: Comparison, outcome: Result) -> str:
    """Write the result to the comparison's folder, and log it to MLflow.

    The MLflow run is that of the first study's sweep over seeds.

    Returns:
        The reason why MLflow does not have it; empty if it does.
    """
    files = list_files(outcome)
    for name, content in files.items():
        with replacing(comparison.folder / name) as partial_file:
            partial_file.write_bytes(content)
    _, first = open_seed_sweeps(store, comparison)[0]
    return log_to_sweep(store, first, page.metrics(outcome), 0, FOLDER, files)
