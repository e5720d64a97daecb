"""Measure a step, and an epoch beside its steps, of small networks: ours against plain loops.

    python benchmarks/small.py [--cases digits-mlp,cifar-resnet8] [--device cuda] [--compile]
        [--rounds 7] [--epochs 5] [--json]

Ours is a trial of the real loop: KD (T = 4, alpha = 0.9) from a cached teacher, batch 64, no
augmentation, one thread. The others have the same images, teacher and initial recipe, and gather
each batch from tensors in memory:

    bare loop    PyTorch alone, the teacher's logits computed once
    Fabric       the same under Lightning Fabric (`lightning`)
    timm task    timm's LogitDistillationTask, whose teacher runs at every step

A side whose package is missing is named, and its rows are left out. Every side evaluates, writes a
checkpoint and a report after each epoch. Every side is a process of its own. They alternate, turn
by turn, and a value is the median over the turns after the first.

    step           milliseconds of a step with its batch; on a CPU those of the thread that trains
    beside steps   of everything else in an epoch; on a CPU those of all threads
    epoch, wall    of a whole epoch as it passes, with the waits for the disk

`--compile` adds ours with `training.compile` true and `step` against a compiled bare loop.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import (
    MissingSideError,
    Result,
    Side,
    compare_results,
    make_images,
    make_parser,
    make_teacher,
    print_results,
    report_missing,
    report_seconds,
)
from benchmarks.plain_loops import ALPHA, BATCH, FOR_EVER, LOOPS, TEMPERATURE, Material
from orchestrator.core.allocator import ALLOCATOR
from orchestrator.core.errors import UserError

CLASSES = 10
# case -> data, student, teacher
CASES = {
    "digits-mlp": ("digits", "mlp", "cnn"),
    "digits-cnn": ("digits", "cnn", "cnn"),
    "cifar-mlp": ("cifar", "mlp", "resnet20"),
    "cifar-cnn": ("cifar", "cnn", "resnet20"),
    "cifar-resnet8": ("cifar", "resnet8", "resnet20"),
}
RIVALS = {"bare": "bare loop", "fabric": "Fabric", "timm": "timm task"}
# variant of ours -> its setting, and the rivals that it is compared with
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ours": ("false", tuple(RIVALS)),
    "ours-compile": ("true", ("bare-compile",)),
    "ours-step": ("step", ("bare-compile",)),
}


@dataclass
class Seconds:
    """Seconds of epochs: of the steps and beside them, as CPU seconds and on the clock.

    On a GPU, CPU seconds say little, so there both are seconds on the clock.
    """

    steps: float = 0.0
    beside: float = 0.0
    wall: float = 0.0


class EpochClock:
    """Clock of a side: add up epochs, and report a turn of them to the parent.

    Args:
        device: The device, which is synchronised before the clock is read.
        epochs: Epochs of a turn.
        steps: Steps of an epoch.
    """

    def __init__(self, device: torch.device, epochs: int, steps: int) -> None:
        self.cuda, self.epochs, self.steps = device.type == "cuda", epochs, steps
        self.count, self.total = 0, Seconds()
        self.start = self.first = self._read()

    def _read(self) -> Seconds:
        """Return the time of the thread, of the process, and on the clock."""
        if self.cuda:
            torch.cuda.synchronize()
            now = time.perf_counter()
            return Seconds(now, now, now)
        return Seconds(time.thread_time(), time.process_time(), time.perf_counter())

    def start_epoch(self) -> None:
        """End the last epoch, if there is one, and start the next; wait for the parent at a turn.

        Raises:
            SystemExit: The parent wants no more.
        """
        now = self._read()
        if self.count:
            self.total.wall += now.wall - self.start.wall
            self.total.beside += now.beside - self.start.beside
        if self.count == self.epochs:
            steps_s, epochs = self.total.steps, self.epochs
            report_seconds(
                steps_s / epochs / self.steps,
                (self.total.beside - steps_s) / epochs,
                self.total.wall / epochs,
            )
            self.count, self.total = 0, Seconds()
        if not self.count:
            if not sys.stdin.readline():
                sys.exit()
            resumed = self._read()
            # a writer's thread may have worked during the wait: its CPU seconds belong to the turn
            now = Seconds(resumed.steps, resumed.beside if self.cuda else now.beside, resumed.wall)
        self.count += 1
        self.start = now
        self.first = self._read()

    def end_steps(self) -> None:
        """End the steps of the epoch."""
        self.total.steps += self._read().steps - self.first.steps


def settings(folder: Path, options: Namespace) -> list[str]:
    """Return the settings of ours."""
    data, student, teacher = CASES[options.cases[0]]
    chosen = ["data.name=digits"]
    if data == "cifar":
        chosen = ["data.name=npz", f"data.path={folder / 'data.npz'}"]
    return [
        *chosen,
        "data.augmentation=none",
        f"student.name={student}",
        f"teacher.network.name={teacher}",
        "teacher.mode=cached",
        f"teacher.precision={options.precision}",
        "method.name=kd",
        f"method.temperature={TEMPERATURE}",
        f"method.alpha={ALPHA}",
        f"training.epochs={FOR_EVER}",
        f"training.batch_size={BATCH}",
        f"training.precision={options.precision}",
    ]


def prepare_data(folder: Path, options: Namespace) -> Any:
    """Prepare the data, or find them prepared; return the configuration and their folder."""
    from orchestrator.config.loader import load
    from orchestrator.data.prepare import prepare

    configuration = load(None, settings(folder, options))
    return configuration, prepare(configuration.data, folder, configuration.data.seed)


def ours(folder: Path, options: Namespace) -> None:
    """Train a trial; its phases drive the clock."""
    from orchestrator.config.loader import load
    from orchestrator.config.trial import TrialSpec
    from orchestrator.core.context import TrialContext
    from orchestrator.data.dataset import Dataset
    from orchestrator.training.execute import execute

    _, data = prepare_data(folder, options)
    chosen = [*settings(folder, options), f"training.compile={VARIANTS[options.side][0]}"]
    spec = TrialSpec(
        name="trial",
        configuration=load(None, chosen),
        folder=folder / f"{options.cases[0]}-{options.side}",
        data=data,
        teacher=folder / f"teacher-{options.cases[0]}",
        knowledge=folder / f"knowledge-{options.cases[0]}",
    )
    device = torch.device(options.device)
    clock = EpochClock(device, options.epochs, len(Dataset.open(data).train) // BATCH)

    def phase(text: str) -> None:
        if text.startswith("epoch "):
            clock.start_epoch()
        elif text.startswith("the evaluation of epoch "):
            clock.end_steps()

    execute(spec, TrialContext(device=device, phase=phase))


class Logits(nn.Module):
    """A network of ours that returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K)."""
        logits: Tensor = self.network(images).logits
        return logits


def load_material(folder: Path, options: Namespace) -> Material:
    """Return what a plain loop trains with."""
    from orchestrator.data.dataset import Dataset
    from orchestrator.models.build import build
    from orchestrator.models.weights import load_weights

    _, student, teacher = CASES[options.cases[0]]
    data = Dataset.open(prepare_data(folder, options)[1])
    device = torch.device(options.device)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))

    def normalise(images: Any) -> Tensor:
        planes = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div(255)
        return ((planes - mean) / std).contiguous().to(device)

    torch.manual_seed(0)
    networks = [build(name, CLASSES, data.shape, {}) for name in (student, teacher)]
    load_weights(networks[1], str(folder / f"teacher-{options.cases[0]}" / "weights.safetensors"))
    bare = [Logits(network).to(device) for network in networks]
    images = normalise(data.train.inputs)
    with torch.no_grad():
        taught = torch.cat([bare[1].eval()(part) for part in torch.split(images, BATCH)])
    labels, held_out_labels = (
        torch.from_numpy(np.array(split.labels)).to(device)
        for split in (data.train, data.validation)
    )
    held_out = normalise(data.validation.inputs)
    return Material(images, labels, taught, held_out, held_out_labels, bare[0].train(), bare[1])


def theirs(folder: Path, options: Namespace) -> None:
    """Train by a plain loop: steps, evaluation, checkpoint and report of each epoch."""
    material = load_material(folder, options)
    loop = LOOPS[options.side](material, options)
    clock = EpochClock(loop.device, options.epochs, len(material.labels) // BATCH)
    target = folder / f"{options.cases[0]}-{options.side}"
    target.mkdir()
    temporary = target / "checkpoint.tmp"
    while True:
        clock.start_epoch()
        loss = loop.train_epoch()
        clock.end_steps()
        record = {"loss": loss, "accuracy": loop.evaluate()}
        loop.save(temporary)
        os.replace(temporary, target / "checkpoint.pt")
        with (target / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def run_side(folder: Path, options: Namespace) -> None:
    """Run a side as a child process; report an error as a missing side."""
    torch.set_num_threads(1)
    try:
        (ours if options.side in VARIANTS else theirs)(folder, options)
    except Exception as error:
        if not isinstance(error, (ImportError, UserError)):
            traceback.print_exc()
        report_missing(f"{type(error).__name__}: {error}")
        sys.stdin.read()  # until the parent closes it


def command(side: str, folder: Path, case: str, options: Namespace) -> list[str]:
    """Return the command line that starts a side of a case."""
    return [
        *(sys.executable, __file__, "--side", side, "--folder", str(folder), "--cases", case),
        *("--device", options.device, "--precision", options.precision),
        *("--epochs", str(options.epochs)),
    ]


def run_alternately(folder: Path, case: str, options: Namespace) -> dict[str, list[Seconds]]:
    """Return the turns of each side of a case, without those that cannot run here."""
    names = ["ours", *RIVALS] + (["ours-compile", "ours-step", "bare-compile"] * options.compile)
    sides = {
        name: Side(
            command(name, folder, case, options),
            {"OMP_NUM_THREADS": "1"} | (ALLOCATOR if name in VARIANTS else {}),
        )
        for name in names
    }
    turns: dict[str, list[Seconds]] = {name: [] for name in sides}
    try:
        for round_ in range(options.rounds + 1):
            for name in list(turns):
                try:
                    seconds = Seconds(*sides[name].epoch())
                except MissingSideError as error:
                    print(f"{case}: {name} is missing: {error}", file=sys.stderr)
                    del turns[name]
                    continue
                if round_:
                    turns[name].append(seconds)
    finally:
        for side in sides.values():
            side.close()
    return turns


def measure(folder: Path, case: str, options: Namespace) -> Iterator[Result]:
    """Yield the results of a case."""
    options.cases = [case]
    from orchestrator.data.dataset import Dataset

    data = Dataset.open(prepare_data(folder, options)[1])
    make_teacher(
        folder / f"teacher-{case}", CASES[case][2], np.array(data.train.inputs[:256]), CLASSES
    )
    turns = run_alternately(folder, case, options)
    if "ours" not in turns:
        raise SystemExit(f"{case}: ours cannot run")
    yield from make_rows(case, turns)


def make_rows(case: str, turns: dict[str, list[Seconds]]) -> Iterator[Result]:
    """Yield the medians of each variant of ours against its rivals."""
    titles = {"steps": "step", "beside": "beside steps", "wall": "epoch, wall"}
    names = {"bare-compile": "compiled bare loop"} | RIVALS
    for variant, (compiled, rivals) in VARIANTS.items():
        shown = case if variant == "ours" else f"{case}, compile={compiled}"
        for rival in rivals if variant in turns else ():
            for field in fields(Seconds) if rival in turns else ():
                mine, other = (
                    1000 * statistics.median(getattr(turn, field.name) for turn in turns[side])
                    for side in (variant, rival)
                )
                yield compare_results(
                    f"{shown}: {titles[field.name]}, {names[rival]}", mine, other, "ms"
                )


def read_options() -> Namespace:
    """Parse the command line."""

    def cases(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(CASES):
            raise ValueError(f"there is no {', '.join(sorted(unknown))}")
        return names

    parser = make_parser(__doc__)
    parser.add_argument(
        "--cases", type=cases, default=list(CASES), help=f"of {', '.join(CASES)}; all by default"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="add the compiled variants")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side, plus one")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of a turn")
    parser.add_argument("--side", choices=[*VARIANTS, *LOOPS], help=SUPPRESS)
    parser.add_argument("--folder", type=Path, help=SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all cases, and print the table."""
    options = read_options()
    if options.side:
        run_side(options.folder, options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "data.npz", 20 * BATCH, CLASSES, held_out=4 * BATCH)
        results = []
        for case in list(options.cases):
            rows = list(measure(folder, case, options))
            if options.json:  # at once: a time limit may end the later cases
                print_results(rows, as_json=True)
            results += rows
    if not options.json:
        print_results(results, as_json=False)


if __name__ == "__main__":
    main()
