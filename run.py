"""The command line: a function per command, no logic.

Everything heavy is imported by the command that needs it.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.error_handling import run_command

app = typer.Typer(
    no_args_is_help=True,
    help="Search for the recipe that distils best.",
    pretty_exceptions_enable=False,
)

DEFAULT = Path(__file__).parent / "configs" / "digits.yaml"
Config = Annotated[Path, typer.Option("--config", help="The experiment, a YAML file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value over the file, with dotted keys; repeat it."),
]
Store = Annotated[
    str,
    typer.Option(
        "--store", help="The folder that holds everything written, or s3://, gs:// or file://."
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", help="The run's name; default: its method and the time.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Seed of weights, order of samples, views and search.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")]
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
        help="A running Ray cluster: HOST:PORT, or auto for that of this machine; over "
        "resources.address.",
    ),
]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from orchestrator.core.provenance import describe_version

        print(describe_version())
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Search for the recipe that distils best."""


@app.command()
def sweep(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            show_default="configs/digits.yaml",
            help="The experiment, a YAML file; with --resume: to compare.",
        ),
    ] = None,
    set_: Set = None,
    store: Store = "runs",
    name: Name = None,
    seed: Seed = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="How many trials; over search.trials.")
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", help="Train no longer than this: 90s, 10m, 2h.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", help="asha, hyperband, median, pbt or none; over search.scheduler."
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with the sweep of this name.")
    ] = None,
    address: Address = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Search: train many students, stop the poor ones early, keep the best."""
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
                default=DEFAULT,
            )
        )


@app.command()
def compare(
    methods: Annotated[
        str | None, typer.Option("--methods", help="Two or more, as cross_entropy,kd,wttm.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", show_default="10", help="With how many seeds the best settings are trained."
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", help="How many trials the search of each method has; over search.trials."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", show_default="configs/digits.yaml", help="The experiment, a YAML file."
        ),
    ] = None,
    set_: Set = None,
    store: Store = "runs",
    name: Annotated[
        str | None,
        typer.Option("--name", help="The comparison's name; default: compare and the time."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with the comparison of this name.")
    ] = None,
    address: Address = None,
    json: Annotated[
        bool, typer.Option("--json", help="The result for programs, alone on the standard output.")
    ] = False,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Compare methods: an equal search for each, then the best settings of each on paired seeds."""
    with run_command(debug):
        from orchestrator.cli.compare import compare as run

        sys.exit(
            run(
                methods=methods,
                seeds=seeds,
                trials=trials,
                config=config,
                pairs=set_ or [],
                store=store,
                name=name,
                address=address,
                resume=resume,
                dry_run=dry_run,
                as_json=json,
                default=DEFAULT,
            )
        )


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
    """Train one student with the settings given."""
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
        bool, typer.Option("--precompute", help="Then fill the cache with its logits of all views.")
    ] = False,
    fill: Annotated[bool, typer.Option("--fill", hidden=True)] = False,
    local: Local = False,
    address: Address = None,
    dry_run: DryRun = False,
    debug: Debug = False,
) -> None:
    """Fit the teacher alone, or load and check it."""
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
def methods(debug: Debug = False) -> None:
    """List the methods, their settings and their search spaces."""
    with run_command(debug):
        from orchestrator.cli.methods import methods as run

        sys.exit(run())


