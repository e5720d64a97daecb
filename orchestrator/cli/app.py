"""Define the command line.

Each command imports the modules that it needs when it runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli._code import Code, Plugin, add_code_commands, insert_code
from orchestrator.cli._compare_options import compare
from orchestrator.cli._import_options import import_weights
from orchestrator.cli._option_types import (
    Address,
    Config,
    Debug,
    DryRun,
    JobServer,
    Json,
    Local,
    Name,
    Processes,
    ResumeConfig,
    RunName,
    Scheduler,
    Seed,
    Set,
    ShownName,
    Store,
    Trials,
    Version,
    find_example,
)
from orchestrator.cli.error_handling import run_command
from orchestrator.config.examples import DEFAULT

app = typer.Typer(
    no_args_is_help=True,
    help="Train students by knowledge distillation, and search for the best settings.",
    pretty_exceptions_enable=False,
)


@app.callback()
def main(version: Version = False) -> None:
    """Train students by knowledge distillation, and search for the best settings."""


@app.command()
def sweep(
    config: ResumeConfig = None,
    set_: Set = None,
    store: Store = "runs",
    name: Name = None,
    seed: Seed = None,
    trials: Trials = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", help="Maximum training time: 90s, 10m, 2h.")
    ] = None,
    scheduler: Scheduler = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Resume the sweep with this name.")
    ] = None,
    address: Address = None,
    local: Local = False,
    processes: Processes = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Search for the best settings: train many students, and stop weak trials early."""
    with run_command(debug):
        from orchestrator.cli.sweep import sweep as run

        sys.exit(
            run(
                config=config,
                pairs=set_ or [],
                store=store,
                name=name,
                seed=seed,
                dry_run=dry_run,
                trials=trials,
                time_budget=time_budget,
                resume=resume,
                scheduler=scheduler,
                address=address,
                local=local,
                processes=processes,
                default=DEFAULT,
            )
        )


app.command()(compare)


@app.command()
def train(
    config: Config = DEFAULT,
    set_: Set = None,
    store: Store = "runs",
    name: Name = None,
    seed: Seed = None,
    local: Local = False,
    address: Address = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Train one student with the given settings."""
    with run_command(debug):
        from orchestrator.cli.train import train as run

        sys.exit(
            run(
                config=config,
                pairs=set_ or [],
                store=store,
                name=name,
                seed=seed,
                dry_run=dry_run,
                local=local,
                address=address,
            )
        )


@app.command()
def teacher(
    config: Config = DEFAULT,
    set_: Set = None,
    store: Store = "runs",
    seed: Seed = None,
    precompute: Annotated[
        bool, typer.Option("--precompute", help="Then cache the teacher's logits for all views.")
    ] = False,
    fill: Annotated[bool, typer.Option("--fill", hidden=True)] = False,
    local: Local = False,
    address: Address = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Train only the teacher, or load and check it."""
    with run_command(debug):
        from orchestrator.cli.teacher import teacher as run

        sys.exit(
            run(
                config=config,
                pairs=set_ or [],
                store=store,
                seed=seed,
                precompute=precompute,
                fill=fill,
                local=local,
                dry_run=dry_run,
                address=address,
            )
        )


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="Name of a method; default: all methods.")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the methods with their settings and search spaces, or explain one of them."""
    with run_command(debug):
        from orchestrator.cli.methods import methods as run

        sys.exit(run(name))


@app.command()
def settings(
    key: Annotated[
        str | None,
        typer.Argument(
            help="Dotted key such as training.learning_rate, student.width or kd.temperature; "
            "default: all sections."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", callback=find_example, help="Also show the values of this file (YAML)."
        ),
    ] = None,
    set_: Set = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Explain a key of the configuration: type, bounds, unit, default and meaning."""
    with run_command(debug, ends_unread=True):
        from orchestrator.cli.settings import settings as run

        sys.exit(run(key=key, config=config, pairs=set_ or [], as_json=json))


