"""Measure a pair of students in two processes (ours) against one student after the other (theirs).

    python benchmarks/pair.py [--students resnet20,resnet20] [--images 1024] [--rounds 7] [--json]

    epoch     dual students in two processes of one thread that exchange logits (gloo), against KD
              of each student alone. These alternate with the pair epoch by epoch, and are summed.
              Seconds of data, teacher's logits from the cache, steps and exchange, as `train()`
              reports them, without evaluation. Medians of the epochs after the first, which fills
              the cache.
    exchange  share of an epoch that the pair's first process waits for the other one, which may be
              the slower student; and the share of the exchange alone: the median of two processes
              in lock step that do nothing else.
    swap      that exchange against the same through Ray's object store (theirs): each of two actors
              puts its logits, sends the reference to the other one by a call, and gets the logits
              that it receives.

The measurement needs two idle cores. For a quick look: --students resnet8,resnet8 --images 256
--rounds 1 --swaps 50.
"""

import contextlib
import queue
import statistics
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.common import (
    Result,
    Side,
    compare_results,
    make_images,
    make_parser,
    make_result,
    make_teacher,
    print_results,
    report_seconds,
)
from orchestrator.core.allocator import ALLOCATOR

if TYPE_CHECKING:
    from orchestrator.core.context import TrialContext

