"""Measure an epoch of distillation: our `train()` (ours) against a bare PyTorch loop (theirs).

    python benchmarks/step.py [--pair resnet56-resnet20] [--rounds 3] [--device cuda] [--json]

The bare loop has an online teacher. Both sides have the same networks, teacher weights, images,
batch size, precision and KD (T = 4, alpha = 0.9), and one thread. Every side is a process of its
own. The sides alternate epoch by epoch, so that drift of the machine affects all of them.

Values are medians of the epochs after the first, which compiles, warms up and fills the cache. On a
CPU an epoch is CPU seconds, including our small evaluation and our checkpoint. On a GPU it is wall
seconds without both, shown as images per second. Ours has the allocator settings of our workers,
theirs the environment of the caller.

    cached     the teacher is evaluated in the first epoch (data.views=1)
    online     the teacher is evaluated at every step, on both sides
    compiled   cached, with torch.compile; theirs compiles student and teacher
"""

import statistics
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.nn import functional

from benchmarks.common import (
    Result,
    Side,
    compare_results,
    make_images,
    make_parser,
    make_teacher,
    print_results,
    report_seconds,
)
from orchestrator.core.allocator import ALLOCATOR

CLASSES = 100
FOR_EVER = 10_000  # epochs; the parent ends its children
CASES = {
    "cached": ["teacher.mode=cached", "data.views=1"],
    "online": ["teacher.mode=online"],
    "compiled": ["teacher.mode=cached", "data.views=1", "training.compile=true"],
}
DEFAULTS = {
    "cpu": {
        "pair": ["resnet56-resnet20", "resnet32x4-resnet8x4"],
        "images": 2000,
        "batch_size": 64,
        "loader_workers": 0,
    },
    "cuda": {
        "pair": ["resnet32x4-resnet8x4", "resnet50-resnet18"],
        "images": 20_000,
        "batch_size": 128,
        "loader_workers": 8,
    },
}


def theirs(folder: Path, pair: str, case: str, options: Namespace) -> None:
    """Train by the usual loop, after RepDistiller's."""
    device = torch.device(options.device)
    teacher, student = bare_networks(folder, pair, device)
    if case == "compiled":
        teacher, student = torch.compile(teacher), torch.compile(student)
    loader = bare_loader(folder / "data.npz", options)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    while sys.stdin.readline():
        start = now(options.device)
        bare_epoch(teacher, student, loader, optimizer, device, options.precision)
        report_seconds(now(options.device) - start)


def bare_networks(folder: Path, pair: str, device: torch.device) -> tuple[Any, Any]:
    """Return the same teacher and student as ours."""
    from orchestrator.models.build import build
    from orchestrator.models.weights import load_weights

    teacher, student = (build(name, CLASSES, (3, 32, 32), {}) for name in pair.split("-"))
    load_weights(teacher, str(folder / f"teacher-{pair}" / "weights.safetensors"))
    return teacher.to(device).eval(), student.to(device).train()


def bare_loader(file: Path, options: Namespace) -> Any:
    """Return a loader of images with torchvision's transforms.

    The last incomplete batch is dropped, as in ours.
    """
    from PIL import Image
    from torchvision import transforms

    with np.load(file) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"]
    pixels = images.reshape(-1, 3) / 255
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(pixels.mean(0), pixels.std(0)),
        ]
    )

    class Pictures(torch.utils.data.Dataset[Any]):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(Image.fromarray(images[index])), int(labels[index])

        def __len__(self) -> int:
            return len(labels)

    workers = options.loader_workers
    return torch.utils.data.DataLoader(
        Pictures(),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=options.device == "cuda",
        persistent_workers=workers > 0,
    )


def bare_epoch(
    teacher: Any,
    student: Any,
    loader: Any,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    precision: str,
) -> float:
    """Train one epoch, and return the mean loss."""
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            with torch.no_grad():
                taught = teacher(images).logits
            logits = student(images).logits
        soft = functional.kl_div(
            functional.log_softmax(logits.float() / 4, dim=1),
            functional.softmax(taught.float() / 4, dim=1),
            reduction="batchmean",
        )
        loss = 0.1 * functional.cross_entropy(logits.float(), labels) + 0.9 * 4**2 * soft
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item()
    return total / len(loader)


def ours(folder: Path, pair: str, case: str, options: Namespace) -> None:
    """Train a trial whose report callback waits for the next turn."""
    from orchestrator.core.context import TrialContext
    from orchestrator.training._trainer import train

    start = 0.0

    def report(record: Any) -> None:
        nonlocal start
        metrics = record.metrics
        if options.device == "cuda":
            report_seconds(metrics["seconds/epoch"] - metrics["seconds/evaluation"])
        else:
            report_seconds(now(options.device) - start)
        assert record.epoch == 1 or not metrics.get("cache/misses"), (
            "a measured epoch must not run the teacher"
        )
        if not sys.stdin.readline():
            sys.exit()
        start = now(options.device)

    sys.stdin.readline()
    train(
        specification(folder, pair, case, options),
        TrialContext(device=torch.device(options.device), report=report),
    )


