"""Measure the step of pairs of the CIFAR-100 benchmark: eager, compiled, and several processes.

    python benchmarks/pairs.py [--pairs resnet32x4-resnet8x4,...] [--processes 2,4] [--device cuda]
        [--json]
    python benchmarks/pairs.py --seconds 60 [--data FOLDER] [--pairs resnet32x4-resnet8x4] [--json]

A trial of the real loop with the usual recipe of these pairs: KD (T = 4, weight 0.9), SGD, batches
of 64, crop and flip, and a teacher with random weights that runs at every step. Every side is a
process with one thread.

    eager, compiled, step    values of `training.compile`: false, true and step, which replays CUDA
                             graphs on a GPU; milliseconds of a step against eager
    N processes              N trials of the last variant at once, each a process: images per
                             second of all against one, evaluations and checkpoints included

All sides of a run start and compile together. The sides of a pair then alternate, and a value is
the median over the turns. With `--seconds` the last variant of each pair trains on 50,000 images
(CIFAR-100 with `--data`) for that time, and the seconds of an epoch are extrapolated to 240.
"""

import statistics
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from benchmarks.common import (
    Result,
    Side,
    compare_results,
    make_images,
    make_parser,
    make_result,
    make_teacher,
    print_results,
)
from benchmarks.small import EpochClock, Seconds
from orchestrator.core.allocator import ALLOCATOR

BATCH, CLASSES, EPOCHS = 64, 100, 240
PAIRS = (
    "resnet32x4-resnet8x4",
    "wrn_40_2-wrn_16_2",
    "resnet32x4-shuffle_v2",
    "vgg13-mobilenet_v2_half",
)
VARIANTS = {"eager": "false", "compiled": "true", "step": "step"}
RECIPE = [
    "data.augmentation=crop_flip",
    "teacher.mode=online",
    "method.name=kd",
    "method.temperature=4",
    "method.alpha=0.9",
    f"training.epochs={EPOCHS}",
    f"training.batch_size={BATCH}",
    "training.optimizer=sgd",
    "training.learning_rate=0.05",
    "training.weight_decay=5e-4",
    "training.schedule=multi_step",
    "training.milestones=[150,180,210]",
]


def settings(folder: Path, pair: str, variant: str, options: Namespace) -> list[str]:
    """Return the settings of a trial."""
    teacher, student = pair.split("-")
    data = ["data.name=npz", f"data.path={folder / 'data.npz'}"]
    if options.data:
        data = ["data.name=CIFAR100", f"data.path={options.data}"]
    return [
        *data,
        *RECIPE,
        f"teacher.network.name={teacher}",
        f"teacher.precision={options.precision}",
        f"student.name={student}",
        f"training.precision={options.precision}",
        f"training.compile={VARIANTS[variant]}",
    ]


