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
from orchestrator.sweep.comparison.record import Comparison, require_new
from orchestrator.sweep.comparison.result import Result
from orchestrator.sweep.preflight.preflight import prepare_run
from orchestrator.tracking.artifacts import log_to_sweep

DEFAULT_SEEDS = 10
FOLDER = "comparison"  # of the artifacts in MLflow


def resolve_comparison(
    store: Store,
    configuration: Configuration,
    methods: tuple[str, ...],
    seeds: int,
    name: str | None,
) -> tuple[Configuration, str]:
    """Return the common configuration of the sweeps of a new comparison, and its name.

    Args:
        store: The store that holds the comparison.
        configuration: The settings of the searches.
        methods: The compared methods.
        seeds: Trainings per method after its search.
        name: Name of the comparison; None for one with the time.

    Raises:
        ConfigurationError: The name is taken, or the configuration does not allow a comparison.
    """
    common = design.base(resolve_paths(configuration), methods, seeds)
    name = name or f"compare-{datetime.now():%Y%m%d-%H%M%S}"
    require_new(store, name, methods)
    return common, name


def create_comparison(
    store: Store, common: Configuration, name: str, seeds: int, note: Callable[[str], None]
) -> Comparison:
    """Check a comparison, prepare its data and create its record.

    `common` and `name` are those of `resolve_comparison`; `note` receives messages about behaviour
    that the user may not expect.
    """
    prepared = prepare_run(store, common, "sweep", local_processes=0, note=note)
    for sentence in describe_yielded(common, "sweep"):
        note(sentence)
    return Comparison.create(store, name, prepared.configuration, seeds)


def write_result(store: Store, comparison: Comparison, outcome: Result, seed_sweep: Sweep) -> str:
    """Write the result to the comparison's folder, and log it to MLflow.

    The MLflow run is that of the sweep over seeds.

    Returns:
        The reason why MLflow does not have it; empty if it does.
    """
    files = list_files(outcome)
    for name, content in files.items():
        with replacing(comparison.folder / name) as partial_file:
            partial_file.write_bytes(content)
    return log_to_sweep(store, seed_sweep, page.metrics(outcome), 0, FOLDER, files)
