"""Measure the time line of a whole sweep: ours against stock Tune and against plain Optuna.

    python benchmarks/startup.py [--trials 4,60] [--ours ray,local] [--theirs optuna,optuna-all]
        [--repeat 5] [--set KEY=VALUE] [--json]

Every side is a command that is observed from outside: its lines of output, the records in its
store, and the processes below it. Sides alternate; values are medians over `--repeat`.

    ray          `run.py sweep`, the default configuration, with `--trials` (60 is `make sweep`)
    local        the same with `--local`; `--processes N` is passed on
    optuna       plain_sweep.py: one process, a plain loop, successive halving
    optuna-all   the same without early stops
    stock        plain_sweep.py: Tune with a TorchTrainer per trial (minutes; only on request)

The rows of a side of ours are first its stages against each rival, in wall seconds since the
command; then CPU seconds of all processes at each stage; then CPU seconds, the largest number and
the peak PSS of its processes by kind. CPU seconds are read five times a second, so the last part of
a process's life is missing. `--set` applies to ours alone.
"""

import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    ROOT,
    Result,
    compare_results,
    make_parser,
    make_result,
    print_results,
    run,
)

OURS = {"ray": [], "local": ["--local"]}
THEIRS = {"optuna": ["optuna"], "optuna-all": ["optuna", "--no-stop"], "stock": ["stock"]}
TRIAL_END = r"trial \d+ (complete|stopped_early)"
# stage -> beginning of the line that ends it; the first such line counts
LINES = {
    "first line": "",
    "starting Ray": "starting Ray",
    "Ray up": r"starting \d+ worker group|Ray is up",
    "teacher ready": "teacher ",
    "first epoch of a student": "first epoch",
    "first trial ended": TRIAL_END,
}
STAGES = (*LINES, "last trial ended", "a further trial", "prompt", "all processes ended")
# kind of a process -> pattern of its command line; the first that matches counts
KINDS = {
    "raylet": r"raylet/raylet",
    "gcs_server": r"gcs_server",
    "worker of a group": r"RayTrainWorker",
    "controller": r"TrainController",
    "MLflow's writer": r"tracking\._writer_process",
    "proxy": r"ProxyTrainable|ImplicitFunc|bundle_reservation_check",
    "dispatcher": r"Dispatcher",
    "idle": r"ray::IDLE",
    "starting": r"default_worker\.py",
    "agents of Ray": r"dashboard|log_monitor|runtime_env|monitor\.py|ray-",
    "other actors": r"ray::",
}
PSS_EVERY_S = 2.0  # it costs milliseconds for each process
MIB = 2**20


@dataclass
class Processes:
    """Processes of one kind: CPU seconds together, largest number, peak PSS in bytes."""

    cpu: float = 0.0
    count: int = 0
    pss: int = 0


