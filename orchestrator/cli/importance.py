"""Show which settings of a sweep mattered."""

import json
from dataclasses import replace
from pathlib import Path

from orchestrator.cli._names import require_sweep
from orchestrator.cli._run import console
from orchestrator.config.objectives import describe_objective
from orchestrator.core import errors
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store


def importance(name: str, store: Path | str, epoch: int | None) -> int:
    """Print the importance of a sweep's settings, and add it to the sweep's run in MLflow.

    Args:
        name: Name of the sweep.
        store: Folder or URI of the store.
        epoch: Compare all trials by their value after this epoch; None compares complete trials.

    Returns:
        The exit code.
    """
    from orchestrator.reporting.importance import LEAST, pages
    from orchestrator.reporting.importance import importance as evaluate
    from orchestrator.reporting.terminal.importance import importance_tables
    from orchestrator.reporting.terminal.progress import show_damage
    from orchestrator.tracking.artifacts import log_to_sweep

    opened = Store.existing(store)
    require_sweep(opened, name, "importance")
    sweep = Sweep.open(opened, name)
    show_damage(sweep, opened.option)
    importances = evaluate(sweep, epoch, opened.option)
    displayed = replace(
        importances, objective=describe_objective(sweep.configuration, importances.objective)
    )
    importance_tables(displayed.plain(), LEAST, console)
    folder = "importance" if epoch is None else f"importance/epoch_{epoch}"
    metrics = {f"{folder}/{setting}": share for setting, share in importances.metrics().items()}
    files = {"importance.json": json.dumps(importances.plain(), indent=1), **pages(displayed)}
    reason = log_to_sweep(opened, sweep, metrics, importances.trials, folder, files)
    if reason:
        logged = f"not logged: {reason}"
    else:
        logged = f"logged to the run {name} in MLflow: metrics and artifacts `{folder}/`"
    print_line(console, logged)
    return errors.OK
