"""Declare the options of `compare`."""

import sys
from typing import Annotated

import typer

from orchestrator.cli._option_types import Address, Debug, DryRun, OptionalConfig, Set, Store
from orchestrator.cli.error_handling import run_command
from orchestrator.config.examples import DEFAULT


def compare(
    methods: Annotated[
        str | None, typer.Option("--methods", help="Two or more, such as kd,wttm, or all.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", show_default="10", help="Number of seeds per method after its search."
        ),
    ] = None,
    studies: Annotated[
        int | None,
        typer.Option(
            "--studies",
            show_default="1",
            help="Repetitions of search and seeds, so that intervals include the search.",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            show_default="0.3",
            help="Points of accuracy within which two methods are equivalent.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="Trials per method; overrides search.trials.")
    ] = None,
    config: OptionalConfig = None,
    set_: Set = None,
    store: Store = "runs",
    name: Annotated[
        str | None, typer.Option("--name", help="Name; default: compare and the time.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Resume the comparison with this name.")
    ] = None,
    address: Address = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Print only the result to standard output: markdown, latex, csv, json or html.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Compare methods: equal search budgets, then each method's best settings on paired seeds."""
    with run_command(debug):
        from orchestrator.cli.compare import compare as run
        from orchestrator.core.errors import ConfigurationError

        if json and format_ not in (None, "json"):
            raise ConfigurationError(
                f"--json and --format {format_} are both given: give one of them"
            ).with_details("--format", format_, (None, "json"))

        sys.exit(
            run(
                methods=methods,
                seeds=seeds,
                studies=studies,
                margin=margin,
                trials=trials,
                config=config,
                pairs=set_ or [],
                store=store,
                name=name,
                address=address,
                resume=resume,
                dry_run=dry_run,
                output="json" if json else format_,
                default=DEFAULT,
            )
        )