@dataclass
class Observation:
    """One run: wall and CPU seconds at each stage, and the processes by kind."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, Processes] = field(default_factory=dict)
    pss: int = 0  # peak of all processes


def classify(command: str, is_driver: bool) -> str:
    """Return the kind of a process from its command line.

    Args:
        command: The command line.
        is_driver: Whether it is the process that was started.
    """
    if is_driver:
        return "driver"
    for kind, pattern in KINDS.items():
        if re.search(pattern, command):
            return kind
    return "others"


class Observer:
    """Sampler of the processes and of the records of one run."""

    def __init__(self, trials: Path | None) -> None:
        self.trials, self.start = trials, time.perf_counter()
        self.driver: Any = None
        self.first_epoch: float | None = None
        self.cpu: dict[Any, float] = {}  # by process, which psutil identifies by id and start
        self.kind: dict[Any, str] = {}
        self.samples: list[tuple[float, float]] = []  # seconds, CPU seconds of all processes
        self.counts, self.peaks = Counter[str](), Counter[str]()
        self.peak, self.next_pss = 0, 0.0

    def update(self, processes: list[Any]) -> None:
        """Read the processes that run now."""
        import psutil

        now, alive = time.perf_counter() - self.start, Counter[str]()
        if self.driver is None:
            self.driver = processes[0]
        for process in processes:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self.cpu[process] = times.user + times.system
                kind = classify(" ".join(process.cmdline()), process == self.driver)
                if process not in self.kind or kind not in ("idle", "starting", "others"):
                    self.kind[process] = kind  # a process that is idle again keeps its kind
                alive[self.kind[process]] += 1
        self.counts |= alive
        self.samples.append((now, sum(self.cpu.values())))
        if now >= self.next_pss:
            self.next_pss = now + PSS_EVERY_S
            self._read_memory(processes)
        if self.first_epoch is None and self.trials and has_epoch(self.trials):
            self.first_epoch = now

    def _read_memory(self, processes: list[Any]) -> None:
        import psutil

        seen = Counter[str]()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                seen[self.kind.get(process, "others")] += process.memory_full_info().pss
        self.peaks |= seen
        self.peak = max(self.peak, seen.total())

    def cpu_at(self, seconds: float) -> float:
        """Return the CPU seconds of all processes at a time, as of the last sample before it."""
        return max((cpu for time_s, cpu in self.samples if time_s <= seconds), default=0.0)

    def processes(self) -> dict[str, Processes]:
        """Return the processes by kind."""
        cpu = Counter[str]()
        for process, seconds in self.cpu.items():
            cpu[self.kind.get(process, "others")] += seconds  # type: ignore[assignment]
        return {
            kind: Processes(seconds, self.counts[kind], self.peaks[kind])
            for kind, seconds in cpu.items()
        }


def has_epoch(trials: Path) -> bool:
    """Return whether a record in the folder has an epoch."""
    records = trials.glob("*/trial.json")
    return any(re.search(r'"epochs": [1-9]', record.read_text()) for record in records)


def find_stages(lines: list[tuple[float, str]]) -> dict[str, float]:
    """Return the seconds of each stage that the lines of output show."""
    found: dict[str, float] = {}
    ends = []
    for seconds, line in lines:
        for stage, beginning in LINES.items():
            if re.match(beginning, line):
                found.setdefault(stage, seconds)
        if re.match(TRIAL_END, line):
            ends.append(seconds)
    if ends:
        found["last trial ended"] = ends[-1]
    if len(ends) > 1:
        found["a further trial"] = (ends[-1] - ends[0]) / (len(ends) - 1)
    return found


def command(side: str, trials: int, store: Path, options: Namespace) -> list[str]:
    """Return the command line of a side."""
    if side in THEIRS:
        script = str(ROOT / "benchmarks" / "plain_sweep.py")
        return [sys.executable, script, *THEIRS[side], "--trials", str(trials)]
    more = [part for pair in options.set for part in ("--set", pair)]
    if side == "local" and options.processes:
        more += ["--processes", str(options.processes)]
    return [
        *(sys.executable, "run.py", "sweep", "--store", str(store), "--name", "startup"),
        *("--seed", "0", "--trials", str(trials), *OURS[side], *more),
    ]


def observe(side: str, trials: int, options: Namespace) -> Observation:
    """Run a side in a store of its own, and return what was observed."""
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "store"
        observer = Observer(store / "sweeps" / "startup" / "trials" if side in OURS else None)
        ended = run(command(side, trials, store, options), observer.update, every_s=0.2)
    wall = find_stages(ended.lines)
    if observer.first_epoch is not None:
        wall["first epoch of a student"] = observer.first_epoch
    wall |= {"prompt": ended.seconds, "all processes ended": ended.all_seconds}
    cpu = {stage: observer.cpu_at(at) for stage, at in wall.items() if stage != "a further trial"}
    return Observation(wall, cpu, observer.processes(), observer.peak)


def merge(runs: list[Observation]) -> Observation:
    """Return the medians of several runs of a side; a stage or kind of one run alone is kept."""

    def medians(values: list[dict[str, float]]) -> dict[str, float]:
        names = {name for each in values for name in each}
        return {
            name: statistics.median(each[name] for each in values if name in each) for name in names
        }

    kinds = {kind for each in runs for kind in each.kinds}
    return Observation(
        medians([each.wall for each in runs]),
        medians([each.cpu for each in runs]),
        {
            kind: Processes(
                statistics.median(each.kinds[kind].cpu for each in runs if kind in each.kinds),
                max(each.kinds[kind].count for each in runs if kind in each.kinds),
                max(each.kinds[kind].pss for each in runs if kind in each.kinds),
            )
            for kind in kinds
        },
        max(each.pss for each in runs),
    )


def make_rows(case: str, mine: Observation, rivals: dict[str, Observation]) -> Iterator[Result]:
    """Yield the rows of a side of ours: stages, CPU seconds, processes."""
    shown = [stage for stage in STAGES if stage in mine.wall]
    for rival, other in rivals.items():
        for stage in shown:
            if stage in other.wall:
                row = f"{case}: {stage}, {rival}"
                yield compare_results(row, mine.wall[stage], other.wall[stage], "s")
        end = STAGES[-1]
        yield compare_results(f"{case}: CPU, {rival}", mine.cpu[end], other.cpu[end], "s")
        peaks = (mine.pss / MIB, other.pss / MIB)
        yield compare_results(f"{case}: peak PSS, {rival}", *peaks, "MiB")
    compared = {stage for other in rivals.values() for stage in other.wall}
    for stage in shown:
        if stage not in compared:
            yield make_result(f"{case}: {stage}", mine.wall[stage], "s")
    for stage in shown:
        if stage in mine.cpu:
            yield make_result(f"{case}: {stage}, CPU", mine.cpu[stage], "s")
    for kind, processes in sorted(mine.kinds.items()):
        row = f"{case}: {processes.count} {kind}"
        yield make_result(f"{row}, CPU", processes.cpu, "s")
        yield make_result(f"{row}, PSS", processes.pss / MIB, "MiB")


def remove_missing(sides: list[str]) -> list[str]:
    """Return the sides of ours that exist, and name the others."""
    text = subprocess.run(
        [sys.executable, "run.py", "sweep", "--help"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    missing = [side for side in sides if any(option not in text for option in OURS[side])]
    for side in missing:
        print(f"{side} is missing: `run.py sweep` has no {' '.join(OURS[side])}", file=sys.stderr)
    return [side for side in sides if side not in missing]


def measure(trials: int, options: Namespace) -> Iterator[Result]:
    """Yield the rows of all sides of a number of trials."""
    runs: dict[str, list[Observation]] = {side: [] for side in (*options.theirs, *options.ours)}
    for turn in range(options.repeat):
        for side, observations in runs.items():
            print(f"{trials} trials, {side}, {turn + 1} of {options.repeat}", file=sys.stderr)
            observations.append(observe(side, trials, options))
    merged = {side: merge(observations) for side, observations in runs.items()}
    rivals = {side: merged[side] for side in options.theirs}
    for side in options.ours:
        yield from make_rows(f"{trials} trials, {side}", merged[side], rivals)


def read_options() -> Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser.add_argument(
        "--trials", type=lambda text: [int(part) for part in text.split(",")], default=[4, 60]
    )
    parser.add_argument("--ours", type=names, default=["ray"], help=f"of {', '.join(OURS)}")
    parser.add_argument(
        "--theirs", type=names, default=["optuna", "optuna-all"], help=f"of {', '.join(THEIRS)}"
    )
    parser.add_argument("--repeat", type=int, default=1, help="runs of each side")
    parser.add_argument("--processes", type=int, help="of local")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ours")
    options = parser.parse_args()
    for option, known in (("ours", OURS), ("theirs", THEIRS)):
        if unknown := set(getattr(options, option)) - set(known):
            parser.error(f"--{option}: there is no {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    """Run all sides, and print the table."""
    options = read_options()
    options.ours = remove_missing(options.ours)
    results = [row for trials in options.trials for row in measure(trials, options)]
    if results:
        print_results(results, options.json)


if __name__ == "__main__":
    main()