def train(options: Namespace) -> None:
    """Train a trial as a child process; its phases drive the clock."""
    from orchestrator.config.loader import load
    from orchestrator.config.trial import TrialSpec
    from orchestrator.core.context import TrialContext
    from orchestrator.data.dataset import Dataset
    from orchestrator.data.prepare import prepare
    from orchestrator.training.execute import execute

    torch.set_num_threads(1)
    folder, pair = options.folder, options.pairs[0]
    configuration = load(None, settings(folder, pair, options.variants[0], options))
    spec = TrialSpec(
        name="trial",
        configuration=configuration,
        folder=folder / options.side,
        data=prepare(configuration.data, folder, configuration.data.seed),
        teacher=folder / f"teacher-{pair}",
        knowledge=folder / "knowledge",
    )
    device = torch.device(options.device)
    clock = EpochClock(device, options.epochs, len(Dataset.open(spec.data).train) // BATCH)

    def phase(text: str) -> None:
        if text.startswith("epoch "):
            clock.start_epoch()
        elif text.startswith("the evaluation of epoch "):
            clock.end_steps()

    execute(spec, TrialContext(device=device, phase=phase))


def start_side(folder: Path, pair: str, variant: str, copy: int, options: Namespace) -> Side:
    """Start a trial as a child process."""
    command = [
        *(sys.executable, __file__, "--side", f"{pair}-{variant}-{copy}"),
        *("--folder", str(folder), "--pairs", pair, "--variants", variant),
        *("--device", options.device, "--precision", options.precision),
        *("--epochs", str(options.epochs)),
        *(["--data", str(options.data)] if options.data else []),
    ]
    # many processes compile at once
    return Side(command, {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "2"} | ALLOCATOR)


def run_turns(sides: Sequence[Side]) -> list[Seconds]:
    """Run a turn of all sides at once."""
    with ThreadPoolExecutor(len(sides)) as threads:
        return [Seconds(*each) for each in threads.map(lambda side: side.epoch(), sides)]


def prepare_data(folder: Path, options: Namespace) -> None:
    """Prepare data and teachers, so that the children find them."""
    from orchestrator.config.loader import load
    from orchestrator.data.dataset import Dataset
    from orchestrator.data.prepare import prepare

    if not options.data:
        make_images(folder / "data.npz", options.images, CLASSES, held_out=CLASSES)
    configuration = load(None, settings(folder, options.pairs[0], "eager", options))
    data = Dataset.open(prepare(configuration.data, folder, configuration.data.seed))
    images = np.array(data.train.inputs[:256])
    for pair in options.pairs:
        make_teacher(folder / f"teacher-{pair}", pair.split("-")[0], images, CLASSES)


def measure(folder: Path, options: Namespace) -> Iterator[Result]:
    """Yield the rows of all pairs; the sides of all pairs start together."""
    last = options.variants[-1]
    copies = max([1, *options.processes])
    sides = {
        (pair, variant, copy): start_side(folder, pair, variant, copy, options)
        for pair in options.pairs
        for variant in options.variants
        for copy in range(copies if variant == last else 1)
    }
    try:
        run_turns([side for (*_, copy), side in sides.items() if copy == 0])
        if copies > 1:  # they find the compiled code of the first ones in inductor's cache
            run_turns([side for (*_, copy), side in sides.items() if copy > 0])
        for pair in options.pairs:
            turns: dict[str | int, list[list[Seconds]]] = {}
            for _ in range(options.rounds):
                for variant in options.variants:
                    turn = run_turns([sides[pair, variant, 0]])
                    turns.setdefault(variant, []).append(turn)
                for count in options.processes:
                    turn = run_turns([sides[pair, last, copy] for copy in range(count)])
                    turns.setdefault(count, []).append(turn)
            yield from make_rows(pair, turns, options.images)
    finally:
        for side in sides.values():
            side.close()


def make_rows(
    pair: str, turns: dict[str | int, list[list[Seconds]]], images: int
) -> Iterator[Result]:
    """Yield the rows of a pair.

    Args:
        pair: The names of its networks.
        turns: For each variant, and each number of processes, a list of turns. A turn is a list of
            the seconds of each process. The processes are of the last variant.
        images: Images of an epoch.
    """
    variants = [key for key in turns if isinstance(key, str)]
    steps_ms = {
        key: 1000 * statistics.median(turn[0].steps for turn in turns[key]) for key in variants
    }
    for variant in variants:
        if variant == variants[0]:
            yield make_result(f"{pair}: step, {variant}", steps_ms[variant], "ms")
        else:
            yield compare_results(
                f"{pair}: step, {variant}", steps_ms[variant], steps_ms[variants[0]], "ms"
            )
    speeds = {
        key: statistics.median(sum(images / each.wall for each in turn) for turn in each_turn)
        for key, each_turn in turns.items()
    }
    for count in (key for key in turns if isinstance(key, int)):
        yield compare_results(
            f"{pair}: {count} processes, {variants[-1]}",
            speeds[count],
            speeds[variants[-1]],
            "images/s",
            more_is_better=True,
        )


def measure_published(folder: Path, options: Namespace) -> Iterator[Result]:
    """Yield the seconds of an epoch of each pair, and the hours of all epochs."""
    variant = options.variants[-1]
    for pair in options.pairs:
        start, walls = time.perf_counter(), list[float]()
        side = start_side(folder, pair, variant, 0, options)
        try:
            while len(walls) < 2 or time.perf_counter() - start < options.seconds:
                walls.append(Seconds(*side.epoch()).wall)
        finally:
            side.close()
        epoch_s = statistics.median(walls[1:])
        yield make_result(f"{pair}, {variant}: first epoch", walls[0], "s")
        yield make_result(f"{pair}, {variant}: epoch, median of {len(walls) - 1}", epoch_s, "s")
        hours = (walls[0] + (EPOCHS - 1) * epoch_s) / 3600
        yield make_result(f"{pair}, {variant}: {EPOCHS} epochs, extrapolated", hours, "h")


def read_options() -> Namespace:
    """Parse the command line; missing numbers get the defaults of the device."""

    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",") if word != "0"]

    parser, names = make_parser(__doc__), ", ".join(VARIANTS)
    parser.add_argument("--pairs", type=words, help="TEACHER-STUDENT, separated by commas")
    parser.add_argument("--variants", type=words, default=list(VARIANTS), help=f"of {names}")
    parser.add_argument("--processes", type=numbers, default=[2, 4], help="0 for none")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--images", type=int, help="of an epoch; with --seconds 50,000")
    parser.add_argument("--epochs", type=int, default=1, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--seconds", type=float, help="train one pair for that time instead")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-100, with --seconds")
    parser.add_argument("--side", help=SUPPRESS)
    parser.add_argument("--folder", type=Path, help=SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"--variants: there is no {', '.join(sorted(unknown))}: give some of {names}")
    if any(pair.count("-") != 1 for pair in options.pairs or ()):
        parser.error("--pairs: give the names of networks as TEACHER-STUDENT")
    if options.data and (options.images or not (options.seconds or options.side)):
        parser.error("--data: give it with --seconds and without --images")
    options.data = options.data and options.data.resolve()  # the children start in another folder
    options.pairs = options.pairs or list(PAIRS[:1] if options.seconds else PAIRS)
    usual = 200 * BATCH if options.device == "cuda" else 4 * BATCH
    options.images = options.images or (50_000 if options.seconds else usual)
    return options


def main() -> None:
    """Measure all pairs, and print the rows."""
    options = read_options()
    if options.side:
        train(options)
        return
    torch.set_num_threads(1)
    rows: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_data(folder, options)
        for row in (measure_published if options.seconds else measure)(folder, options):
            if options.json:  # at once: a time limit may end the later pairs
                print_results([row], as_json=True)
            rows.append(row)
    if not options.json:
        print_results(rows, as_json=False)


if __name__ == "__main__":
    main()
