"""Share helpers of the benchmarks: results, generated data and teachers, observed processes.

torch, Ray and psutil are imported only in the functions that need them.
"""

import argparse
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Result:
    """One line of a table; a `ratio` above 1 means that ours is better, None that there is none."""

    benchmark: str
    case: str
    ours: float
    theirs: float | None
    ratio: float | None
    unit: str


def compare_results(
    case: str, ours: float, theirs: float, unit: str, more_is_better: bool = False
) -> Result:
    """Return a result with the ratio of both sides.

    Args:
        case: Name of the line.
        ours: Value of ours, in `unit`.
        theirs: Value of theirs, in `unit`.
        unit: Unit of both values.
        more_is_better: Whether larger values are better.
    """
    above, below = (ours, theirs) if more_is_better else (theirs, ours)
    return Result(
        Path(sys.argv[0]).stem, case, ours, theirs, above / below if below else None, unit
    )


def make_result(case: str, ours: float, unit: str, theirs: float | None = None) -> Result:
    """Return a result without a ratio."""
    return Result(Path(sys.argv[0]).stem, case, ours, theirs, None, unit)


def print_results(results: list[Result], as_json: bool) -> None:
    """Print a table, or JSON with one object a line."""
    if as_json:
        for result in results:
            row = {key: _rounded(value) for key, value in asdict(result).items()}
            print(json.dumps(row), flush=True)
        return
    width = max(len(result.case) for result in results) + 2
    print(f"{'case':{width}}{'ours':>12}{'theirs':>12}{'ratio':>8}  unit")
    for result in results:
        numbers = f"{_text(result.ours):>12}{_text(result.theirs):>12}{_text(result.ratio):>8}"
        print(f"{result.case:{width}}{numbers}  {result.unit}")


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def make_parser(documentation: str | None) -> argparse.ArgumentParser:
    """Return a parser with the script's first line as description, and `--json`."""
    parser = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    return parser


