"""Compare methods: search each, train each over seeds, show and store the result."""

import contextlib
import sys
from pathlib import Path

from rich.console import Console

from orchestrator.cli._comparisons import resume_command
from orchestrator.cli._options import cluster_address
from orchestrator.cli._run import console as standard_console
from orchestrator.config.loader import build, load
from orchestrator.config.path_settings import move_paths
from orchestrator.config.schema import Configuration
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.privacy import sanitize
from orchestrator.core.program import program_name
from orchestrator.extensions.record import require_code
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.store import Store
from orchestrator.sweep.comparison import page
from orchestrator.sweep.comparison.design import ALL, Design, read_design, require_searched_trials
from orchestrator.sweep.comparison.formats import FORMATS, require_format
from orchestrator.sweep.comparison.lifecycle import (
    create_comparison,
    describe_plan,
    describe_time,
    resolve_comparison,
    write_result,
)
from orchestrator.sweep.comparison.record import Comparison
from orchestrator.sweep.comparison.result import describe_unfinished, open_seed_sweeps, result
from orchestrator.sweep.comparison.runnable import select_methods


def compare(
    methods: str | None,
    seeds: int | None,
    studies: int | None,
    margin: float | None,
    trials: int | None,
    config: Path | None,
    pairs: list[str],
    store: Path | str,
    name: str | None,
    address: str | None,
    resume: str | None,
    dry_run: bool,
    output: str | None,
    default: Path,
) -> int:
    """Start or resume a comparison; return the exit code.

    Args:
        methods: Names of two or more methods, separated by commas, or `all` for those that the
            configuration allows; required unless `resume` is given.
        seeds: Trainings per method after the search; None for 10.
        studies: Repetitions of the searches and the trainings; None for 1.
        margin: Largest difference in points that counts as equivalent; None for 0.3.
        trials: Trials of the search of each method; None for the configured number.
        config: Configuration file; None for `default`.
        pairs: `KEY=VALUE` settings of `--set`.
        store: Folder or URI of the store.
        name: Name of the comparison; None for one with the time.
        address: Address of a running cluster.
        resume: Name of the comparison to resume.
        dry_run: Show the plan and stop.
        output: Print only the result to standard output, in this format; None for tables in the
            terminal.
        default: Default configuration file.

    Raises:
        ConfigurationError: `methods` is missing, or an option is given that `resume` excludes.
    """
    console = standard_console if output is None else Console(stderr=True)
    if output is not None:
        require_format(output)
    if resume is None:
        request = read_design(methods, seeds, studies, margin)
        options = (
            cluster_address(address)
            | ({} if request.methods == (ALL,) else {"search.methods": list(request.methods)})
            | ({} if trials is None else {"search.trials": trials})
        )
        configuration, opened = load(config or default, pairs, options), Store.open(store)
        require_searched_trials(configuration, trials)
        request = select_methods(opened, configuration, request, _print_note)
        comparison = _create_comparison(opened, request, configuration, name, dry_run)
        if comparison is None:
            return errors.OK
    else:
        own = (methods, seeds, studies, margin, trials, config, name)
        if own != (None,) * len(own) or dry_run:
            options_text = (
                "--methods, --seeds, --studies, --margin, --trials, --config, --name and --dry-run"
            )
            raise ConfigurationError(
                f"--resume continues the comparison with its own configuration: leave out "
                f"{options_text}"
            ).with_details("--resume", resume, f"without {options_text}")
        comparison = Comparison.open(Store.existing(store), resume)
        require_code(comparison.code, f"--resume {resume}", comparison.configuration)
        values = move_paths(comparison.configuration, pairs).plain()
        if address is not None:
            values["resources"]["address"] = address or None
        comparison.configuration = build(values)
    return _run_and_print(Store.open(store), comparison, console, output)


def _print_note(text: str) -> None:
    """Print a note to standard error, because standard output may hold only the result."""
    print(sanitize(f"note: {text}"), file=sys.stderr)


def _create_comparison(
    store: Store, request: Design, configuration: Configuration, name: str | None, dry_run: bool
) -> Comparison | None:
    """Return the record of a new comparison after all checks; None after a `dry_run`."""
    from orchestrator.sweep.preflight.preflight import show_plan

    common, name = resolve_comparison(store, configuration, request, name)
    if dry_run:
        show_plan(store, common, "sweep", False, standard_console)
        print_line(standard_console, f"comparison: {describe_plan(common, request)}")
        print_line(standard_console, f"time: {describe_time(store, common, request)}")
        return None
    return create_comparison(store, common, name, request, _print_note)


def _run_and_print(
    store: Store, comparison: Comparison, console: Console, output: str | None
) -> int:
    from orchestrator.sweep.comparison.running import run_comparison

    again = resume_command(store, comparison.name)
    try:
        seed_sweeps = run_comparison(store, comparison, console)
    except KeyboardInterrupt:
        # a second interrupt must not suppress the resume command
        with contextlib.suppress(KeyboardInterrupt):
            _show_unfinished(store, comparison, console)
        print_line(console, f"\ninterrupted; resume: {again}")
        return errors.INTERRUPTED
    except PreflightError as error:
        raise PreflightError.from_error(
            error, f"{error}; then resume the comparison: {again}"
        ) from error
    outcome = result(store, comparison)
    if reason := write_result(store, comparison, outcome):
        print_line(console, f"not logged: {reason}")
    page.show(outcome, console)
    if output is not None:
        print(FORMATS[output](outcome))
    for what, command in {
        "tables": comparison.folder / "comparison.html",
        "open MLflow": f"{program_name()} ui{store.option}",
    }.items():
        print_line(console, f"{what}: {command}")
    finished = all(sweep.state == "finished" for sweep in seed_sweeps)
    return errors.OK if finished else errors.NO_USABLE_TRIAL


def _show_unfinished(store: Store, comparison: Comparison, console: Console) -> None:
    """Print the intermediate result of the trainings over seeds, if one of them has ended."""
    sweeps = [sweep for _, sweep in open_seed_sweeps(store, comparison)]
    if any(sweep.count_ended() for sweep in sweeps):
        unfinished = describe_unfinished(comparison, sweeps)
        page.show(result(store, comparison, unfinished), console)
