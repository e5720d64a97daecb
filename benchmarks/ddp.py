"""Measure an epoch of two DDP workers in a Ray Train group (ours) against plain torchrun (theirs).

    python benchmarks/ddp.py [--student resnet20] [--images 2000] [--rounds 3] [--json]

Both sides run the same loop: `train()` with a TrialContext of gloo's rank and world size, cross
entropy, the same data, configuration, threads, allocator and niceness. They alternate, each round
in fresh processes.

The table holds medians of the wall seconds of an epoch with its evaluation, as rank 0 reports them.
The first epochs are left out: MLflow opens its database at the same time, for about ten seconds
once per sweep.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, Namespace
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import (
    ROOT,
    compare_results,
    make_images,
    make_parser,
    print_results,
    run_in_process,
)
from orchestrator.core.allocator import ALLOCATOR

WORKERS = 2
CLASSES = 10
# of Ray's workers (RAY_worker_niceness); without it torchrun's would get more CPU under load
NICENESS = 15


def settings(folder: Path, options: Namespace) -> list[str]:
    """Return the configuration of both sides."""
    data = ["data.name=npz", f"data.path={folder / 'data.npz'}", "data.augmentation=crop_flip"]
    training = [
        f"training.epochs={options.epochs}",
        f"training.batch_size={options.batch_size}",
        f"student.name={options.student}",
    ]
    return [
        *data,
        *training,
        "teacher=null",
        "method.name=cross_entropy",
        f"resources.workers={WORKERS}",
        "resources.groups=1",
    ]


def ours(folder: Path, options: Namespace) -> None:
    """Train as `run.py train` does."""
    reports = run_in_process(folder / "store", settings(folder, options), "train")
    report_metrics([dict(report.metrics) for report in reports])


def theirs(folder: Path, options: Namespace) -> None:
    """Train in a process that torchrun has started."""
    import torch

    from orchestrator.config.loader import load
    from orchestrator.config.trial import TrialSpec
    from orchestrator.core.context import TrialContext
    from orchestrator.data.prepare import prepare
    from orchestrator.training._trainer import train

    os.nice(NICENESS - os.nice(0))
    torch.set_num_threads(1)
    configuration, metrics = load(None, settings(folder, options)), []
    torch.distributed.init_process_group("gloo")
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    specification = TrialSpec(
        name="theirs",
        configuration=configuration,
        folder=folder / "theirs",
        data=prepare(configuration.data, folder, configuration.data.seed),
    )

    def report(record: Any) -> None:
        metrics.append(record.metrics)

    train(specification, TrialContext(rank, world_size, report=report))
    if rank == 0:
        report_metrics(metrics)
    torch.distributed.barrier()  # a rank that leaves during gloo's communication may abort
    torch.distributed.destroy_process_group()


def report_metrics(metrics: list[dict[str, Any]]) -> None:
    """Report the seconds of all epochs to the parent."""
    print(f"epochs {json.dumps([epoch['seconds/epoch'] for epoch in metrics])}", flush=True)


def measure(side: str, folder: Path, options: Namespace) -> list[float]:
    """Run one side in fresh processes, and return the seconds of the epochs after the warm-up."""
    start = [sys.executable]
    if side == "theirs":
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORKERS)]
    command = [
        *start,
        __file__,
        "--side",
        side,
        "--folder",
        str(folder),
        "--student",
        options.student,
    ]
    for name in ("images", "batch_size", "epochs"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    seconds: list[float] = json.loads(
        next(line for line in output.splitlines() if line.startswith("epochs "))[len("epochs ") :]
    )
    return seconds[options.warm_up :]


def main() -> None:
    """Run the sides alternately, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64, help="total of both workers")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=4, help="steps that are not measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["ours", "theirs"], help=SUPPRESS)
    parser.add_argument("--folder", type=Path, help=SUPPRESS)
    options = parser.parse_args()
    if options.side:
        globals()[options.side](options.folder, options)
        return
    sides: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(options.rounds):
        for side, seconds in sides.items():
            with tempfile.TemporaryDirectory() as name:
                make_images(Path(name) / "data.npz", options.images, CLASSES, held_out=100)
                seconds += measure(side, Path(name), options)
    case = f"{options.student}, {WORKERS} workers"
    print_results(
        [
            compare_results(
                case,
                statistics.median(sides["ours"]),
                statistics.median(sides["theirs"]),
                "s/epoch",
            )
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
