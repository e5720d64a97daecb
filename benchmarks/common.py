"""What the benchmarks share: how results are printed, data and teachers made on the spot, sweeps watched, processes counted.

Knows nothing of what is measured. Imports torch, Ray and psutil only in the functions that need them.
"""

import argparse
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Result:
    """One line of a table; `ratio` > 1 means that ours is better, None that there is nothing to divide."""

    benchmark: str
    case: str
    ours: float
    theirs: float | None
    ratio: float | None
    unit: str


def compared(case: str, ours: float, theirs: float, unit: str, more_is_better: bool = False) -> Result:
    """A result with the ratio of both sides."""
    above, below = (ours, theirs) if more_is_better else (theirs, ours)
    return Result(Path(sys.argv[0]).stem, case, ours, theirs, above / below if below else None, unit)


def noted(case: str, ours: float, unit: str, theirs: float | None = None) -> Result:
    """A result without a ratio."""
    return Result(Path(sys.argv[0]).stem, case, ours, theirs, None, unit)


def show(results: list[Result], as_json: bool) -> None:
    """Print a table, or JSON with one object a line."""
    if as_json:
        for result in results:
            print(json.dumps({key: _rounded(value) for key, value in asdict(result).items()}))
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


def arguments(documentation: str | None) -> argparse.ArgumentParser:
    """A parser with the script's first sentence and `--json`."""
    parser = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one object a line")
    return parser


def make_images(file: Path, train: int, classes: int, held_out: int) -> None:
    """Random images (n, 32, 32, 3) uint8 in an .npz file with MedMNIST's keys, every class in every part."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in {"train": train, "val": held_out, "test": held_out}.items():
        arrays[f"{part}_images"] = draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count, dtype=np.int64) % classes
    np.savez(file, **arrays)


def make_teacher(folder: Path, name: str, images: np.ndarray[Any, Any], classes: int) -> None:
    """A teacher with random weights, whose BatchNorm statistics are those of `images` (n, H, W, C) uint8."""
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
            module.momentum = None  # the mean of what it sees: fresh statistics let 27 blocks overflow float16
    with torch.no_grad():
        network(planes)
    save_weights(network, folder / WEIGHTS)
    card = {"weights": network_fingerprint(network.state_dict()), "network": {"name": name}}
    write_json(folder / CARD, card | {"classes": classes, "shape": list(shape)})


@dataclass(frozen=True)
class Report:
    """An epoch's report, and when the driver heard of it."""

    at: float
    epoch: int
    metrics: Mapping[str, float]


class Watch:
    """Listens to a run and keeps its reports."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def preparing(self, what: str) -> None:
        """Not noted."""

    def teacher_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Not noted."""

    def teacher_ready(self, words: str) -> None:
        """Not noted."""

    def trial_started(self, trial: Any) -> None:
        """Not noted."""

    def trial_reported(self, trial: Any, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch is through."""
        self.reports.append(Report(time.time(), epoch, dict(metrics)))

    def trial_changed(self, trial: Any) -> None:
        """Not noted."""

    def trial_ended(self, trial: Any) -> None:
        """Not noted."""

    def note(self, text: str) -> None:
        """Not noted."""


def conducted(folder: Path, settings: list[str], kind: str) -> list[Report]:
    """The reports of a whole `sweep` or `train`, run as the command line runs it, with its store in `folder`."""
    from orchestrator.config.loader import load
    from orchestrator.store.records import Sweep
    from orchestrator.store.store import Store
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.preflight.preflight import prepare_run

    store, configuration = Store.open(folder), load(None, settings)
    begun = prepare_run(store, configuration, kind, local=False)
    sweep, watch = Sweep.create(store.sweep("ours"), begun.configuration, kind), Watch()
    run_sweep(sweep, store, begun.data, begun.asked, watch)
    assert sweep.state == "finished" and all(trial.state == "complete" for trial in sweep.trials.values()), sweep.state
    return watch.reports


class Side:
    """A child process that trains an epoch when it is told to: a line `go` on its standard input asks for one.

    It answers with a line of what it `tell`s. Its environment is ours with what is given.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def epoch(self) -> list[float]:
        """Let it train an epoch; the seconds that it tells."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("epoch "):
                return [float(word) for word in line.split()[1:]]
        raise SystemExit(f"a side ended with {self.process.wait()}: {' '.join(map(str, self.process.args))}")  # type: ignore[arg-type]

    def close(self) -> None:
        """Let it end: nobody will tell it any more."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def tell(*seconds: float) -> None:
    """Hand what an epoch took to the parent."""
    print("epoch", *seconds, flush=True)


def command_line(command: str, store: Path, settings: list[str], *more: str) -> list[str]:
    """`run.py COMMAND` on a store of its own, every setting over the defaults and not over a file."""
    empty = store.parent / "empty.yaml"
    empty.touch()
    pairs = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "run.py", command, "--config", str(empty), "--store", str(store), *more, *pairs]


def run(command: list[str], look: Callable[[list[Any]], None] = lambda _: None, every_s: float = 0.1) -> None:
    """Run a command until it and all its descendants have ended; `look` is given them, as psutil's processes, again and again.

    Orphans become children of this process: Ray's daemons would otherwise leave the tree.
    """
    import psutil

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) is refused: processes can be counted on Linux alone")
    with tempfile.TemporaryFile() as printed:
        child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=printed)
        while descendants := psutil.Process().children(recursive=True):
            look(descendants)
            time.sleep(every_s)
            _reap(child)
        printed.seek(0)
        if child.returncode:
            raise SystemExit(f"{printed.read().decode()}{' '.join(command)} ended with {child.returncode}")


def _reap(child: "subprocess.Popen[bytes]") -> None:
    """Collect who has ended; `child` first, which must learn its own exit status."""
    if child.poll() is None:
        return
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class CpuSeconds:
    """CPU seconds of every process that was seen, as of the last look at it.

    RUSAGE_CHILDREN would be exact, and holds nothing of Ray's workers: their parent, the raylet, never waits for them.
    """

    def __init__(self) -> None:
        self.seconds: dict[Any, float] = {}

    def look(self, processes: list[Any]) -> None:
        """Note what each has used so far."""
        import psutil

        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self.seconds[process] = times.user + times.system  # a process is told apart by its id and its start

    def total(self) -> float:
        """Of all that were seen."""
        return sum(self.seconds.values())
