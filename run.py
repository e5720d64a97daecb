"""The command line: a function per command, no logic. Everything heavy is imported by the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Search for the recipe that distils best.", pretty_exceptions_enable=False
)

DEFAULT = Path(__file__).parent / "configs" / "digits.yaml"
Config = Annotated[Path, typer.Option("--config", help="The experiment, a YAML file.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="key=value over the file, with dotted keys; repeat it.")]
Store = Annotated[Path, typer.Option("--store", help="The folder that holds everything written.")]
Name = Annotated[str | None, typer.Option("--name", help="The run's name; default: its method and the time.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, order of samples, views and search.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray cluster: HOST:PORT, or auto for that of this machine; over resources.address."),
]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]


def _call(function: str, debug: bool, **arguments: Any) -> None:
    """Run a command; what a person can mend is printed as its sentence, and the exit code says its kind."""
    from orchestrator import commands
    from orchestrator.errors import INTERRUPTED, UserError

    try:
        sys.exit(getattr(commands, function)(**arguments))
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.command()
def sweep(
    config: Config = DEFAULT,
    set_: Set = None,
    store: Store = Path("runs"),
    name: Name = None,
    seed: Seed = None,
    trials: Annotated[int | None, typer.Option("--trials", help="How many trials; over search.trials.")] = None,
    time_budget: Annotated[str | None, typer.Option("--time-budget", help="Train no longer than this: 90s, 10m, 2h.")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="asha, hyperband, median, pbt or none; over search.scheduler.")
    ] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Go on with the sweep of this name.")] = None,
    address: Address = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Search: train many students, stop the poor ones early, keep the best."""
    _call("sweep", debug, config=config, pairs=set_ or [], store=store, name=name, seed=seed, dry_run=dry_run,
          trials=trials, time_budget=time_budget, resume=resume, scheduler=scheduler, address=address)  # fmt: skip


@app.command()
def train(
    config: Config = DEFAULT,
    set_: Set = None,
    store: Store = Path("runs"),
    name: Name = None,
    seed: Seed = None,
    local: Local = False,
    address: Address = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Train one student with the settings given."""
    _call("train", debug, config=config, pairs=set_ or [], store=store, name=name, seed=seed, dry_run=dry_run, local=local,
          address=address)  # fmt: skip


@app.command()
def teacher(
    config: Config = DEFAULT,
    set_: Set = None,
    store: Store = Path("runs"),
    seed: Seed = None,
    fill: Annotated[bool, typer.Option("--fill", help="Then fill the cache with its logits of all views.")] = False,
    local: Local = False,
    address: Address = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Fit the teacher alone, or load and check it."""
    _call("teacher", debug, config=config, pairs=set_ or [], store=store, seed=seed, fill=fill, local=local, dry_run=dry_run,
          address=address)  # fmt: skip


@app.command()
def methods(debug: Debug = False) -> None:
    """List the methods, their settings and their search spaces."""
    _call("methods", debug)


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="The name of a sweep.")],
    store: Store = Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Show the state of a sweep."""
    _call("status", debug, name=name, store=store, as_json=json)


@app.command()
def importance(
    name: Annotated[str, typer.Argument(help="The name of a sweep.")],
    store: Store = Path("runs"),
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", min=1, help="Compare all trials by their value after this epoch; default: complete ones."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show which settings of a sweep mattered, and log that to MLflow."""
    _call("importance", debug, name=name, store=store, epoch=epoch)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="The name of a sweep or a training.")],
    student: Annotated[str | None, typer.Option("--student", help="Its letter where several train together; default: a.")] = None,
    trial: Annotated[int | None, typer.Option("--trial", help="The trial's number; default: the best one.")] = None,
    weights: Annotated[str, typer.Option("--weights", help="best (on the validation part) or last.")] = "best",
    to: Annotated[Path | None, typer.Option("--to", help="A folder that is new or empty; default: in the store.")] = None,
    store: Store = Path("runs"),
    debug: Debug = False,
) -> None:
    """Put a trained student into a folder of its own: weights, settings, a model card."""
    _call("export", debug, name=name, student=student, trial=trial, weights=weights, to=to, store=store)


@app.command()
def ui(
    store: Store = Path("runs"),
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="On the loopback address.")] = 5000,
    debug: Debug = False,
) -> None:
    """Open MLflow's user interface on the store, on this machine alone."""
    _call("ui", debug, store=store, port=port)


if __name__ == "__main__":
    app()
