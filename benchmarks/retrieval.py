"""Measure retrieval: blocks inside the classes (ours) against the n x n matrix and `topk` (theirs).

    python benchmarks/retrieval.py [--cases neighbours] [--samples 5000,50000] [--classes 10,100]
        [--device cuda] [--json]

Both sides find the 8 nearest samples of the class and the 32 nearest of the others, for all
samples, at 256 features, float32, one thread. Their results must agree.

Theirs is the straightforward implementation: all cosines, a mask for pairs that are not allowed,
and `topk`, once for either kind. If matrix, masks and masked copy exceed `--theirs-limit-gib`,
theirs takes as many rows at once as fit, and the case shows the number.

Every side of every size is a process of its own, which generates its data first. Seconds are the
median of `--rounds`. Memory is the peak above the process's memory before the first round, and the
total peak.

    neighbours     seconds and memory at every size, and the growth of the seconds from the fewest
                   to the most samples
    positives      the same with positives only: n^2 / K
    class          target logits from the whole class, without a rival
"""

import json
import statistics
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from benchmarks.common import (
    ROOT,
    Result,
    compare_results,
    make_result,
    make_size_parser,
    print_results,
)
from benchmarks.influence import GIB, MIB, Memory, now
from methods.aggregation import aggregate_class_logits
from methods.retrieval import nearest, recall

FEATURES, POSITIVES, NEGATIVES, SPREAD = 256, 8, 32, 1.5
ENTRY_BYTES = 4 + 4 + 1 + 1  # a similarity, its masked copy and two masks


class Bank(NamedTuple):
    """Features (n, D) of a cluster per class, and labels (n,)."""

    features: Tensor
    labels: Tensor


def draw_data(samples: int, classes: int, device: str) -> Bank:
    """Draw overlapping classes: features after a ReLU, as those of a network."""
    torch.manual_seed(0)
    labels = torch.randint(classes, (samples,))
    features = (
        torch.randn(classes, FEATURES)[labels]
        .add_(torch.randn(samples, FEATURES), alpha=SPREAD)
        .relu_()
    )
    return Bank(features.to(device), labels.to(device))


def naive(bank: Bank, positives: int, negatives: int, limit_bytes: float) -> tuple[Tensor, Tensor]:
    """Return positions (n, P) and (n, N) from all cosines, with as many rows at once as fit."""
    unit = torch.nn.functional.normalize(bank.features, dim=1)
    found = []
    for rows in torch.split(
        torch.arange(len(unit), device=unit.device), rows_at_once(len(unit), limit_bytes)
    ):
        cosines = unit[rows] @ unit.T
        alike = bank.labels[rows, None] == bank.labels
        itself = rows[:, None] == torch.arange(len(unit), device=unit.device)
        near = cosines.masked_fill(~alike | itself, -torch.inf).topk(positives, 1).indices
        far = (
            cosines.masked_fill(alike, -torch.inf).topk(negatives, 1).indices
            if negatives
            else near[:, :0]
        )
        found.append((near, far))
    return torch.cat([near for near, _ in found]), torch.cat([far for _, far in found])


def rows_at_once(samples: int, limit_bytes: float) -> int:
    """Return the number of rows of the matrix that fit."""
    return min(samples, max(1, int(limit_bytes / (samples * ENTRY_BYTES))))


def side(name: str, samples: int, classes: int, options: Namespace) -> None:
    """Measure one side in a child process, print its costs, and save its results to a file."""
    bank = draw_data(samples, classes, options.device)
    negatives = NEGATIVES if options.cases == ["neighbours"] else 0
    logits = torch.randn(samples, classes, device=options.device)

    def ours() -> tuple[Tensor, Tensor]:
        found = nearest(*bank, POSITIVES, negatives)
        return found.positives, found.negatives

    def theirs() -> tuple[Tensor, Tensor]:
        return naive(bank, POSITIVES, negatives, options.theirs_limit_gib * GIB)

    def whole() -> tuple[Tensor, Tensor]:
        targets = aggregate_class_logits(bank.features, logits, bank.labels, 0.1, "prob", 4.0)
        return targets, targets

    compute: Callable[[], tuple[Tensor, Tensor]] = {"ours": ours, "theirs": theirs, "whole": whole}[
        name
    ]
    memory, seconds = Memory(options.device), []
    for _ in range(options.rounds):
        start = now(options.device)
        found = compute()
        seconds.append(now(options.device) - start)
    grown, in_all = memory.grown(), memory.whole()
    torch.save([tensor.cpu() for tensor in found], options.found)
    print(json.dumps({"seconds": statistics.median(seconds), "grown": grown, "whole": in_all}))


def measure_side(
    name: str, case: str, samples: int, classes: int, found: Path, options: Namespace
) -> dict[str, Any]:
    """Run a side in a process of its own, and return its costs."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--side",
        name,
        "--cases",
        case,
        "--samples",
        str(samples),
    ]
    command += [
        "--classes",
        str(classes),
        "--rounds",
        str(options.rounds),
        "--device",
        options.device,
    ]
    command += ["--theirs-limit-gib", str(options.theirs_limit_gib), "--found", str(found)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def compare(case: str, options: Namespace) -> Iterator[Result]:
    """Yield the results of both sides at all sizes, and the growth of ours with the samples."""
    for classes in options.classes:
        seconds = {}
        for samples in options.samples:
            text, rival = f"{case}, {samples:,} in {classes}", None
            with tempfile.TemporaryDirectory() as folder:
                files = [Path(folder) / "ours.pt", Path(folder) / "theirs.pt"]
                mine = measure_side(
                    "whole" if case == "class" else "ours",
                    case,
                    samples,
                    classes,
                    files[0],
                    options,
                )
                if case != "class":
                    rival = measure_side("theirs", case, samples, classes, files[1], options)
                    agree(*(torch.load(file, weights_only=True) for file in files))
                    rows = rows_at_once(samples, options.theirs_limit_gib * GIB)
                    text += f" (theirs: {rows:,} rows at once)" if rows < samples else ""
            seconds[samples] = mine["seconds"]
            for key, divisor, unit in (
                ("seconds", 1, "s"),
                ("grown", MIB, "MiB more"),
                ("whole", MIB, "MiB in all"),
            ):
                if rival:
                    yield compare_results(text, mine[key] / divisor, rival[key] / divisor, unit)
                else:
                    yield make_result(text, mine[key] / divisor, unit)
        fewest, most = min(seconds), max(seconds)
        if fewest < most:
            growth = seconds[most] / seconds[fewest]
            yield make_result(
                f"{case}, {classes} classes, {most / fewest:g} x the samples",
                growth,
                "x the seconds",
            )


def agree(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Assert that both sides found the same samples, up to rounding."""
    for one, other in zip(ours, theirs, strict=True):
        share = recall(one, other)
        assert share > 0.9999, f"only {share:.5%} of what theirs found were found by ours"


CASES = ("neighbours", "positives", "class")


def read_options() -> Namespace:
    """Parse the command line."""
    parser = make_size_parser(__doc__, CASES)
    parser.add_argument("--side", choices=["ours", "theirs", "whole"], help=SUPPRESS)
    parser.add_argument("--found", type=Path, help=SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all cases, and print the table."""
    options = read_options()
    torch.set_num_threads(1)
    if options.side:
        side(options.side, options.samples[0], options.classes[0], options)
        return
    print_results(
        [result for case in options.cases for result in compare(case, options)], options.json
    )


if __name__ == "__main__":
    main()
