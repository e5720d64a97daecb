"""Check whether this machine, or a cluster, is fit for a run."""

from pathlib import Path

from orchestrator.cli._options import cluster_address
from orchestrator.cli._run import console
from orchestrator.config.loader import load
from orchestrator.core import errors
from orchestrator.core.privacy import sanitize
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.store import Store


def doctor(
    config: Path, pairs: list[str], store: Path | str, address: str | None, quick: bool
) -> int:
    """Print one line per check; return the exit code.

    Args:
        config: Configuration file of the intended run.
        pairs: `KEY=VALUE` settings of `--set`.
        store: Folder or URI of the store.
        address: Address of a running cluster.
        quick: Leave out the check that starts two workers.
    """
    from orchestrator.cli._checks import run_checks
    from orchestrator.cli._findings import Conditions

    configuration = load(config, pairs, cluster_address(address))
    named, fit = Store.named(store), True
    for name, finding in run_checks(Conditions(named.root, configuration, quick, named.uri)):
        print_line(console, sanitize(f"{name:13}{finding.fitness:6}{finding.message}"))
        fit = fit and finding.fitness != "bad"
    return errors.OK if fit else errors.UNFIT_ENVIRONMENT