def specification(folder: Path, pair: str, case: str, options: Namespace) -> Any:
    """Return the trial of a case."""
    from orchestrator.config.loader import load
    from orchestrator.config.trial import TrialSpec
    from orchestrator.data.prepare import prepare

    teacher, student = pair.split("-")
    settings = [
        "data.name=npz",
        f"data.path={folder / 'data.npz'}",
        "data.augmentation=crop_flip",
        "method.name=kd",
    ]
    settings += [
        f"student.name={student}",
        f"teacher.network.name={teacher}",
        f"teacher.precision={options.precision}",
    ]
    settings += [f"training.epochs={FOR_EVER}", f"training.batch_size={options.batch_size}"]
    settings += [f"training.precision={options.precision}"]
    configuration = load(None, settings + CASES[case])
    return TrialSpec(
        name="trial",
        configuration=configuration,
        folder=folder / f"{pair}-{case}",
        data=prepare(configuration.data, folder, configuration.data.seed),
        teacher=folder / f"teacher-{pair}",
        knowledge=folder / f"knowledge-{case}",
    )


def now(device: str) -> float:
    """Return CPU seconds of this process, or wall seconds after the GPU has finished."""
    if device != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def command(side: str, folder: Path, pair: str, case: str, options: Namespace) -> list[str]:
    """Return the command line that starts a side of a case."""
    started = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--folder",
        str(folder),
        "--pair",
        pair,
        "--cases",
        case,
    ]
    for name in ("device", "images", "batch_size", "precision", "loader_workers"):
        started += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return started


def measure(folder: Path, pair: str, options: Namespace) -> Iterator[Result]:
    """Yield the results of all cases of a pair, measured alternately."""
    with np.load(folder / "data.npz") as arrays:
        make_teacher(
            folder / f"teacher-{pair}", pair.split("-")[0], arrays["train_images"][:256], CLASSES
        )
    wanted = [("ours", case) for case in options.cases] + [("theirs", "online")]
    wanted += [("theirs", "compiled")] if "compiled" in options.cases else []
    sides = {
        (side, case): Side(
            command(side, folder, pair, case, options),
            {"OMP_NUM_THREADS": "1"} | (ALLOCATOR if side == "ours" else {}),
        )
        for side, case in wanted
    }
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in sides}
    try:
        for turn in range(options.rounds + 1):
            for key, side in sides.items():
                (epoch_s,) = side.epoch()
                if turn:
                    seconds[key].append(epoch_s)
    finally:
        for side in sides.values():
            side.close()
    for case in options.cases:
        rival = seconds["theirs", "compiled" if case == "compiled" else "online"]
        yield result(f"{pair} {case}", seconds["ours", case], rival, options)


def result(case: str, ours: list[float], theirs: list[float], options: Namespace) -> Result:
    """Return the medians as seconds on a CPU, as images per second on a GPU."""
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    if options.device == "cpu":
        return compare_results(case, ours_s, theirs_s, "s/epoch")
    images = options.images // options.batch_size * options.batch_size
    return compare_results(
        case, images / ours_s, images / theirs_s, "images/s", more_is_better=True
    )


def read_options() -> Namespace:
    """Parse the command line; missing values get the defaults of the device."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pair", action="append", metavar="TEACHER-STUDENT", help="repeatable")
    parser.add_argument(
        "--cases",
        type=lambda text: text.split(","),
        help=f"of {', '.join(CASES)}; compiled only on request or on cuda",
    )
    parser.add_argument("--images", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        help="of both sides; default: bfloat16 on cuda",
    )
    parser.add_argument("--loader-workers", type=int, help="theirs; default: 0, on cuda 8")
    parser.add_argument("--side", choices=["ours", "theirs"], help=SUPPRESS)
    parser.add_argument("--folder", type=Path, help=SUPPRESS)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    usual = {
        "cases": ["cached", "online"] + ["compiled"] * cuda,
        "precision": "bfloat16" if cuda else "float32",
    }
    for name, value in {**DEFAULTS[options.device], **usual}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Run all pairs, and print the table."""
    options = read_options()
    torch.set_num_threads(1)
    if options.side:
        globals()[options.side](options.folder, options.pair[0], options.cases[0], options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "data.npz", options.images, CLASSES, held_out=CLASSES)
        results = [result for pair in options.pair for result in measure(folder, pair, options)]
    print_results(results, options.json)


if __name__ == "__main__":
    main()
