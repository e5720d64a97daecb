"""Measure a sweep's overhead: warm groups (ours) against a TorchTrainer per Tune trial (theirs).

    python benchmarks/sweep_overhead.py [--trials 20] [--at-once 2] [--json]

Both sides run the same trivial trials (digits, mlp, one epoch of cross entropy, the same torch
loop, Optuna's TPE), each side in a process with its own Ray. Ours additionally writes its records,
its study and MLflow. Times begin with the process: `start-up` ends with the first report, `trial`
is each further one, `sweep` is the total.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT, compare_results, make_parser, print_results, run_in_process

SETTINGS = [
    "data.name=digits",
    "teacher=null",
    "method.name=cross_entropy",
    "training.epochs=1",
    "search.scheduler=none",
]


def ours(folder: Path, trials: int, at_once: int, started: float) -> dict[str, float]:
    """Run a sweep as `run.py sweep` does."""
    reports = run_in_process(
        folder, [*SETTINGS, f"search.trials={trials}", f"resources.groups={at_once}"], "sweep"
    )
    assert len(reports) == trials
    return times([report.at for report in reports], started, trials)


def theirs(folder: Path, trials: int, at_once: int, started: float) -> dict[str, float]:
    """Run a sweep the standard way: a function trainable that runs a TorchTrainer."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from orchestrator.config.loader import load
    from orchestrator.data.prepare import prepare

    configuration = load(None, SETTINGS)
    data = prepare(configuration.data, folder, 0)
    cluster = ray.init(address="local", log_to_driver=False, include_dashboard=False)
    os.environ["RAY_ADDRESS"] = cluster.address_info["gcs_address"]
    reports: list[float] = []

    class Notes(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            reports.append(time.time())

    fixed = {
        "data": str(data),
        "folder": str(folder),
        "configuration": json.dumps(configuration.plain()),
    }
    results = tune.Tuner(
        tune.with_resources(stock_trial, {"memory": 50 * 2**20}),
        param_space={**fixed, "learning_rate": tune.loguniform(0.005, 0.5)},
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=trials,
            max_concurrent_trials=at_once,
            search_alg=OptunaSearch(seed=0),
        ),
        run_config=tune.RunConfig(
            name="stock", storage_path=str(folder), verbose=0, callbacks=[Notes()]
        ),
    ).fit()
    assert not results.errors and len(results) == trials
    ray.shutdown()
    return times(reports, started, trials)


def stock_trial(config: dict[str, Any]) -> None:
    """Run one Tune trial with its own TorchTrainer, and forward its reports as in Ray's guide."""
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    name = f"trial-{tune.get_context().get_trial_id()}"
    TorchTrainer(
        stock_loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name=name, storage_path=config["folder"], callbacks=[TuneReportCallback()]
        ),
    ).fit()


def stock_loop(config: dict[str, Any]) -> None:
    """Train as ours does, in the worker of a TorchTrainer."""
    import ray.train

    from orchestrator.config.loader import build
    from orchestrator.config.trial import TrialSpec
    from orchestrator.core.context import TrialContext
    from orchestrator.training._trainer import train

    values = json.loads(config["configuration"])
    values["training"]["learning_rate"] = config["learning_rate"]
    folder = Path(config["folder"]) / f"checkpoint-{os.getpid()}"
    specification = TrialSpec(
        name="stock", configuration=build(values), folder=folder, data=Path(config["data"])
    )

    def report(record: Any) -> None:
        ray.train.report({"accuracy": record.metrics["validation/accuracy"]})

    train(specification, TrialContext(report=report))


def times(reports: list[float], started: float, trials: int) -> dict[str, float]:
    """Return the seconds of the start-up, of each further trial, and in total."""
    reports = sorted(reports)
    return {
        "start-up": reports[0] - started,
        "trial": (reports[-1] - reports[0]) / max(trials - 1, 1),
        "sweep": time.time() - started,
    }


def measure(side: str, trials: int, at_once: int) -> dict[str, float]:
    """Run one side in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            "--side",
            side,
            "--trials",
            str(trials),
            "--at-once",
            str(at_once),
        ]
        command += ["--folder", folder, "--started", str(time.time())]
        output = subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def main() -> None:
    """Run both sides, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "theirs"], help=SUPPRESS)
    parser.add_argument("--folder", type=Path, help=SUPPRESS)
    parser.add_argument("--started", type=float, help=SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(
            json.dumps(
                globals()[options.side](
                    options.folder, options.trials, options.at_once, options.started
                )
            )
        )
        return
    sides = {side: measure(side, options.trials, options.at_once) for side in ("theirs", "ours")}
    print_results(
        [
            compare_results(case, ours, sides["theirs"][case], "s")
            for case, ours in sides["ours"].items()
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
