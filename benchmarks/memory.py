"""Measure what the memory of driver and workers consists of, and what a second group adds.

    python benchmarks/memory.py [--cases parts,groups] [--images 60000] [--json]

`parts` runs a small sweep of KD on digits with one group. For the driver and a worker it prints the
peak of the resident memory, its parts by mapping, and by imported package the growth while that
package was imported, in MiB; packages below 2 MiB are one line. The other processes of the sweep
are listed by name with the PSS of all of them together.

`groups` compares mapped data (ours) with a copy per group (theirs): the same sweep of plain
training with one group and with two, on random 32x32 images that every epoch reads completely.
Values are peaks, in MiB, over the processes of the training workers. PSS divides a page among the
processes that map it, so its sum is the memory of the machine; USS is a process's private memory.
Theirs is the measured growth of a process that loads the same array. The last line replaces the
mapped data by this value.
"""

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    ROOT,
    Result,
    command_line,
    compare_results,
    make_images,
    make_parser,
    make_result,
    print_results,
    run,
)
from benchmarks.import_memory import SITE, read_imports

CLASSES = 10
MIB = 2**20
WORKER, MAPPED = "RayTrainWorker", "train_inputs.npy"
SMALLEST_BYTES = 2 * MIB
SMALL_SWEEP = (
    "data.name=digits",
    "data.augmentation=crop",
    "teacher.training.epochs=2",
    "training.epochs=4",
    "method.name=kd",
    "search.trials=2",
    "search.scheduler=none",
    "resources.groups=1",
)
COPY = """
import sys, numpy, psutil
before = psutil.Process().memory_full_info().uss
images = numpy.load(sys.argv[1])["train_images"]
print(psutil.Process().memory_full_info().uss - before)
"""


class Parts:
    """Parts of the memory of a sweep's processes, each process at its peak, in bytes."""

    def __init__(self) -> None:
        self.mappings: dict[str, Counter[str]] = {}  # of the driver and of the largest worker
        self.ids: dict[str, int] = {}
        self.others: dict[Any, tuple[str, int]] = {}

    def update(self, processes: list[Any]) -> None:
        """Update the peaks with the current processes."""
        import psutil

        for process in processes:
            try:
                name, words = _role(process), process.cmdline()
                if name:
                    mappings = _mappings(process)
                    if mappings.total() > self.mappings.get(name, Counter()).total():
                        self.mappings[name], self.ids[name] = mappings, process.pid
                elif words:
                    pss = max(process.memory_full_info().pss, self.others.get(process, ("", 0))[1])
                    self.others[process] = Path(words[0].partition("(")[0]).name, pss
            except psutil.Error:  # ended, or a zombie
                continue


def _role(process: Any) -> str:
    """Return `driver` or `worker`, or an empty text for another process of the sweep."""
    if process.ppid() == os.getpid() and "run.py" in process.cmdline():
        return "driver"
    return "worker" if any(WORKER in part for part in process.cmdline()) else ""


def _mappings(process: Any) -> Counter[str]:
    """Return the resident bytes of a process by the kind of its mappings."""
    kinds: Counter[str] = Counter()
    for place in process.memory_maps():
        if place.path.startswith("["):
            kinds["heaps and stacks"] += place.rss
            continue
        if "/torch/" in place.path or "/nvidia/" in place.path:
            kind = "files of torch and CUDA"
        elif place.path.startswith("/dev/shm"):
            kind = "shared memory"
        else:
            kind = "prepared data" if place.path.endswith(".npy") else "other files"
        kinds[kind] += place.rss
    return kinds


def measure_parts(folder: Path) -> Iterator[Result]:
    """Yield the parts of the driver and of a worker, and the other processes of a small sweep."""
    site, recorded, parts = folder / "site", folder / "recorded", Parts()
    site.mkdir()
    recorded.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(folder=str(recorded)))
    print("sweep: parts", file=sys.stderr)
    command = command_line("sweep", folder / "store-parts", list(SMALL_SWEEP), "--name", "memory")
    with patch.dict(os.environ, PYTHONPATH=f"{site}{os.pathsep}{ROOT}"):
        run(command, parts.update, every_s=0.5)
    for name, mappings in sorted(parts.mappings.items()):
        yield make_result(f"{name}: resident", mappings.total() / MIB, "MiB")
        for kind, size in mappings.most_common():
            yield make_result(f"{name}: {kind}", size / MIB, "MiB")
        imports = read_imports(recorded, parts.ids[name])
        small = imports.total() - sum(v for v in imports.values() if v >= SMALLEST_BYTES)
        for package, size in imports.most_common():
            if size >= SMALLEST_BYTES:
                yield make_result(f"{name}: import of {package}", size / MIB, "MiB")
        yield make_result(f"{name}: other imports", small / MIB, "MiB")
        rest = mappings.total() - imports.total()
        yield make_result(f"{name}: not by imports", rest / MIB, "MiB")
    sums: Counter[str] = Counter()
    for other, size in parts.others.values():
        sums[other] += size
    for other, size in sums.most_common():
        if size >= SMALLEST_BYTES:
            yield make_result(f"PSS of {other}", size / MIB, "MiB")


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


def measure_groups(folder: Path, options: Namespace) -> Iterator[Result]:
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
    """Run the sweeps, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=["parts", "groups"])
    parser.add_argument("--images", type=int, default=60_000, help="3 KiB each")
    parser.add_argument("--epochs", type=int, default=4, help="of each trial; a group trains two")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = list(measure_parts(Path(name))) if "parts" in options.cases else []
        results += measure_groups(Path(name), options) if "groups" in options.cases else []
    print_results(results, options.json)


if __name__ == "__main__":
    main()
