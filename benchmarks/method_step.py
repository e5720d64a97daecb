"""Measure a training step of AKD or IC-KD (ours) against plain KD (theirs), cached teacher.

    python benchmarks/method_step.py [--classes 10,100] [--variants ratio,cam] [--rounds 7] [--json]
    python benchmarks/method_step.py --variants methods --network resnet8x4 --classes 100

All variants are trials of the real `train()` in one process. They are threads that train one epoch
per turn, so that drift of the machine affects all of them. The setup is one thread of torch,
resnet20, batch 64, random 32x32 images, channels last.

The variants `methods` are all methods with their default settings. The teacher is the student's
network. Methods that use features or feature maps run it at every step, because the views are
augmented; `cached ...` trains on the clean view. Methods with peers train two students. `CRD
alone` is its term with the banks of 50,000 samples, forward and backward, against a step of KD.

A step is CPU seconds from the end of one step to the end of the next, with its batch, its teacher's
logits and its optimizer. Evaluation and checkpoint are excluded. With `--device cuda` it is seconds
with the device synchronised at its ends. Each turn gives the mean over its 20 steps. A round gives
every variant one turn, and KD one turn per two variants. The table has the medians over the rounds
after the first, which fills the cache.

A variant that costs 5 % has the ratio 0.952 and, further down, the cost factor 1.05. The spread of
KD's own turns, and `constant`, which computes the same as KD, show the precision of such a number.
The aims: ratio with CAM costs at most 1.15 times KD at K = 100; IC-KD, whose targets are computed
before the first step, 1.10 times.

`CAM alone`: forward and backward of the module as it is at K = 1000 (ours) against attention of all
classes to all (theirs).
"""

import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.common import (
    Result,
    compare_results,
    make_images,
    make_parser,
    make_result,
    make_teacher,
    print_results,
)
from methods import CRD, METHODS, Batch, Output, Task, cam
from methods.capabilities import UsesFeatureMaps
from orchestrator.config.loader import load
from orchestrator.config.trial import TrialSpec
from orchestrator.core.allocator import allocator
from orchestrator.core.context import TrialContext
from orchestrator.data.prepare import prepare
from orchestrator.training._trainer import train

