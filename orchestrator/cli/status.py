"""Show the state of sweeps and comparisons of a store, or of jobs of a running cluster."""

import json
import sys
from pathlib import Path

from orchestrator.cli._comparisons import comparisons_table, show_comparison
from orchestrator.cli._jobs import follow_job, list_jobs, show_job
from orchestrator.cli._names import find_comparison
from orchestrator.cli._run import console
from orchestrator.cluster.jobs import Cluster
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.privacy import sanitize
from orchestrator.core.program import program_name
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.comparison.progress import read_progress
from orchestrator.sweep.comparison.record import Comparison, list_comparisons


def run_status(name: str | None, store: Path | str, as_json: bool) -> int:
    """Print the state of one sweep or comparison, or of all of the store; return the exit code.

    Args:
        name: Name of the sweep or the comparison; None for all. With JSON, those are the sweeps.
        store: Folder or URI of the store.
        as_json: Print JSON in place of a table.

    Raises:
        ConfigurationError: The named sweep cannot be opened. Without a name, such errors are
            printed instead.
    """
    from orchestrator.reporting.terminal.progress import show_damage, status_table, sweeps_table

    opened = Store.existing(store)
    if name is not None and (comparison := find_comparison(opened, name)):
        show_comparison(opened, comparison, as_json, console)
        return errors.OK
    loaded: list[Sweep] = []
    for each in opened.sweeps() if name is None else [name]:
        try:
            loaded.append(Sweep.open(opened, each))
        except ConfigurationError as error:
            if name is not None:
                raise
            # the other sweeps are shown regardless
            print(sanitize(f"error: {error}"), file=sys.stderr)
    for sweep in loaded:
        show_damage(sweep, opened.option)
    if as_json:
        status_records = [each.status() for each in loaded]
        print(json.dumps(status_records if name is None else status_records[0], indent=1))
    elif name is not None:
        status_table(loaded[0], console)
    else:
        sweeps_table(loaded, console)
        _show_comparisons(opened)
    return errors.OK


def _show_comparisons(store: Store) -> None:
    """Print the comparisons of a store, and the errors of those that cannot be read."""
    progresses = []
    for name in list_comparisons(store):
        try:
            progresses.append(read_progress(store, Comparison.open(store, name)))
        except ConfigurationError as error:
            print(sanitize(f"error: {error}"), file=sys.stderr)
    if progresses:
        comparisons_table(progresses, console)


def show_job_status(name: str | None, address: str | None, as_json: bool, follow: bool) -> int:
    """Print the state of jobs of a cluster; return the exit code.

    Args:
        name: Name of the job; None lists all jobs.
        address: Address of the cluster.
        as_json: Print JSON in place of text.
        follow: Print the log until the job ends; otherwise the state and the end of the log.

    Raises:
        ConfigurationError: `follow` is given without a name.
    """
    if follow and name is None:
        raise ConfigurationError(
            f"--follow needs the name of a job: `{program_name()} status --address HOST:PORT` "
            "lists them"
        ).with_details("--follow", True, "with the name of a job")
    cluster = Cluster(address)
    if name is None:
        list_jobs(cluster, as_json)
        return errors.OK
    if follow:
        return follow_job(cluster, name)
    show_job(cluster, cluster.job(name), as_json)
    return errors.OK
