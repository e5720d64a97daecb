"""Search for good settings, or resume a search."""

from pathlib import Path

from orchestrator.cli._comparisons import resume_command
from orchestrator.cli._names import find_comparison
from orchestrator.cli._options import cluster_address, parse_duration
from orchestrator.cli._run import resume_run, start_run
from orchestrator.config.loader import load
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.store import Store
from orchestrator.sweep.runs import count_local_processes


def sweep(
    config: Path | None,
    pairs: list[str],
    store: Path | str,
    name: str | None,
    seed: int | None,
    dry_run: bool,
    trials: int | None,
    time_budget: str | None,
    resume: str | None,
    scheduler: str | None = None,
    address: str | None = None,
    local: bool = False,
    processes: int | None = None,
    default: Path | None = None,
) -> int:
    """Start a search, or resume one; return the exit code.

    Args:
        config: Configuration file; None for `default` in a new search.
        pairs: `KEY=VALUE` settings of `--set`.
        store: Folder or URI of the store.
        name: Name of the sweep; None for the default name.
        seed: Seed of weights, order of samples, views and search; None for the configured one.
        dry_run: Show the plan and stop.
        trials: Number of trials.
        time_budget: Duration such as `2h`.
        resume: Name of the sweep to resume.
        scheduler: Name of the scheduler.
        address: Address of a running cluster.
        local: Train without Ray.
        processes: Number of processes with `local`; None for 1, which is this process.
        default: Default configuration file.

    Raises:
        ConfigurationError: An option is given that `resume` excludes.
    """
    budget = parse_duration(time_budget) if time_budget is not None else None
    num_processes = count_local_processes(local, processes, "--processes", "--local")
    addressed = cluster_address(address, local)
    if resume is None:
        overrides = {"trials": trials, "time_budget": budget, "scheduler": scheduler}
        options = {
            f"search.{key}": value for key, value in overrides.items() if value is not None
        } | addressed
        configuration = load(config or default, pairs, options, seed=seed)
        return start_run(Store.open(store), configuration, "sweep", name, dry_run, num_processes)
    if name or seed is not None or dry_run or scheduler is not None:
        raise ConfigurationError(
            "--resume continues the sweep with its own configuration: leave out --name, --seed, "
            "--scheduler and --dry-run"
        ).with_details("--resume", resume, "without --name, --seed, --scheduler and --dry-run")
    existing = Store.existing(store)
    if find_comparison(existing, resume):
        raise ConfigurationError(
            f"--resume {resume}: this is a comparison: continue it with "
            f"`{resume_command(existing, resume)}`"
        ).with_details("--resume", resume, "the name of a sweep")
    return resume_run(
        Store.open(store), resume, trials, budget, config, address, pairs, num_processes
    )