@app.command()
def status(
    name: Annotated[
        str | None, typer.Argument(help="The name of a sweep; or with --address that of a job.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", help="Of a sweep, default: runs; without a name: list its sweeps."),
    ] = None,
    address: JobServer = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Of a job: its whole log, until it ends.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Show the state of a sweep, or of a job on a cluster; without a name, of all sweeps of a
    --store, or of all jobs.
    """
    if address is not None or follow or (name is None and store is None):
        with run_command(debug, ends_unread=True):
            from orchestrator.cli.status import job_status

            sys.exit(job_status(name=name, address=address, follow=follow, as_json=json))
    else:
        with run_command(debug, ends_unread=True):
            from orchestrator.cli.status import run_status

            sys.exit(run_status(name=name, store=store or "runs", as_json=json))


@app.command()
def watch(
    name: Annotated[str, typer.Argument(help="The name of a sweep or a training.")],
    store: Store = "runs",
    once: Annotated[bool, typer.Option("--once", help="Show how it stands, and exit.")] = False,
    debug: Debug = False,
) -> None:
    """Look on while a sweep runs, from another terminal or node; Ctrl-C ends the looking alone."""
    with run_command(debug, ends_unread=True):
        from orchestrator.cli.watch import watch as run

        sys.exit(run(name=name, store=store, once=once))


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    command: Annotated[
        list[str],
        typer.Argument(
            help="-- and what is to run there: sweep, train or teacher with their options."
        ),
    ],
    address: JobServer = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The job's name; default: its run's, and the time.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Files that stay here, as in .gitignore; repeat it."),
    ] = None,
    limit_mib: Annotated[
        float, typer.Option("--limit-mib", min=0, help="The largest package that is sent.")
    ] = 100.0,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow its log.")] = False,
    debug: Debug = False,
) -> None:
    """Send the project and a command line to a running cluster, and follow it there to its end."""
    with run_command(debug, ends_unread=True):
        from orchestrator.cli.submit import submit as run

        sys.exit(
            run(
                group=typer.main.get_command(app),
                words=command,
                address=address,
                name=name,
                excludes=exclude or [],
                limit_mib=limit_mib,
                detach=detach,
            )
        )


@app.command()
def stop(
    name: Annotated[str, typer.Argument(help="The name of a job.")],
    address: JobServer = None,
    debug: Debug = False,
) -> None:
    """Stop a job on a cluster; its run can be resumed."""
    with run_command(debug):
        from orchestrator.cli.stop import stop as run

        sys.exit(run(name=name, address=address))


@app.command()
def importance(
    name: Annotated[str, typer.Argument(help="The name of a sweep.")],
    store: Store = "runs",
    epoch: Annotated[
        int | None,
        typer.Option(
            "--epoch",
            min=1,
            help="Compare all trials by their value after this epoch; default: complete ones.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show which settings of a sweep mattered, and log that to MLflow."""
    with run_command(debug):
        from orchestrator.cli.importance import importance as run

        sys.exit(run(name=name, store=store, epoch=epoch))


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="The name of a sweep or a training.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", help="An HTML file; default: reports/NAME.html in the store."),
    ] = None,
    store: Store = "runs",
    debug: Debug = False,
) -> None:
    """Write what a sweep found as one HTML page, and log that to MLflow."""
    with run_command(debug):
        from orchestrator.cli.report import report as run

        sys.exit(run(name=name, store=store, to=to))


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="The name of a sweep or a training.")],
    student: Annotated[
        str | None,
        typer.Option("--student", help="Its letter where several train together; default: a."),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", help="The trial's number; default: the best one.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="best (on the validation part) or last.")
    ] = "best",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="A folder that is new or empty; default: in the store."),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="safetensors (weights), torchexport (.pt2, needs torch alone) or onnx."
        ),
    ] = "safetensors",
    store: Store = "runs",
    debug: Debug = False,
) -> None:
    """Put a trained student into a folder of its own: weights, settings, a model card."""
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
                form=form,
            )
        )


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="EXPORT", help="A folder that `export` wrote.")],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="Picture files, or .npy: uint8, (H, W, C) or (n, H, W, C)."
        ),
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes of each image.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """Let an exported student look at pictures: the likeliest classes of each, with their
    probabilities.
    """
    with run_command(debug):
        from orchestrator.export.predict import predict as run

        sys.exit(run(folder=folder, images=images, top=top, as_json=json))


@app.command()
def doctor(
    config: Config = DEFAULT,
    set_: Set = None,
    store: Store = "runs",
    address: Annotated[
        str | None,
        typer.Option("--address", help="Of a running Ray cluster; over resources.address."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Leave out what takes long: two workers that are started."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Look whether this machine, or a cluster, is fit for a run."""
    with run_command(debug):
        from orchestrator.cli.doctor import doctor as run

        sys.exit(run(config=config, pairs=set_ or [], store=store, address=address, quick=quick))


@app.command()
def ui(
    store: Store = "runs",
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="On the loopback address.")
    ] = 5000,
    debug: Debug = False,
) -> None:
    """Open MLflow's user interface on the store, on this machine alone."""
    with run_command(debug):
        from orchestrator.cli.ui import ui as run

        sys.exit(run(store=store, port=port))


if __name__ == "__main__":
    app()
