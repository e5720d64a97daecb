"""Measure the driver's cost per trial in sweeps of 10, 100 and 1,000 trials: it must not grow.

    python benchmarks/scale.py [--trials 10 100 1000] [--nodes 2] [--samplers random tpe] [--json]
        [--profile FOLDER]

The benchmark uses a simulated cluster (Ray's cluster utility: a raylet per node, one CPU each) and
the whole path of `run.py sweep`: study, Tune, stand-ins, dispatcher, Ray Train groups, records,
display, MLflow on SQLite. The trials are real and minimal (64 digits, an mlp of width 4, one epoch
of cross entropy). Each sweep has its own process and cluster, without early stopping.

Times are measured between ends of trials, so they exclude start-up. `trial` is over all but the
first ten (of ten: all), `late / early` the last tenth over the second. CPU seconds are those of all
threads of the driver's process; other load on the machine affects them little. Memory is the
driver's resident set: `before` the first trial, `after` the sweep, and its peak.

The ratio of a row divides the cost per trial of the smallest sweep (theirs) by that of this one
(ours): 1 is no growth.
"""

import cProfile
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import ROOT, Result, compare_results, make_parser, make_result, print_results

SETTINGS = [
    "data.name=digits",
    "data.limit.train=64",
    "data.limit.validation=30",
    "data.limit.test=30",
    "teacher=null",
    "method.name=cross_entropy",
    "student.name=mlp",
    "student.width=4",
    "training.epochs=1",
    "search.scheduler=none",
]
MEBI = 2**20


def measure(options: Namespace, sampler: str, trials: int) -> dict[str, float]:
    """Run one sweep in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            __file__,
            "--folder",
            folder,
            "--trials",
            str(trials),
            "--samplers",
            sampler,
        ]
        command += ["--nodes", str(options.nodes)]
        command += ["--profile", str(options.profile)] if options.profile else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        output = subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment
        ).stdout
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def measure_sweep(options: Namespace) -> dict[str, float]:
    """Run a sweep on a simulated cluster as `run.py sweep` does, observed from its driver."""
    from rich.console import Console

    from orchestrator.config.loader import load
    from orchestrator.reporting.terminal.progress import Display
    from orchestrator.store.records import Sweep, Trial
    from orchestrator.store.store import Store
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.preflight.preflight import prepare_run

    ends: list[tuple[float, float]] = []
    before: list[float] = []

    class Clock(Display):
        """The usual display, which also records wall and CPU seconds at trial ends."""

        def trial_started(self, trial: Trial) -> None:
            before[:] = before or [resident_bytes()]
            super().trial_started(trial)

        def trial_ended(self, trial: Trial) -> None:
            super().trial_ended(trial)
            ends.append((time.monotonic(), time.process_time()))

    (trials,), (sampler,) = options.trials, options.samplers
    with cluster(options.nodes) as address, open(options.folder / "printed", "w") as printed:
        pairs = [
            f"search.trials={trials}",
            f"search.sampler={sampler}",
            f"resources.address={address}",
        ]
        store, configuration = Store.open(options.folder / "store"), load(None, [*SETTINGS, *pairs])
        prepared = prepare_run(store, configuration, "sweep", local_processes=0)
        sweep = Sweep.create(store.sweep("scale"), prepared.configuration, "sweep")
        profile = cProfile.Profile() if options.profile else nullcontext()
        with profile, Clock(sweep, Console(file=printed)) as clock:
            run_sweep(sweep, store, prepared.data, prepared.teacher_access, clock)
        if isinstance(profile, cProfile.Profile):
            options.profile.mkdir(parents=True, exist_ok=True)
            profile.dump_stats(options.profile / f"{sampler}-{trials}.prof")
    assert (
        sweep.state == "finished"
        and [trial.state for trial in sweep.trials.values()] == ["complete"] * trials
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return costs(ends) | {"before": before[0], "after": resident_bytes(), "peak": peak}


def costs(ends: list[tuple[float, float]]) -> dict[str, float]:
    """Return wall and CPU seconds per trial, and their growth.

    The first ten trials are skipped. The growth is the CPU seconds of the last tenth over the
    second one.
    """
    count, skipped = len(ends), 10 if len(ends) > 10 else 0
    tenth = max(count // 10, 1)

    def per_trial(first: int, last: int) -> tuple[float, float]:
        (wall, cpu), (later_wall, later_cpu) = ends[first], ends[last]
        return (later_wall - wall) / (last - first), (later_cpu - cpu) / (last - first)

    wall, cpu = per_trial(skipped, count - 1)
    found = {"wall": wall, "cpu": cpu}
    if count >= 100:
        early, late = per_trial(tenth, 2 * tenth), per_trial(count - 1 - tenth, count - 1)
        found |= {"growth": late[1] / early[1]}
    return found


def resident_bytes() -> float:
    """Return the resident memory of this process, in MiB."""
    import psutil

    return float(psutil.Process().memory_info().rss / MEBI)


@contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """Start a cluster of single-CPU nodes on loopback with Ray's token, and yield its address."""
    from ray._private import ray_constants
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )
    from ray.cluster_utils import Cluster

    from orchestrator.cluster.own_cluster import OWN_CLUSTER

    os.environ.update(OWN_CLUSTER)
    ray_constants.ENABLE_RAY_CLUSTER = False  # on loopback
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    made = Cluster()
    try:
        for _ in range(nodes):
            made.add_node(num_cpus=1)
        yield made.address
    finally:
        made.shutdown()


def rows(sampler: str, sweeps: dict[int, dict[str, float]]) -> list[Result]:
    """Return the table's lines of a sampler; the smallest sweep is the reference."""
    smallest = min(sweeps)
    found: list[Result] = []
    for trials, numbers in sorted(sweeps.items()):
        case = f"{sampler}, {trials:,} trials: "
        found.append(make_result(f"{case}trials per second", 1 / numbers["wall"], "1/s"))
        for name, what in {"wall": "a trial", "cpu": "a trial, CPU of the driver"}.items():
            mine, first = numbers[name], sweeps[smallest][name]
            found.append(
                make_result(case + what, mine, "s")
                if trials == smallest
                else compare_results(case + what, mine, first, "s")
            )
        if "growth" in numbers:
            found.append(
                compare_results(f"{case}CPU, last tenth / second tenth", numbers["growth"], 1.0, "")
            )
        found += [
            make_result(f"{case}memory {name}", numbers[name], "MiB")
            for name in ("before", "after", "peak")
        ]
    return found


def main() -> None:
    """Run the sweeps one after another, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument(
        "--samplers", nargs="+", choices=["random", "tpe"], default=["random", "tpe"]
    )
    parser.add_argument(
        "--profile",
        type=Path,
        help="write the cProfile result of each driver's main thread to this folder",
    )
    parser.add_argument("--folder", type=Path, help=SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(measure_sweep(options)))
        return
    found: list[Any] = []
    for sampler in options.samplers:
        found += rows(
            sampler, {trials: measure(options, sampler, trials) for trials in options.trials}
        )
    print_results(found, options.json)


if __name__ == "__main__":
    main()
