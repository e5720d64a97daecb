"""Measure the cost of sample weighting: an influence actor (ours) against the worker (theirs).

    python benchmarks/influence_actor.py [--student resnet8] [--images 2048] [--epochs 10]
        [--rounds 3] [--json]

KD-AIF computes weights after every epoch from the second on, by the last layer, as `run.py train`
does with Ray. Each side is a process with its own Ray; the sides run one after the other. KD, which
has no sample weights, is a third side. Every round runs each side once. Medians are over the epochs
of all rounds, from the third epoch on.

    epoch    increase of an epoch over KD's: forward passes over training and validation part,
             curvature, solution, and contention of two busy processes
    waiting  share of an epoch in which the trainer only handles the weights: copies a snapshot,
             waits for an answer

The measurement needs two idle cores. For a quick look: --images 256 --epochs 4 --rounds 1.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, Namespace
from pathlib import Path

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    ROOT,
    Result,
    compare_results,
    make_images,
    make_parser,
    make_result,
    print_results,
    run_in_process,
)
from orchestrator.core.allocator import ALLOCATOR

CLASSES = 10
SIDES = {
    "actor": ["method.name=kd_aif", "resources.influence_backend=actor"],
    "inline": ["method.name=kd_aif", "resources.influence_backend=inline"],
    "kd": ["method.name=kd"],
}
WEIGHED = ["method.warmup=0.0", "method.every=1", "method.lag=1"]
FIRST = 3  # first measured epoch: epoch 1 fills the cache, the actor starts during epoch 2
# all sides have the same priority
ENVIRONMENT = {**ALLOCATOR, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


def side(name: str, folder: Path, options: Namespace) -> None:
    """Train in a child process, and write every epoch's seconds, in total and on the weights."""
    settings = [
        f"data.path={folder.parent / 'data.npz'}",
        "data.name=npz",
        "data.augmentation=none",
        f"student.name={options.student}",
    ]
    settings += [
        "teacher.network.name=cnn",
        "teacher.network.width=8",
        "teacher.training.epochs=1",
        "teacher.mode=cached",
    ]
    settings += [
        f"training.epochs={options.epochs}",
        "resources.groups=1",
        *SIDES[name],
        *(WEIGHED if name != "kd" else ()),
    ]
    reports = run_in_process(folder / name, settings, "train")
    measure_side = [
        report.metrics
        for report in reports
        if report.epoch >= FIRST and report.epoch < options.epochs
    ]
    taken = [
        (
            each["seconds/epoch"],
            each.get("seconds/influence", 0.0),
            each.get("influence/seconds", 0.0),
        )
        for each in measure_side
    ]
    Path(options.answer).write_text(json.dumps(taken))


def measure_side(name: str, folder: Path, options: Namespace) -> list[list[float]]:
    """Run a side in a process of its own.

    Returns:
        For each epoch its seconds, the trainer's seconds on the weights, and the seconds of their
            computation.
    """
    answer = folder / f"{name}.json"
    command = [
        sys.executable,
        __file__,
        "--side",
        name,
        "--folder",
        str(folder),
        "--answer",
        str(answer),
    ]
    command += [
        "--student",
        options.student,
        "--images",
        str(options.images),
        "--epochs",
        str(options.epochs),
    ]
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, check=True, stdout=subprocess.DEVNULL
    )
    found: list[list[float]] = json.loads(answer.read_text())
    return found


def longer(one: list[float], plain: list[float]) -> float:
    """Return the increase of an epoch over the plain one, in percent."""
    return 100 * (one[0] - plain[0]) / plain[0]


def main() -> None:
    """Measure the three sides, and print the trainer's loss."""
    parser = make_parser(__doc__)
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    for hidden in ("--side", "--folder", "--answer"):
        parser.add_argument(hidden, help=SUPPRESS)
    options = parser.parse_args()
    if options.epochs <= FIRST:
        parser.error(
            f"--epochs {options.epochs} is not allowed: give {FIRST + 1} or more, the first "
            f"two and the last do not count"
        )
    if options.side:
        side(options.side, Path(options.folder), options)
        return
    print_results(lost(options), options.json)


def lost(options: Namespace) -> list[Result]:
    """Measure the three sides; return the results in percent and in seconds."""
    with tempfile.TemporaryDirectory() as name:
        make_images(Path(name) / "data.npz", options.images, CLASSES, 256)
        epochs: dict[str, list[list[float]]] = {each: [] for each in SIDES}
        for number in range(options.rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            for each, found in epochs.items():
                found += measure_side(each, folder, options)
    actor, inline, plain = (
        [statistics.median(column) for column in zip(*found, strict=True)]
        for found in epochs.values()
    )
    where = f"{options.student}, {options.images} images"
    return [
        compare_results(f"epoch, {where}", actor[0], inline[0], "s"),
        make_result("epoch of KD", plain[0], "s"),
        make_result("epoch longer than KD's", longer(actor, plain), "%", longer(inline, plain)),
        compare_results(
            "waiting", 100 * actor[1] / actor[0], 100 * inline[1] / inline[0], "% of an epoch"
        ),
        make_result("finding the weights once", actor[2], "s", inline[2]),
    ]


if __name__ == "__main__":
    main()
