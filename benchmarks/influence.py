"""Measure influence scores: closed-form last layer (ours) against autograd's products (theirs).

    python benchmarks/influence.py [--cases last_layer] [--samples 5000,50000] [--classes 10,100]
        [--device cuda] [--json]

Both sides score all training samples at 512 features, float32, one thread, for an objective with
labels and a teacher (T = 4). Both solve to a relative residual of 1e-5 and must agree.

Theirs is the straightforward implementation: conjugate gradients with products by double backward
over the whole part, then vmap(grad), a gradient of K (D + 1) numbers for every sample, times the
solution. If those gradients alone exceed `--theirs-limit-gib`, theirs is not run.

Every side of every size is a process of its own, which generates its data first. Seconds are the
median of `--rounds`. Memory is the peak above the process's memory before the first round, and the
total peak.

    last_layer     seconds, memory and iterations at every size, and the growth of the seconds from
                   the fewest to the most samples
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common import (
    ROOT,
    Result,
    compare_results,
    make_result,
    make_size_parser,
    print_results,
)
from methods import influence
from methods.influence import LastLayer
from methods.sample_weighting import Part
from methods.tempered_objective import Losses, Term

FEATURES, HELD_OUT, TEMPERATURE, SOFT = 512, 1000, 4.0, 0.9
DAMPING, TOLERANCE = 1e-2, 1e-5
LIMIT_BYTES = 1 << 28
MIB, GIB = 2**20, 2**30


class Data(NamedTuple):
    """Both parts, and the teacher's probabilities (n, K) at the temperature."""

    training: Part
    held_out: Part
    taught: Tensor


def draw_data(samples: int, classes: int, device: str) -> Data:
    """Draw features of one cluster per class, and a mostly right classifier.

    The spectrum of the features falls as that of a network.
    """
    torch.manual_seed(0)
    centres, spread = torch.randn(classes, FEATURES), torch.logspace(0, -2, FEATURES)

    def part(size: int) -> Part:
        labels = torch.randint(classes, (size,))
        features = torch.randn(size, FEATURES).mul_(spread).add_(centres[labels]).relu_()
        logits = (
            (features @ centres.T)
            .sub_(0.4 * features.sum(1, keepdim=True))
            .mul_(0.05)
            .add_(torch.randn(size, classes))
        )
        return Part(logits.to(device), features.div_(8).to(device), labels.to(device))

    training = part(samples)
    taught = (
        training.logits.add(torch.randn(samples, classes).to(device)).div_(TEMPERATURE).softmax(1)
    )
    return Data(training, part(HELD_OUT), taught)


def ours(data: Data) -> tuple[Tensor, int]:
    """Return scores (n,) and the number of iterations."""
    samples, classes = data.taught.shape
    hard = functional.one_hot(data.training.labels, classes).to(data.taught)
    share = torch.full((samples,), SOFT, device=hard.device)
    losses = Losses([Term(1 - share, 1.0, hard), Term(share, TEMPERATURE, data.taught)])
    problem = LastLayer(data.training, losses, data.held_out, torch.ones_like(share), LIMIT_BYTES)
    found = influence.scores(problem, influence.last_layer, DAMPING)
    assert found.residual is not None
    assert found.residual <= TOLERANCE
    return found.phi, found.iterations


def theirs(data: Data) -> tuple[Tensor, int]:
    """Return scores (n,) and the number of iterations, from autograd alone.

    The logits follow from the layer, up to the part that the features do not explain.
    """
    training, held_out = data.training, data.held_out
    classes = data.taught.shape[1]
    layer = torch.zeros(classes, FEATURES + 1, device=data.taught.device, requires_grad=True)

    def logits(layer: Tensor, features: Tensor, at: Tensor) -> Tensor:
        return at + features @ layer[:, :-1].T + layer[:, -1]

    def loss(layer: Tensor, features: Tensor, at: Tensor, label: Tensor, taught: Tensor) -> Tensor:
        z = logits(layer, features, at)
        soft = -(taught * (z / TEMPERATURE).log_softmax(-1)).sum(-1)
        return (1 - SOFT) * functional.cross_entropy(
            z, label, reduction="none"
        ) + SOFT * TEMPERATURE**2 * soft

    inputs = (training.features, training.logits, training.labels, data.taught)
    (slope,) = torch.autograd.grad(loss(layer, *inputs).mean(), layer, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        (bent,) = torch.autograd.grad(slope, layer, vector.view_as(layer), retain_graph=True)
        return bent.flatten() + DAMPING * vector

    outside = functional.cross_entropy(
        logits(layer, held_out.features, held_out.logits), held_out.labels
    )
    wanted = torch.autograd.grad(outside, layer)[0].flatten()
    direction, iterations = solve(product, wanted)
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0, 0))(
        layer.detach(), *inputs
    )
    return -(gradients.flatten(1) @ direction), iterations