BATCH = 64
PERIOD = 20  # steps per turn: two updates of bilevel every 10
KD_EVERY = 2  # variants per turn of KD, which every ratio contains
STEPS = PERIOD + 1  # of an epoch: the first one opens its view and starts the clock
FOR_EVER = 10_000  # epochs; a trial is stopped after its last turn
NETWORK = "resnet20"
AIMS = {("cam", 100): 1.15, ("ic_kd", 10): 1.10, ("ic_kd", 100): 1.10}
# Threads with own arenas fault their memory in again: some 500 pages, 7 % of a step.
# All threads therefore use the main arena.
ENVIRONMENT = {**allocator(), "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}

KD = ("kd", "alpha=0.9")
VARIANTS: dict[str, tuple[str, ...]] = {
    "constant": ("akd", "alpha_schedule=constant"),
    "ratio": ("akd", "alpha_gap=ratio"),
    "kl per sample": ("akd", "alpha_gap=kl", "alpha_per_sample=true"),
    "label": ("akd", "alpha_gap=label"),
    "acc": ("akd", "alpha_gap=acc"),
    "raw": ("akd", "alpha_schedule=learnable", "alpha_learnable=raw"),
    "uncertainty": ("akd", "alpha_schedule=learnable", "alpha_learnable=uncertainty"),
    "entropy": ("akd", "alpha_schedule=learnable", "alpha_learnable=entropy"),
    "bayes": ("akd", "alpha_schedule=learnable", "alpha_learnable=bayes"),
    "bilevel every 10": (
        "akd",
        "alpha_schedule=learnable",
        "alpha_learnable=bilevel",
        "alpha_every=10",
    ),
    "bilevel every 1": (
        "akd",
        "alpha_schedule=learnable",
        "alpha_learnable=bilevel",
        "alpha_every=1",
    ),
    "cam": ("akd", "alpha_gap=ratio", "cam=true", "cam_width=32", "cam_heads=4"),
    "cam joint": (
        "akd",
        "alpha_gap=ratio",
        "cam=true",
        "cam_width=32",
        "cam_heads=4",
        "cam_grad=joint",
    ),
    "ic_kd": ("ic_kd", "positives=8", "negatives=32"),
}
PEER = "peers.b.network={{name: {network}}}"
CLEAN = "data.augmentation=none"
# a setting with a dot is a key of the configuration
OF_METHODS: dict[str, tuple[str, ...]] = {
    f"method {name}": (name, *([PEER] if name in ("dml", "dual_student") else []))
    for name in METHODS
    if name != "kd"
} | {
    f"cached {name}": (name, CLEAN)
    for name, kind in METHODS.items()
    if issubclass(kind, UsesFeatureMaps) or kind.needs.features
}
CRD_SAMPLES = 50_000  # of CIFAR-100


class Side(threading.Thread):
    """A trial in a thread that trains one epoch per request.

    Nothing else runs in this process meanwhile.
    """

    def __init__(self, spec: TrialSpec, device: torch.device) -> None:
        super().__init__(name=spec.name, daemon=True)
        self.spec, self.device, self.ends = spec, device, False
        self.go: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[float | BaseException | None] = queue.SimpleQueue()
        self.marks: list[float] = []
        self.seconds: list[float] = []
        self.start()

    def run(self) -> None:
        """Train until a stop is requested; put each epoch's result, or an error, into `results`."""
        self.go.get()
        context = TrialContext(
            device=self.device,
            report=self._report,
            stop_requested=lambda: self.ends,
            heartbeat=self._mark,
            phase=self._enter,
        )
        try:
            train(self.spec, context)
            self.results.put(None)
        except BaseException as error:  # the waiting thread must receive the error
            self.results.put(error)

    def turn(self) -> float:
        """Train the next epoch, and return the seconds of a step."""
        self.go.put(None)
        result = self.results.get()
        if isinstance(result, float):
            return result
        raise SystemExit(f"{self.name} ended: {result!r}")

    def close(self) -> None:
        """Stop the trial at the next request, in its first epoch or before its start."""
        self.ends = True
        self.go.put(None)
        self.join()

    def _mark(self) -> None:
        self.marks.append(now(self.device))

    def _enter(self, phase: str) -> None:
        """Put an epoch's seconds per step into `results` at its end, and wait for a request.

        The evaluation and the checkpoint of an epoch are part of the next turn, before its steps.
        """
        if phase.startswith("epoch"):
            self.marks = []
        elif phase.startswith("the evaluation"):
            self.results.put((self.marks[PERIOD] - self.marks[0]) / PERIOD)
            self.go.get()

    def _report(self, record: Any) -> None:
        """Check a record; the thread that writes the checkpoint calls this."""
        assert record.epoch == 1 or not record.metrics.get("cache/misses"), (
            "a measured epoch must not run the teacher"
        )


def now(device: torch.device) -> float:
    """Return the CPU seconds of this process, or the time after all work of a GPU."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def specification(
    folder: Path, name: str, settings: tuple[str, ...], network: str = NETWORK
) -> TrialSpec:
    """Return the trial of a variant; the first setting is the method's name."""
    pairs = [
        "data.name=npz",
        f"data.path={folder / 'data.npz'}",
        "data.augmentation=crop_flip",
        "data.views=1",
    ]
    pairs += [f"student.name={network}", f"teacher.network.name={network}", "teacher.mode=cached"]
    pairs += [f"training.epochs={FOR_EVER}", f"training.batch_size={BATCH}"]
    pairs += [f"method.name={settings[0]}"]
    pairs += [
        setting.format(network=network) if "." in setting.partition("=")[0] else f"method.{setting}"
        for setting in settings[1:]
    ]
    configuration = load(None, pairs)
    return TrialSpec(
        name=name,
        configuration=configuration,
        folder=folder / name.replace(" ", "-"),
        data=prepare(configuration.data, folder, configuration.data.seed),
        teacher=folder / "teacher",
        knowledge=folder / "knowledge",
    )


def run_alternately(folder: Path, classes: int, options: Namespace) -> dict[str, list[float]]:
    """Return the seconds of a step in every turn of each variant and of KD."""
    folder.mkdir()
    make_images(folder / "data.npz", STEPS * BATCH, classes, held_out=max(classes, BATCH))
    with np.load(folder / "data.npz") as arrays:
        make_teacher(folder / "teacher", options.network, arrays["train_images"][:256], classes)
    known = VARIANTS | OF_METHODS
    wanted = {"kd": KD} | {name: known[name] for name in options.variants}
    sides = {
        name: Side(specification(folder, name, settings, options.network), options.device)
        for name, settings in wanted.items()
    }
    try:
        for round_ in range(options.rounds + 1):
            for number, name in enumerate(options.variants):
                for side in [sides["kd"], sides[name]] if number % KD_EVERY == 0 else [sides[name]]:
                    seconds = side.turn()
                    if round_:
                        side.seconds.append(seconds)
            print(f"K = {classes}: round {round_} of {options.rounds}", file=sys.stderr)
    finally:
        for side in sides.values():
            side.close()
    return {name: side.seconds for name, side in sides.items()}


def measure(folder: Path, classes: int, options: Namespace) -> Iterator[Result]:
    """Yield the variants against KD, then their cost factors."""
    turns = run_alternately(folder / f"{classes}-classes", classes, options)
    seconds = {name: statistics.median(each) for name, each in turns.items()}
    kd_s = seconds.pop("kd")
    for name, variant_s in seconds.items():
        yield compare_results(
            f"K = {classes}, {title(name)}", 1000 * variant_s, 1000 * kd_s, "ms/step"
        )
    for name, variant_s in seconds.items():
        aim = f", the aim is {AIMS[name, classes]} at most" if (name, classes) in AIMS else ""
        yield make_result(
            f"K = {classes}, {title(name)}: cost factor", variant_s / kd_s, f"x KD{aim}"
        )
    if "method crd" in seconds:
        yield compare_results(
            f"K = {classes}, CRD alone, {CRD_SAMPLES} samples, against a step of KD",
            1000 * crd_alone(classes, options),
            1000 * kd_s,
            "ms",
        )
    lower, upper = np.quantile(turns["kd"], [0.25, 0.75])
    yield make_result(
        f"K = {classes}, KD: between the quartiles of its turns",
        100 * float(upper - lower) / kd_s,
        "% of its median",
    )


def title(name: str) -> str:
    """Return a variant's name in the table."""
    return {"cam": "ratio + CAM", "cam joint": "ratio + CAM joint", "ic_kd": "IC-KD"}.get(
        name, name
    )


def crd_alone(classes: int, options: Namespace) -> float:
    """Return the seconds of forward and backward of CRD's term with full banks."""
    torch.manual_seed(0)
    method = CRD(CRD.Settings())
    labels = torch.arange(CRD_SAMPLES) % classes
    width = 256  # of resnet8x4
    sizes: dict[str, Any] = {"student_features": width, "teacher_features": width}
    method.prepare(None, Task(classes, CRD_SAMPLES, 1, labels=labels, **sizes))
    method.to(options.device)
    seconds = []
    for _ in range(options.rounds + 1):
        index = torch.randperm(CRD_SAMPLES)[:BATCH].to(options.device)
        features = torch.randn(2, BATCH, width, device=options.device)
        own, target = (Output(each, each) for each in features.requires_grad_())
        batch = Batch(index, features, index % classes, own, target)
        start = now(options.device)
        torch.autograd.backward(method.feature_term(batch))
        seconds.append(now(options.device) - start)
    return statistics.median(seconds[1:])


def alone(classes: int, rounds: int) -> Result:
    """Measure the module's forward and backward pass, alternately induced and full."""
    torch.manual_seed(0)
    teacher, student = torch.randn(2, BATCH, classes).unbind()
    limit = cam.FULL_ATTENTION
    try:
        cam.FULL_ATTENTION = classes
        full = cam.ContextAware(classes, 32, 4, 4.0)
    finally:
        cam.FULL_ATTENTION = limit
    induced = cam.ContextAware(classes, 32, 4, 4.0)
    assert induced.induced is not None and full.induced is None
    sides: list[tuple[Callable[..., Any], list[float]]] = [(induced, []), (full, [])]
    for _ in range(rounds + 1):
        for module, seconds in sides:
            start = time.process_time()
            module(teacher, student).square().mean().backward()
            seconds.append(1000 * (time.process_time() - start))
    ours, theirs = (statistics.median(seconds[1:]) for _, seconds in sides)
    return compare_results(f"K = {classes}, CAM alone, induced against full", ours, theirs, "ms")


def main() -> None:
    """Run all cases, and print the table."""
    # they take effect only at the start of a process
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ENVIRONMENT})
    parser = make_parser(__doc__)
    parser.add_argument(
        "--classes", type=lambda text: [int(part) for part in text.split(",")], default=[10, 100]
    )
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        default=list(VARIANTS),
        help=f"of {', '.join(VARIANTS | OF_METHODS)}; methods: all methods",
    )
    parser.add_argument("--network", default=NETWORK, help="of student and teacher")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.variants == ["methods"]:
        options.variants = list(OF_METHODS)
    if unknown := set(options.variants) - set(VARIANTS | OF_METHODS):
        parser.error(
            f"--variants: there is no {', '.join(sorted(unknown))}; there are methods, "
            f"{', '.join(VARIANTS | OF_METHODS)}"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        results = [
            result
            for classes in options.classes
            for result in measure(Path(name), classes, options)
        ]
    modules = [alone(1000, options.rounds)] if "cam" in options.variants else []
    print_results([*results, *modules], options.json)


if __name__ == "__main__":
    main()