CLASSES = 100
TEACHER = "resnet8"  # evaluated only in the first epoch
PARTS = ("data", "teacher", "student", "exchange")  # of an epoch
WARM_UP = 20  # swaps
# all sides have the same priority
ENVIRONMENT = {**ALLOCATOR, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


def pair(folder: Path, options: Namespace) -> None:
    """Train this rank's student of a pair of dual students."""
    from orchestrator.cluster._pair import Pair
    from orchestrator.core.context import TrialContext

    first, second = options.students
    settings = [f"student.name={first}", f"peers.b.network.name={second}", "resources.workers=2"]
    with group(folder, options.rank):
        context = TrialContext(options.rank, 2, report=report, pair=Pair)
        train(
            folder,
            "pair",
            [*settings, "method.name=dual_student", "method.peer_warmup=0"],
            options,
            context,
        )


def alone(folder: Path, options: Namespace) -> None:
    """Train this rank's student by KD."""
    from orchestrator.core.context import TrialContext

    settings = [f"student.name={options.students[options.rank]}", "method.name=kd"]
    train(folder, f"alone-{options.rank}", settings, options, TrialContext(report=report))


def train(
    folder: Path, name: str, settings: list[str], options: Namespace, context: "TrialContext"
) -> None:
    """Train a trial with as many epochs as there are turns."""
    from orchestrator.config.loader import load
    from orchestrator.config.trial import TrialSpec
    from orchestrator.data.prepare import prepare
    from orchestrator.training import _trainer as trainer

    common = [
        "data.name=npz",
        f"data.path={folder / 'data.npz'}",
        "data.augmentation=crop_flip",
        "data.views=1",
    ]
    common += [f"teacher.network.name={TEACHER}", "teacher.mode=cached"]
    common += [f"training.epochs={1 + options.rounds}", f"training.batch_size={options.batch_size}"]
    configuration = load(None, common + settings)
    specification = TrialSpec(
        name=name,
        configuration=configuration,
        folder=folder / name,
        data=prepare(configuration.data, folder, configuration.data.seed),
        teacher=folder / "teacher",
        knowledge=folder / f"knowledge-{name}",
    )
    if context.is_main_process:
        sys.stdin.readline()
    trainer.train(specification, context)


def report(record: Any) -> None:
    """Report the seconds of an epoch, and wait for the next turn."""
    metrics = record.metrics
    assert record.epoch == 1 or not metrics.get("cache/misses"), (
        "a measured epoch must not run the teacher"
    )
    report_seconds(*(metrics.get(f"seconds/{part}", 0.0) for part in PARTS))
    if not (record.done or sys.stdin.readline()):
        sys.exit()


@contextlib.contextmanager
def group(folder: Path, rank: int) -> Iterator[None]:
    """Join both processes of a side by gloo."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    yield
    dist.barrier()  # a rank that leaves during gloo's communication may abort
    dist.destroy_process_group()


def swap(folder: Path, options: Namespace) -> None:
    """Measure only the exchange of a step."""
    import torch

    from orchestrator.cluster._pair import Pair
    from orchestrator.core.context import TrialContext

    torch.set_num_threads(1)
    with group(folder, options.rank):
        pair, logits = (
            Pair(TrialContext(options.rank, 2), 2),
            torch.randn(options.batch_size, CLASSES),
        )

        def once() -> None:
            pair.publish(options.rank, logits, in_turn=False)
            assert pair.receive(options.rank)().shape == (1, *logits.shape)
            pair.end_step()

        report_seconds(measure_duration(once, options.swaps))


def objects(folder: Path, options: Namespace) -> None:
    """Measure the same exchange through Ray's object store."""
    import ray

    class Student:
        """An actor that queues the references that it receives."""

        def __init__(self) -> None:
            self.handed: queue.Queue[list[Any]] = queue.Queue()

        def hand(self, reference: list[Any]) -> None:
            self.handed.put(reference)

        def swap(self, other: Any, times: int) -> float:
            logits = np.random.default_rng(0).standard_normal(
                (options.batch_size, CLASSES), dtype=np.float32
            )

            def once() -> None:
                other.hand.remote([ray.put(logits)])  # inside a list it stays a reference
                assert ray.get(self.handed.get()[0]).shape == logits.shape

            return measure_duration(once, times)

    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    actor: Any = ray.remote(num_cpus=1, max_concurrency=2)(Student)
    first, second = actor.remote(), actor.remote()
    report_seconds(
        *ray.get(
            [first.swap.remote(second, options.swaps), second.swap.remote(first, options.swaps)]
        )
    )
    ray.shutdown()


def measure_duration(action: Callable[[], None], times: int) -> float:
    """Return the median seconds of an action after a warm-up."""
    seconds = []
    for _ in range(WARM_UP + times):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def started(side: str, folder: Path, options: Namespace, rank: int = 0) -> Side:
    """Start a process of a side."""
    command = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--folder",
        str(folder),
        "--rank",
        str(rank),
    ]
    command += ["--students", ",".join(options.students)]
    for name in ("images", "batch_size", "rounds", "swaps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return Side(command, ENVIRONMENT)


def run_alternately(folder: Path, options: Namespace) -> tuple[list[list[float]], list[float]]:
    """Return the seconds of every turn: the pair's by part, and the sum of the single students."""
    make_images(folder / "data.npz", options.images, CLASSES, held_out=CLASSES)
    with np.load(folder / "data.npz") as arrays:
        make_teacher(folder / "teacher", TEACHER, arrays["train_images"][:256], CLASSES)
    ours = [started("pair", folder, options, rank) for rank in (0, 1)]
    theirs = [started("alone", folder, options, rank) for rank in (0, 1)]
    together, apart = [], []
    try:
        for turn in range(1 + options.rounds):
            parts, seconds = ours[0].epoch(), sum(sum(side.epoch()) for side in theirs)
            if turn:
                together.append(parts)
                apart.append(seconds)
                print(
                    f"turn {turn} of {options.rounds}: {sum(parts):.2f} s, {seconds:.2f} s",
                    file=sys.stderr,
                )
    finally:
        for side in ours + theirs:
            side.close()
    return together, apart


def measure_swaps(folder: Path, options: Namespace) -> tuple[float, float]:
    """Return the seconds of an exchange, ours and theirs."""
    folder.mkdir()
    sides = [started("swap", folder, options, rank) for rank in (0, 1)]
    (ours, *_), _ = [side.epoch() for side in sides]
    others = started("objects", folder, options)
    theirs = statistics.fmean(others.epoch())
    for side in [*sides, others]:
        side.close()
    return ours, theirs


def measure(folder: Path, options: Namespace) -> Iterator[Result]:
    """Yield all results."""
    together, apart = run_alternately(folder, options)
    steps = options.images // options.batch_size
    epoch_s = statistics.median(map(sum, together))
    yield compare_results(
        f"{' and '.join(options.students)}, {steps} steps",
        epoch_s,
        statistics.median(apart),
        "s/epoch",
    )
    waiting = statistics.median(parts[PARTS.index("exchange")] / sum(parts) for parts in together)
    yield make_result("exchange, with waiting for the slower one", 100 * waiting, "% of an epoch")
    ours, theirs = measure_swaps(folder / "swap", options)
    yield make_result("exchange, the swap alone", 100 * ours * steps / epoch_s, "% of an epoch")
    yield compare_results(
        f"swap of {options.batch_size} x {CLASSES} float32, Ray's object store",
        1000 * ours,
        1000 * theirs,
        "ms",
    )


def main() -> None:
    """Run epochs alternately, then the exchanges, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--students",
        type=lambda text: text.split(","),
        default=["resnet20", "resnet20"],
        metavar="A,B",
    )
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--side", choices=["pair", "alone", "swap", "objects"], help=SUPPRESS)
    parser.add_argument("--folder", type=Path, help=SUPPRESS)
    parser.add_argument("--rank", type=int, help=SUPPRESS)
    options = parser.parse_args()
    if len(options.students) != 2:
        parser.error(
            f"--students {','.join(options.students)} are {len(options.students)}: give two "
            f"networks, A,B"
        )
    if options.side:
        globals()[options.side](options.folder, options)
        return
    with tempfile.TemporaryDirectory() as name:
        results = list(measure(Path(name), options))
    print_results(results, options.json)


if __name__ == "__main__":
    main()
