"""Define the options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Option("--config", help="Configuration of the experiment (YAML).")]
OptionalConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        show_default="configs/digits.yaml",
        help="Configuration of the experiment (YAML).",
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
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of the weights, sample order, augmentation and search."),
]
Trials = Annotated[
    int | None, typer.Option("--trials", help="Number of trials; overrides search.trials.")
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
Local = Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")]
