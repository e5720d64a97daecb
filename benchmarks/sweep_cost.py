"""Measure a whole sweep with cached teacher logits (ours) against an online teacher (theirs).

    python benchmarks/sweep_cost.py --data cifar10.npz [--train 2000] [--json]
    python benchmarks/sweep_cost.py --fashion-mnist FOLDER

The online teacher is evaluated at every step. Each sweep has 8 trials x 6 epochs of KD by `run.py
sweep`, one worker group and the same seed, so the same hyper-parameters. CPU seconds are those of
the whole process tree with Ray's daemons; start-up and evaluation are included. The teacher is
fitted once, before, for both.

`6 views` is one per epoch, as in online distillation; `2 views` are used three times each.
"""

import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    CpuSeconds,
    Result,
    command_line,
    compare_results,
    make_parser,
    make_result,
    print_results,
    run,
)

EPOCHS = 6
OURS = {
    f"{EPOCHS} views": ["teacher.mode=cached"],
    "2 views": ["teacher.mode=cached", "data.views=2"],
}
THEIRS = ["teacher.mode=online"]


def settings(options: Namespace) -> list[str]:
    """Return the common settings of all sweeps."""
    if options.data:
        data = [
            "data.name=npz",
            f"data.path={options.data.resolve()}",
            "data.augmentation=crop_flip",
        ]
    else:
        data = [
            "data.name=FashionMNIST",
            f"data.path={options.fashion_mnist.resolve()}",
            "data.download=true",
        ]
    limits = [
        f"data.limit.train={options.train}",
        *(f"data.limit.{part}={options.held_out}" for part in ("validation", "test")),
    ]
    networks = [
        f"teacher.network.name={options.teacher}",
        "teacher.training.epochs=1",
        f"student.name={options.student}",
    ]
    search = [
        "search.scheduler=none",
        "search.sampler=random",
        f"search.trials={options.trials}",
        "resources.groups=1",
    ]
    return data + limits + networks + search + ["method.name=kd", f"training.epochs={EPOCHS}"]


def cost(base: Path, name: str, pairs: list[str]) -> tuple[float, float]:
    """Return the CPU seconds of a sweep in a copy of the store, and the MiB of its knowledge."""
    store = base.parent / name.replace(" ", "-")
    shutil.copytree(base, store)
    print(f"sweep: {name}", file=sys.stderr)
    counter = CpuSeconds()
    run(command_line("sweep", store, pairs, "--name", "cost", "--seed", "0"), counter.update)
    knowledge = sum(
        file.stat().st_size for file in (store / "knowledge").rglob("*") if file.is_file()
    )
    return counter.total(), knowledge / 2**20


def measure(folder: Path, options: Namespace) -> Iterator[Result]:
    """Fit the teacher, then yield the results of every sweep."""
    base, shared = folder / "store", settings(options)
    print(f"teacher: {options.teacher}", file=sys.stderr)
    run(command_line("teacher", base, shared))
    online_s, online_mib = cost(base, "online", shared + THEIRS)
    for case, pairs in OURS.items():
        cached_s, cached_mib = cost(base, case, shared + pairs)
        yield compare_results(f"{case}: cpu seconds", cached_s, online_s, "s")
        yield make_result(f"{case}: bytes on disk", cached_mib, "MiB", theirs=online_mib)


def main() -> None:
    """Run all sweeps, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, help="an .npz file with MedMNIST's keys, such as CIFAR-10's arrays"
    )
    parser.add_argument(
        "--fashion-mnist", type=Path, metavar="FOLDER", help="root folder of torchvision's download"
    )
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--train", type=int, default=2000, help="number of training images")
    parser.add_argument(
        "--held-out", type=int, default=500, help="number of images each for validation and test"
    )
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    if not options.data and not options.fashion_mnist:
        print(
            "no data: give --data FILE.npz (train_images, train_labels, test_images, "
            "test_labels) or --fashion-mnist FOLDER"
        )
        return
    with tempfile.TemporaryDirectory() as name:
        results = list(measure(Path(name), options))
    print_results(results, options.json)


if __name__ == "__main__":
    main()
