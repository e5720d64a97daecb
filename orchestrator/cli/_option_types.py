"""Define the options that several commands share."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.config.examples import find_configuration

SHOWN = "configs/digits.yaml"
HELP = "Configuration of the experiment: a YAML file, or the name of an example (see `configs`)"


def find_example(file: Path | None) -> Path | None:
    """Return the file; an example that is found by its name is reported."""
    if file is None:
        return None
    found = find_configuration(file)
    if found != file:
        from orchestrator.core.privacy import sanitize

        note = f"note: --config {file}: no such file here, so the example {found} is used"
        print(sanitize(note), file=sys.stderr)
    return found


Config = Annotated[
    Path, typer.Option("--config", callback=find_example, show_default=SHOWN, help=f"{HELP}.")
]
OptionalConfig = Annotated[
    Path | None,
    typer.Option("--config", callback=find_example, show_default=SHOWN, help=f"{HELP}."),
]
ResumeConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=find_example,
        show_default=SHOWN,
        help=f"{HELP}; with --resume, must match the sweep's.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a setting of the file: key=value with a dotted key; repeatable."
    ),
]
Store = Annotated[
    str, typer.Option("--store", help="Folder or URI (s3://, gs://, file://) for all outputs.")
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the run; default: its method and the time.")
]
RunName = Annotated[str, typer.Argument(help="Name of a sweep or a training run.")]
ShownName = Annotated[
    str, typer.Argument(help="Name of a sweep, a training run or a comparison.", metavar="NAME")
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of the weights, sample order, augmentation and search."),
]
Trials = Annotated[
    int | None, typer.Option("--trials", help="Number of trials; overrides search.trials.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", help="asha, hyperband, median, pbt or none; overrides search.scheduler."
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobServer = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="HOST:PORT of a cluster's dashboard; default: RAY_API_SERVER_ADDRESS, or "
        "127.0.0.1:8265.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster: HOST:PORT, auto for the one on this machine, or local to start Ray "
        "here; overrides resources.address and RAY_ADDRESS.",
    ),
]
Local = Annotated[bool, typer.Option("--local", help="Train without Ray, in this process.")]

Processes = Annotated[
    int | None,
    typer.Option(
        "--processes",
        show_default="1",
        help="With --local: number of processes that train; 1 is this process.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from orchestrator.core.provenance import describe_version

        print(describe_version())
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
]
