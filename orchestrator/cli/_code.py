"""Add the options `--code` and `--plugin` to the commands that build networks, methods or data."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.error_handling import run_command
from orchestrator.core.program import code_options_of

Code = Annotated[
    list[Path] | None,
    typer.Option(
        "--code",
        help="Python file that registers networks, data sets, methods, transforms or metrics; it "
        "runs with your rights; repeatable, in this order.",
    ),
]
Plugin = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="Name of an installed plugin, which does the same; repeatable."),
]
COMMANDS = (
    *("train", "sweep", "compare", "teacher", "export", "predict", "report", "doctor"),
    *("methods", "settings", "import_weights"),
)


def add_code_commands(app: typer.Typer) -> None:
    """Add `--code` and `--plugin` to the commands of `COMMANDS`, and the command `check-code`."""
    app.command()(check_code)
    for command in app.registered_commands:
        callback = command.callback
        if callback is not None and callback.__name__ in COMMANDS:
            command.callback = _with_code(callback)


def _with_code(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that loads user code first."""

    @functools.wraps(callback)
    def run(
        *, code: list[Path] | None = None, plugin: list[str] | None = None, **options: Any
    ) -> Any:
        with code_options_of(code or (), plugin or ()):
            if code or plugin:
                with run_command(options["debug"]):
                    from orchestrator.extensions.loading import load_code

                    load_code(code or (), plugin or ())
            return callback(**options)

    added = {"code": Code, "plugin": Plugin}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in added.items()
    ]
    signature = inspect.signature(callback)
    given = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()
    ]
    last = next(place for place, each in enumerate(given) if each.name == "debug")
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*given[:last], *parameters, *given[last:]]
    )
    run.__annotations__ = callback.__annotations__ | added
    return run


def insert_code(
    command: Sequence[str], code: Sequence[Path] | None, plugin: Sequence[str] | None
) -> list[str]:
    """Return a command line with `--code` and `--plugin` after the name of the command."""
    given = (("--code", code or ()), ("--plugin", plugin or ()))
    words = [word for option, values in given for value in values for word in (option, str(value))]
    return [*command[:1], *words, *command[1:]]


def check_code(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="Python files, in this order.")
    ] = None,
    plugin: Plugin = None,
    classes: Annotated[
        int, typer.Option("--classes", min=2, help="Number of classes of networks and metrics.")
    ] = 10,
    shape: Annotated[
        str, typer.Option("--shape", help="Channels, height and width of the images.")
    ] = "3,32,32",
    path: Annotated[Path | None, typer.Option("--path", help="data.path of data sets.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="data.size of data sets.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Check the networks, data sets, methods, transforms and metrics of a file of --code."""
    with run_command(debug):
        from orchestrator.cli.check_code import check_code as run

        sys.exit(
            run(
                files=files or [],
                plugins=plugin or [],
                classes=classes,
                shape=shape,
                path=path,
                size=size,
            )
        )