@app.command()
def configs(
    name: Annotated[
        str | None, typer.Argument(help="Name of an example, which is printed.")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the example configurations, or print one."""
    with run_command(debug):
        from orchestrator.cli.configs import configs as run

        sys.exit(run(name=name))


@app.command()
def status(
    name: Annotated[
        str | None,
        typer.Argument(help="Name of a sweep or a comparison; with --address, name of a job."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store", help="Store of the sweep, default: runs; without a name, list its sweeps."
        ),
    ] = None,
    address: JobServer = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the whole log of a job until it ends.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the state of a sweep, a comparison, or a job on a cluster; without a name, of all
    sweeps and comparisons of a --store, or of all jobs.
    """
    with run_command(debug, ends_unread=True):
        from orchestrator.cli.status import run_status, show_job_status

        if address is not None or follow or (name is None and store is None):
            sys.exit(show_job_status(name=name, address=address, follow=follow, as_json=json))
        sys.exit(run_status(name=name, store=store or "runs", as_json=json))


@app.command()
def watch(
    name: ShownName,
    store: Store = "runs",
    once: Annotated[bool, typer.Option("--once", help="Show the current state and exit.")] = False,
    debug: Debug = False,
) -> None:
    """Watch a sweep or a comparison from another terminal or node; Ctrl-C stops only watching."""
    with run_command(debug, ends_unread=True):
        from orchestrator.cli.watch import watch as run

        sys.exit(run(name=name, store=store, once=once))


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    command: Annotated[
        list[str],
        typer.Argument(
            help="-- and the command to run: sweep, compare, train or teacher, with options."
        ),
    ],
    address: JobServer = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the job; default: name of the run and the time."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", help="Pattern of files not to upload, as in .gitignore; repeatable."
        ),
    ] = None,
    limit_mib: Annotated[
        float, typer.Option("--limit-mib", min=0, help="Maximum size of the package in MiB.")
    ] = 100.0,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the log.")] = False,
    code: Code = None,
    plugin: Plugin = None,
    debug: Debug = False,
) -> None:
    """Send the project and a command to a running cluster, and follow the job until it ends."""
    with run_command(debug, ends_unread=True):
        from orchestrator.cli.submit import submit as run

        sys.exit(
            run(
                group=typer.main.get_command(app),
                words=insert_code(command, code, plugin),
                address=address,
                name=name,
                excludes=exclude or [],
                limit_mib=limit_mib,
                detach=detach,
            )
        )


@app.command()
def stop(
    name: Annotated[
        str, typer.Argument(help="Name of a job; with --store, of a sweep or a comparison.")
    ],
    address: JobServer = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Store of a run whose process is on this machine.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Stop a job on a cluster, or with --store a run on this machine; it can be resumed later."""
    with run_command(debug):
        from orchestrator.cli.stop import stop as run
        from orchestrator.cli.stop import stop_run

        if store is not None:
            sys.exit(stop_run(name=name, store=store, address=address))
        sys.exit(run(name=name, address=address))


@app.command()
def importance(
    name: Annotated[str, typer.Argument(help="Name of a sweep.")],
    store: Store = "runs",
    epoch: Annotated[
        int | None,
        typer.Option(
            "--epoch",
            min=1,
            help="Compare all trials by their value after this epoch; default: complete trials.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show the importance of a sweep's settings, and log it to MLflow."""
    with run_command(debug):
        from orchestrator.cli.importance import importance as run

        sys.exit(run(name=name, store=store, epoch=epoch))


@app.command()
def report(
    name: ShownName,
    to: Annotated[
        Path | None, typer.Option("--to", help="HTML file; default: in the store.")
    ] = None,
    store: Store = "runs",
    debug: Debug = False,
) -> None:
    """Write the page of a sweep (HTML) or of a comparison (Markdown), and log it to MLflow."""
    with run_command(debug):
        from orchestrator.cli.report import report as run

        sys.exit(run(name=name, store=store, to=to))


@app.command()
def export(
    name: RunName,
    student: Annotated[
        str | None, typer.Option("--student", help="Letter of the student; default: a.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", help="Number of the trial; default: the best trial.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="best (on the validation set) or last.")
    ] = "best",
    to: Annotated[
        Path | None, typer.Option("--to", help="New or empty folder; default: in the store.")
    ] = None,
    export_format: Annotated[
        str,
        typer.Option(
            "--format", help="safetensors (weights), torchexport (.pt2, needs only torch) or onnx."
        ),
    ] = "safetensors",
    store: Store = "runs",
    debug: Debug = False,
) -> None:
    """Export a trained student to a folder: weights, settings and a model card."""
    with run_command(debug):
        from orchestrator.cli.export import export as run

        sys.exit(
            run(
                name=name,
                student=student,
                trial=trial,
                weights=weights,
                to=to,
                store=store,
                form=export_format,
            )
        )


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="Folder written by `export`.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Image files, or .npy: uint8, (H, W, C) or (n, H, W, C)."
        ),
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="Number of classes per image.")] = 5,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify images with an exported student: the most likely classes, with probabilities."""
    with run_command(debug):
        from orchestrator.export.predict import predict as run

        sys.exit(run(folder=folder, images=images, top=top, as_json=json))


app.command("import-weights")(import_weights)


@app.command()
def doctor(
    config: Config = DEFAULT,
    set_: Set = None,
    store: Store = "runs",
    address: Address = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Skip the slow check, which starts two workers.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Check whether this machine, or a cluster, is ready for a run."""
    with run_command(debug):
        from orchestrator.cli.doctor import doctor as run

        sys.exit(run(config=config, pairs=set_ or [], store=store, address=address, quick=quick))


@app.command()
def ui(
    store: Store = "runs",
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port on the loopback address.")
    ] = 5000,
    debug: Debug = False,
) -> None:
    """Open MLflow's user interface for the store, on this machine only."""
    with run_command(debug):
        from orchestrator.cli.ui import ui as run

        sys.exit(run(store=store, port=port))


add_code_commands(app)
