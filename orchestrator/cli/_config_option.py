"""Define the option `--config`, which accepts a file or the name of an example."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.config.examples import find_configuration

SHOWN = "configs/digits.yaml"
HELP = "Configuration of the experiment: a YAML file, or the name of an example (see `configs`)"


def _find(file: Path | None) -> Path | None:
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
    Path, typer.Option("--config", callback=_find, show_default=SHOWN, help=f"{HELP}.")
]
OptionalConfig = Annotated[
    Path | None, typer.Option("--config", callback=_find, show_default=SHOWN, help=f"{HELP}.")
]
ResumeConfig = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_find,
        show_default=SHOWN,
        help=f"{HELP}; with --resume, must match the sweep's.",
    ),
]