def make_size_parser(documentation: str | None, cases: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser with the options of a benchmark over numbers of samples and classes."""

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser, names = make_parser(documentation), list(cases)
    parser.add_argument(
        "--cases", type=lambda text: text.split(","), default=names, help=f"of {', '.join(names)}"
    )
    parser.add_argument("--samples", type=numbers, default=[5000, 50_000])
    parser.add_argument("--classes", type=numbers, default=[10, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--theirs-limit-gib", type=float, default=4.0)
    return parser


def make_images(file: Path, train: int, classes: int, held_out: int) -> None:
    """Write random images (n, 32, 32, 3) uint8 to an .npz file with MedMNIST's keys.

    Every class occurs in every part.

    Args:
        file: The file to write.
        train: Number of training images.
        classes: Number of classes.
        held_out: Number of images of the validation and of the test part.
    """
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in {"train": train, "val": held_out, "test": held_out}.items():
        arrays[f"{part}_images"] = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count, dtype=np.int64) % classes
    np.savez(file, **arrays)


def make_teacher(folder: Path, name: str, images: np.ndarray[Any, Any], classes: int) -> None:
    """Write a teacher with random weights and the BatchNorm statistics of `images`.

    Args:
        folder: Folder of the teacher.
        name: Name of the network.
        images: Images (n, H, W, C) uint8.
        classes: Number of classes.
    """
    import torch

    from orchestrator.models.build import build
    from orchestrator.models.weights import network_fingerprint, save_weights
    from orchestrator.store.store import write_json
    from orchestrator.teacher.card import CARD
    from orchestrator.teacher.frozen import WEIGHTS

    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    shape = (planes.shape[1], planes.shape[2], planes.shape[3])
    torch.manual_seed(0)
    network = build(name, classes, shape, {})
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # cumulative mean: with fresh statistics 27 blocks overflow float16
            module.momentum = None
    with torch.no_grad():
        network(planes)
    save_weights(network, folder / WEIGHTS)
    card = {"weights": network_fingerprint(network.state_dict()), "network": {"name": name}}
    write_json(folder / CARD, card | {"classes": classes, "shape": list(shape)})


@dataclass(frozen=True)
class Report:
    """An epoch's report, and the time at which the driver received it."""

    at: float
    epoch: int
    metrics: Mapping[str, float]


class ReportRecorder:
    """Callback of a run that stores its reports."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def preparing(self, what: str) -> None:
        """Ignore the event."""

    def teacher_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Ignore the event."""

    def teacher_ready(self, words: str) -> None:
        """Ignore the event."""

    def trial_started(self, trial: Any) -> None:
        """Ignore the event."""

    def trial_reported(self, trial: Any, epoch: int, metrics: dict[str, float]) -> None:
        """Store the report of an epoch."""
        self.reports.append(Report(time.time(), epoch, dict(metrics)))

    def trial_changed(self, trial: Any) -> None:
        """Ignore the event."""

    def trial_ended(self, trial: Any) -> None:
        """Ignore the event."""

    def note(self, text: str) -> None:
        """Ignore the event."""


def run_in_process(folder: Path, settings: list[str], kind: str) -> list[Report]:
    """Run a whole `sweep` or `train` as the command line does, and return its reports.

    Args:
        folder: Folder of the store.
        settings: `KEY=VALUE` settings over the defaults.
        kind: "sweep" or "train".
    """
    from orchestrator.config.loader import load
    from orchestrator.store.records import Sweep
    from orchestrator.store.store import Store
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.preflight.preflight import prepare_run

    store, configuration = Store.open(folder), load(None, settings)
    prepared = prepare_run(store, configuration, kind, local_processes=0)
    sweep, recorder = (
        Sweep.create(store.sweep("ours"), prepared.configuration, kind),
        ReportRecorder(),
    )
    run_sweep(sweep, store, prepared.data, prepared.teacher_access, recorder)
    assert sweep.state == "finished" and all(
        trial.state == "complete" for trial in sweep.trials.values()
    ), sweep.state
    return recorder.reports


class MissingSideError(Exception):
    """Signal that a side cannot run here; the message is its reason."""


class Side:
    """A child process that trains one epoch, or several, per line `go` on its standard input.

    The child answers each request through `report_seconds`, or through `report_missing`. Its
    environment is that of the parent with the given changes.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def epoch(self, request: str = "go") -> list[float]:
        """Request an epoch, and return the seconds that the child reports.

        Args:
            request: The line that the child reads.

        Raises:
            MissingSideError: The child cannot run here.
            SystemExit: The child has ended.
        """
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("epoch "):
                return [float(word) for word in line.split()[1:]]
            if line.startswith("missing "):
                raise MissingSideError(line.removeprefix("missing ").strip())
        raise SystemExit(
            f"a side ended with {self.process.wait()}: {' '.join(map(str, self.process.args))}"  # type: ignore[arg-type]
        )

    def close(self) -> None:
        """Close the child's standard input, and wait for its end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def report_seconds(*seconds: float) -> None:
    """Report the seconds of an epoch to the parent."""
    print("epoch", *seconds, flush=True)


def report_missing(reason: str) -> None:
    """Report to the parent that this side cannot run here."""
    print("missing", " ".join(reason.split()), flush=True)


def command_line(command: str, store: Path, settings: list[str], *more: str) -> list[str]:
    """Return a `run.py COMMAND` line on its own store.

    The settings apply over the defaults, because the configuration file is empty.
    """
    empty = store.parent / "empty.yaml"
    empty.touch()
    pairs = [part for setting in settings for part in ("--set", setting)]
    return [
        sys.executable,
        "run.py",
        command,
        "--config",
        str(empty),
        "--store",
        str(store),
        *more,
        *pairs,
    ]


@dataclass
class Run:
    """A command that has ended: its lines of output, each with its seconds since the start.

    `seconds` are those until the command itself ended, `all_seconds` until all its descendants had.
    """

    lines: list[tuple[float, str]]
    seconds: float = 0.0
    all_seconds: float = 0.0


def run(
    command: list[str], update: Callable[[list[Any]], None] = lambda _: None, every_s: float = 0.1
) -> Run:
    """Run a command until it and all its descendants have ended.

    Orphans become children of this process; Ray's daemons would otherwise leave the process tree.

    Args:
        command: The command line.
        update: Function that is called repeatedly with the descendants, as psutil's processes.
        every_s: Seconds between two calls of `update`.

    Raises:
        OSError: The system refuses PR_SET_CHILD_SUBREAPER.
        SystemExit: The command fails.
    """
    import psutil

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(
            ctypes.get_errno(),
            "prctl(PR_SET_CHILD_SUBREAPER) failed: processes can be counted only on Linux",
        )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    start, ended = time.perf_counter(), Run([])
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert child.stdout is not None

    def read(printed: Iterable[bytes]) -> None:
        for line in printed:
            ended.lines.append((time.perf_counter() - start, line.decode().rstrip()))

    reader = threading.Thread(target=read, args=(child.stdout,), daemon=True)
    reader.start()
    while descendants := psutil.Process().children(recursive=True):
        update(descendants)
        time.sleep(every_s)
        _reap(child)
        if child.returncode is not None and not ended.seconds:
            ended.seconds = time.perf_counter() - start
    ended.all_seconds = time.perf_counter() - start
    reader.join()
    if child.returncode:
        printed = "\n".join(line for _, line in ended.lines)
        raise SystemExit(f"{printed}\n{' '.join(command)} ended with {child.returncode}")
    return ended


def _reap(child: "subprocess.Popen[bytes]") -> None:
    """Reap ended processes, `child` first, so that its Popen object gets the exit status."""
    if child.poll() is None:
        return
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class CpuSeconds:
    """CPU seconds of all observed processes, as of the last observation.

    RUSAGE_CHILDREN would be exact, but it excludes Ray's workers: their parent, the raylet, never
    waits for them.
    """

    def __init__(self) -> None:
        self.seconds: dict[Any, float] = {}

    def update(self, processes: list[Any]) -> None:
        """Record the CPU seconds of each process."""
        import psutil

        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                # a process is identified by its id and its start
                self.seconds[process] = times.user + times.system

    def total(self) -> float:
        """Return the sum over all observed processes."""
        return sum(self.seconds.values())