def solve(product: Callable[[Tensor], Tensor], wanted: Tensor) -> tuple[Tensor, int]:
    """Solve a linear system by textbook conjugate gradients; return solution and iterations."""
    direction, residual, iterations = torch.zeros_like(wanted), wanted.clone(), 0
    search, height = residual.clone(), residual @ residual
    while height.sqrt() > TOLERANCE * wanted.norm():
        bent = product(search)
        step = height / (search @ bent)
        direction, residual = direction + step * search, residual - step * bent
        before, height = height, residual @ residual
        search, iterations = residual + height / before * search, iterations + 1
    return direction, iterations


def side(name: str, samples: int, classes: int, options: Namespace) -> None:
    """Measure one side in a child process, print its costs, and save its scores to a file."""
    data = draw_data(samples, classes, options.device)
    memory = Memory(options.device)
    seconds = []
    for _ in range(options.rounds):
        start = now(options.device)
        phi, iterations = (ours if name == "ours" else theirs)(data)
        seconds.append(now(options.device) - start)
        grown, whole = memory.grown(), memory.whole()
    torch.save(phi.cpu(), options.scores)
    print(
        json.dumps(
            {
                "seconds": statistics.median(seconds),
                "iterations": iterations,
                "grown": grown,
                "whole": whole,
            }
        )
    )


class Memory:
    """Peak memory in bytes of this process, or of its tensors on a GPU, since construction."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak: proc(5)
        self.before = torch.cuda.memory_allocated() if self.cuda else self._status("VmRSS")

    def whole(self) -> int:
        """Return the total peak."""
        return torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")

    def grown(self) -> int:
        """Return the peak above the initial value."""
        return self.whole() - self.before

    @staticmethod
    def _status(key: str) -> int:
        (line,) = (
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith(key)
        )
        return int(line.split()[1]) * 1024


def now(device: str) -> float:
    """Return wall seconds after the GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_side(
    name: str, samples: int, classes: int, scores: Path, options: Namespace
) -> dict[str, Any]:
    """Run a side in a process of its own, and return its costs."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--side",
        name,
        "--samples",
        str(samples),
        "--classes",
        str(classes),
    ]
    command += [
        "--rounds",
        str(options.rounds),
        "--device",
        options.device,
        "--scores",
        str(scores),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def last_layer(options: Namespace) -> Iterator[Result]:
    """Yield the results of both sides at all sizes, and the growth of ours with the samples."""
    for classes in options.classes:
        seconds = {}
        for samples in options.samples:
            with tempfile.TemporaryDirectory() as folder:
                mine = measure_side("ours", samples, classes, Path(folder) / "ours.pt", options)
                rival, case = None, f"{samples:,} x {classes}"
                gradients = 4 * samples * classes * (FEATURES + 1)
                if gradients > options.theirs_limit_gib * GIB:
                    case += f" (theirs: {gradients / GIB:.1f} GiB of gradients)"
                else:
                    rival = measure_side(
                        "theirs", samples, classes, Path(folder) / "theirs.pt", options
                    )
                    agree(
                        *(
                            torch.load(Path(folder) / f"{name}.pt", weights_only=True)
                            for name in ("ours", "theirs")
                        )
                    )
            seconds[samples] = mine["seconds"]
            yield from rows(case, mine, rival)
        fewest, most = min(seconds), max(seconds)
        if fewest < most:
            growth = seconds[most] / seconds[fewest]
            yield make_result(
                f"{classes} classes, {most / fewest:g} x the samples", growth, "x the seconds"
            )


def rows(case: str, mine: dict[str, Any], rival: dict[str, Any] | None) -> Iterator[Result]:
    """Yield the lines of one size."""
    for key, divisor, unit in (
        ("seconds", 1, "s"),
        ("grown", MIB, "MiB more"),
        ("whole", MIB, "MiB in all"),
    ):
        if rival:
            yield compare_results(case, mine[key] / divisor, rival[key] / divisor, unit)
        else:
            yield make_result(case, mine[key] / divisor, unit)
    yield make_result(
        case, mine["iterations"], "iterations", rival["iterations"] if rival else None
    )


def agree(one: Tensor, other: Tensor) -> None:
    """Assert that both sides have the same scores, up to the residual."""
    difference = float((one - other).norm() / other.norm())
    assert difference < 1e-3, f"the scores of both sides differ by {difference:.2g}"


CASES = {"last_layer": last_layer}


def read_options() -> Namespace:
    """Parse the command line."""
    parser = make_size_parser(__doc__, CASES)
    parser.add_argument("--side", choices=["ours", "theirs"], help=SUPPRESS)
    parser.add_argument("--scores", type=Path, help=SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run all cases, and print the table."""
    options = read_options()
    torch.set_num_threads(1)
    if options.side:
        side(options.side, options.samples[0], options.classes[0], options)
        return
    print_results(
        [result for case in options.cases for result in CASES[case](options)], options.json
    )


if __name__ == "__main__":
    main()
