"""Create a comparison after all checks, and write its result."""

from collections.abc import Callable
from datetime import datetime

from orchestrator.config.path_settings import resolve_paths
from orchestrator.config.schema import Configuration
from orchestrator.config.yielding import describe_yielded
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, replacing
from orchestrator.sweep.comparison import design, page
from orchestrator.sweep.comparison.formats import list_files
from orchestrator.sweep.comparison.record import DEFAULT_MARGIN, Comparison, require_new
from orchestrator.sweep.comparison.result import Result
from orchestrator.sweep.preflight.preflight import prepare_run
from orchestrator.tracking.artifacts import log_to_sweep

DEFAULT_SEEDS, DEFAULT_STUDIES = 10, 1
FOLDER = "comparison"  # of the artifacts in MLflow


def resolve_comparison(
    store: Store,
    configuration: Configuration,
    methods: tuple[str, ...],
    seeds: int,
    name: str | None,
    studies: int = 1,
) -> tuple[Configuration, str]:
    """Return the common configuration of the sweeps of a new comparison, and its name.

    Args:
        store: The store that holds the comparison.
        configuration: The settings of the searches.
        methods: The compared methods.
        seeds: Trainings per method after its search.
        name: Name of the comparison; None for one with the time.
        studies: Repetitions of the searches and the trainings.

    Raises:
        ConfigurationError: The name is taken, or the configuration does not allow a comparison.
    """
    common = design.base(resolve_paths(configuration), methods, seeds, studies)
    name = name or f"compare-{datetime.now():%Y%m%d-%H%M%S}"
    require_new(store, name, methods, studies)
    return common, name


def describe_plan(store: Store, common: Configuration, seeds: int, studies: int) -> str:
    """Return the trials and trainings of a comparison, and their time if it can be estimated.

    Args:
        store: The store, whose earlier sweeps give the time of a training.
        common: The common configuration of the sweeps.
        seeds: Trainings per method after its search.
        studies: Repetitions of the searches and the trainings.
    """
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


def create_comparison(
    store: Store,
    common: Configuration,
    name: str,
    seeds: int,
    note: Callable[[str], None],
    studies: int = 1,
    margin: float = DEFAULT_MARGIN,
) -> Comparison:
    """Check a comparison, prepare its data and create its record.

    `common` and `name` are those of `resolve_comparison`; `note` receives messages about behaviour
    that the user may not expect.
    """
    margin = design.require_margin(margin)
    prepared = prepare_run(store, common, "sweep", local_processes=0, note=note)
    for sentence in describe_yielded(common, "sweep"):
        note(sentence)
    return Comparison.create(store, name, prepared.configuration, seeds, studies, margin)


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
    first = Sweep.open(store, comparison.runs[0].over_seeds)
    return log_to_sweep(store, first, page.metrics(outcome), 0, FOLDER, files)
