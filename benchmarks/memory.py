"""Measure a second worker group's memory: mapped data (ours) against a copy per group (theirs).

    python benchmarks/memory.py [--images 60000] [--json]

The benchmark runs the same sweep of plain training with one group and with two, on random 32x32
images that every epoch reads completely. Values are peaks, in MiB, over the processes of the
training workers. PSS divides a page among the processes that map it, so its sum is the memory of
the machine; USS is a process's private memory.

Theirs is the measured growth of a process that loads the same array. The last line replaces the
mapped data by this value.
"""

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    Result,
    command_line,
    compare_results,
    make_images,
    make_parser,
    make_result,
    print_results,
    run,
)

CLASSES = 10
MIB = 2**20
WORKER, MAPPED = "RayTrainWorker", "train_inputs.npy"
COPY = """
import sys, numpy, psutil
before = psutil.Process().memory_full_info().uss
images = numpy.load(sys.argv[1])["train_images"]
print(psutil.Process().memory_full_info().uss - before)
"""


class Peaks:
    """Largest observed memory of all training workers together, in bytes."""

    def __init__(self) -> None:
        self.pss = self.private = self.data_pss = self.data_mapped = 0

    def update(self, processes: list[Any]) -> None:
        """Update the peaks with the sums over the current workers."""
        import psutil

        workers = []
        for process in processes:
            try:
                if any(WORKER in part for part in process.cmdline()):
                    maps = [place for place in process.memory_maps() if place.path.endswith(MAPPED)]
                    workers.append(
                        (
                            process.memory_full_info(),
                            sum(m.pss for m in maps),
                            sum(m.rss for m in maps),
                        )
                    )
            except psutil.Error:  # ended, or a zombie
                continue
        self.pss = max(self.pss, sum(memory.pss for memory, _, _ in workers))
        self.private = max([self.private, *(memory.uss for memory, _, _ in workers)])
        self.data_pss = max(self.data_pss, sum(pss for _, pss, _ in workers))
        self.data_mapped = max([self.data_mapped, *(rss for _, _, rss in workers)])


def peaks(folder: Path, file: Path, groups: int, options: Namespace) -> Peaks:
    """Return the peaks of a sweep with the given number of groups."""
    found, store = Peaks(), folder / f"store-{groups}"
    settings = [
        "data.name=npz",
        f"data.path={file}",
        "teacher=null",
        "method.name=cross_entropy",
        "student.name=mlp",
    ]
    settings += [
        "search.scheduler=none",
        f"search.trials={2 * groups}",
        f"training.epochs={options.epochs}",
    ]
    settings += ["training.batch_size=500", f"resources.groups={groups}"]
    print(f"sweep: groups={groups}", file=sys.stderr)
    run(command_line("sweep", store, settings, "--name", "memory"), found.update, every_s=0.5)
    assert found.pss, f"no process with {WORKER} in its name was seen"
    return found


def copy_bytes(file: Path) -> int:
    """Return the growth in bytes of a separate process that loads the training images."""
    return int(
        subprocess.run(
            [sys.executable, "-c", COPY, str(file)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    )


def measure(folder: Path, options: Namespace) -> Iterator[Result]:
    """Yield the results of one group, two groups and the copy."""
    file = folder / "data.npz"
    make_images(file, options.images, CLASSES, held_out=options.images // 10)
    copy = copy_bytes(file) / MIB
    one, two = (peaks(folder, file, groups, options) for groups in (1, 2))
    for groups, seen in ((1, one), (2, two)):
        yield make_result(f"groups={groups}: peak PSS of the workers", seen.pss / MIB, "MiB")
        yield make_result(f"groups={groups}: peak USS of a worker", seen.private / MIB, "MiB")
        yield make_result(
            f"groups={groups}: data mapped by a worker", seen.data_mapped / MIB, "MiB"
        )
        yield make_result(
            f"groups={groups}: data held by the machine",
            seen.data_pss / MIB,
            "MiB",
            theirs=groups * copy,
        )
    added, data = (two.pss - one.pss) / MIB, (two.data_pss - one.data_pss) / MIB
    yield compare_results("second group adds: data", data, copy, "MiB")
    yield compare_results("second group adds: all", added, added - data + copy, "MiB")


def main() -> None:
    """Run both sweeps, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=60_000, help="3 KiB each")
    parser.add_argument("--epochs", type=int, default=4, help="of each trial; a group trains two")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = list(measure(Path(name), options))
    print_results(results, options.json)


if __name__ == "__main__":
    main()
