"""Measure students that torch.func trains as one: against one by one, and a process for each.

    python benchmarks/fused.py [--networks resnet8,resnet20] [--students 2,8,16] [--steps 20]
        [--rounds 3] [--device cuda] [--json]

All students of a case are of one network, with their own initial weights and batches. A step is KD
(T = 4, alpha = 0.9) from given logits, batch 64, and SGD with momentum, in one thread.

    fused        parameters and buffers are stacked (`stack_module_state`); `vmap` maps
                 `functional_call` and the loss over the students; one SGD updates the stacks
    one by one   each student by itself, in one process
    processes    a process for each student, all at once

Batch norm computes the statistics of each student's batch under `vmap`, and updates the stacked
buffers in place, `num_batches_tracked` too. So the buffers must be mapped arguments, as the
parameters are.

First the losses of some steps, and then parameters and statistics, are compared with those one by
one: the largest differences, relative to the largest value of a tensor, in float64 and float32
(without TF32).
The exit code is 1 if the losses of a case differ by more than 1e-5 in float64, or at the first step
in float32. Later losses in float32 are compared with the rounding of one by one itself. On a GPU
each side is also replayed as a CUDA graph.
"""

import copy
import statistics
import sys
import time
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from benchmarks.common import (
    Result,
    Side,
    compare_results,
    make_parser,
    make_result,
    print_results,
    report_seconds,
)

BATCH, CLASSES, SHAPE = 64, 100, (3, 32, 32)
TEMPERATURE, ALPHA = 4.0, 0.9
TOLERANCE = 1e-5
LIMITED = "relative, limit"  # the unit of differences that have a tolerance
WARM_UP = 3  # steps
NETWORKS = ("resnet8", "resnet20", "mobilenet_v2_half", "resnet8x4")


@dataclass
class Batches:
    """Images (N, B, C, H, W), labels (N, B) and the teacher's logits (N, B, K) of N students."""

    images: Tensor
    labels: Tensor
    taught: Tensor

    def copy_from(self, other: "Batches") -> None:
        """Copy the values of other batches into the tensors of these."""
        self.images.copy_(other.images)
        self.labels.copy_(other.labels)
        self.taught.copy_(other.taught)


def draw_batches(
    students: int, batch: int, seed: int, device: torch.device, dtype: torch.dtype
) -> Batches:
    """Return random batches, which are the same for every type."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(students, batch, *SHAPE, generator=draw)
    labels = torch.randint(CLASSES, (students, batch), generator=draw)
    taught = torch.randn(students, batch, CLASSES, generator=draw)
    return Batches(images.to(device, dtype), labels.to(device), taught.to(device, dtype))


def make_students(
    name: str, students: int, device: torch.device, dtype: torch.dtype
) -> list[nn.Module]:
    """Return networks in training mode, each with its own weights."""
    from orchestrator.models.build import build

    torch.manual_seed(0)
    networks = [build(name, CLASSES, SHAPE, {}) for _ in range(students)]
    return [network.to(device, dtype).train() for network in networks]


def distillation_loss(logits: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
    """Return the loss of KD of a batch: logits (B, K), labels (B,), the teacher's logits (B, K)."""
    # written out, because kl_div has no rule of vmap
    target = functional.log_softmax(taught / TEMPERATURE, dim=1)
    found = functional.log_softmax(logits / TEMPERATURE, dim=1)
    soft = (target.exp() * (target - found)).sum(1).mean()
    return (1 - ALPHA) * functional.cross_entropy(logits, labels) + ALPHA * TEMPERATURE**2 * soft


def make_optimizer(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return the optimiser of a student, or of all students."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)


class OneByOne:
    """Students that are trained one after another."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.networks = networks
        self.optimizers = [make_optimizer(list(each.parameters())) for each in networks]

    def step(self, batches: Batches) -> Tensor:
        """Train a step of every student, and return the losses (N,)."""
        losses = []
        for position, (network, optimizer) in enumerate(
            zip(self.networks, self.optimizers, strict=True)
        ):
            logits = network(batches.images[position]).logits
            loss = distillation_loss(logits, batches.labels[position], batches.taught[position])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    def state(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name, stacked over the students."""
        states = [network.state_dict() for network in self.networks]
        return {name: torch.stack([state[name] for state in states]) for name in states[0]}


class Fused:
    """Students that are trained as one: each tensor is stacked over them."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.parameters, self.buffers = stack_module_state(networks)
        self.optimizer = make_optimizer(list(self.parameters.values()))
        skeleton = copy.deepcopy(networks[0]).to("meta")

        def student_loss(
            parameters: dict[str, Tensor],
            buffers: dict[str, Tensor],
            images: Tensor,
            labels: Tensor,
            taught: Tensor,
        ) -> Tensor:
            logits = functional_call(skeleton, (parameters, buffers), (images,)).logits
            return distillation_loss(logits, labels, taught)

        self.losses: Callable[..., Tensor] = vmap(student_loss)

    def step(self, batches: Batches) -> Tensor:
        """Train a step of every student, and return the losses (N,)."""
        losses = self.losses(
            self.parameters, self.buffers, batches.images, batches.labels, batches.taught
        )
        self.optimizer.zero_grad()
        losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses.detach()

    def state(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name, stacked over the students."""
        return {name: each.detach() for name, each in (self.parameters | self.buffers).items()}


class Replayed:
    """The steps of students as a CUDA graph, which copies the batches and is replayed."""

    def __init__(self, students: OneByOne | Fused, batches: Batches) -> None:
        self.batches = copy.deepcopy(batches)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                students.step(self.batches)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = students.step(self.batches)

    def step(self, batches: Batches) -> Tensor:
        """Train a step of every student, and return the losses (N,), which the next overwrites."""
        self.batches.copy_from(batches)
        self.graph.replay()
        return self.losses


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value of what is expected.

    Values below 1e-3 count as 1e-3: a shift before another batch norm has no gradient but noise.
    """
    scale = expected.double().abs().max().clamp_min(1e-3)
    return float((found.double() - expected.double()).abs().max() / scale)


@dataclass(frozen=True)
class Differences:
    """Largest relative differences: of the first losses, of all losses, and of the final state.

    `expected` are the losses (steps, N) one by one.
    """

    first: float
    losses: float
    state: float
    expected: Tensor


def compare_students(
    name: str, students: int, steps: int, batch: int, device: torch.device, dtype: torch.dtype
) -> Differences:
    """Train students fused and one by one with the same weights and batches, and compare them.

    Args:
        name: Name of the network.
        students: N.
        steps: Steps of each student.
        batch: B.
        device: The device.
        dtype: Type of all floating-point tensors.
    """
    networks = make_students(name, students, device, dtype)
    fused, single = Fused(networks), OneByOne(networks)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        each = [draw_batches(students, batch, seed, device, dtype) for seed in range(steps)]
        losses = [[side.step(batches) for batches in each] for side in (fused, single)]
    found, expected = (torch.stack(steps_of_side) for steps_of_side in losses)
    states = fused.state(), single.state()
    assert states[0].keys() == states[1].keys()
    return Differences(
        largest_difference(found[0], expected[0]),
        largest_difference(found, expected),
        max(largest_difference(states[0][key], value) for key, value in states[1].items()),
        expected,
    )


def compare_rows(name: str, students: int, options: Namespace) -> Iterator[Result]:
    """Yield the differences of a case; `theirs` is the tolerance of those that must be small.

    For all losses in float32 it is their difference from float64 one by one, which is no tolerance.
    """
    exact, rounded = (
        compare_students(
            *(name, students, options.check_steps, options.batch_size),
            torch.device(options.device),
            dtype,
        )
        for dtype in (torch.float64, torch.float32)
    )
    rounding = largest_difference(rounded.expected, exact.expected)
    for case, found, theirs, unit in (
        ("float64: first losses", exact.first, TOLERANCE, LIMITED),
        ("float64: all losses", exact.losses, TOLERANCE, LIMITED),
        ("float64: state", exact.state, None, "relative"),
        ("float32: first losses", rounded.first, TOLERANCE, LIMITED),
        ("float32: all losses", rounded.losses, rounding, "relative"),
        ("float32: state", rounded.state, None, "relative"),
    ):
        yield make_result(f"{name} x {students}, {case}", found, unit, theirs)


def exceeds(row: Result) -> bool:
    """Return whether a difference is larger than its tolerance."""
    return row.unit == LIMITED and not (row.theirs is not None and row.ours <= row.theirs)


def measure_seconds(
    step: Callable[[Batches], Tensor], batches: Batches, steps: int, device: torch.device
) -> float:
    """Return the wall seconds of steps."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        losses = step(batches)
    losses.sum().item()  # waits for the GPU
    return time.perf_counter() - start


def prepare_step(
    kind: type[OneByOne | Fused], mode: str, name: str, students: int, options: Namespace
) -> tuple[Callable[[Batches], Tensor], Batches]:
    """Return the step of students after its warm-up, and its batches."""
    device = torch.device(options.device)
    batches = draw_batches(students, options.batch_size, 0, device, torch.float32)
    trained = kind(make_students(name, students, device, torch.float32))
    step = trained.step if mode == "eager" else Replayed(trained, batches).step
    for _ in range(WARM_UP):
        step(batches)
    return step, batches


def serve(options: Namespace) -> None:
    """Train a student as a child process: read `prepare NETWORK MODE` and `train STEPS`."""
    torch.set_num_threads(1)
    device, prepared = torch.device(options.device), None
    for line in sys.stdin:
        verb, *words = line.split()
        seconds = 0.0
        if verb == "prepare":
            prepared = prepare_step(OneByOne, words[1], words[0], 1, options)
        elif prepared:
            seconds = measure_seconds(*prepared, int(words[0]), device)
        report_seconds(seconds)


def request_all(sides: Sequence[Side], request: str) -> float:
    """Send a request to children at once, and return the seconds until all have answered."""
    start = time.perf_counter()
    with ThreadPoolExecutor(max(1, len(sides))) as threads:
        list(threads.map(lambda side: side.epoch(request), sides))
    return time.perf_counter() - start


def measure_case(
    name: str, students: int, mode: str, sides: Sequence[Side], options: Namespace
) -> Iterator[Result]:
    """Yield the images per second of a case, by turns: fused, one by one, and as processes."""
    device, steps = torch.device(options.device), options.steps
    both = {kind: prepare_step(kind, mode, name, students, options) for kind in (Fused, OneByOne)}
    if len(sides) == students:
        request_all(sides, f"prepare {name} {mode}")
    seconds: dict[str, list[float]] = {"fused": [], "one by one": [], "processes": []}
    for _ in range(options.rounds):
        seconds["fused"].append(measure_seconds(*both[Fused], steps, device))
        seconds["one by one"].append(measure_seconds(*both[OneByOne], steps, device))
        if len(sides) == students:
            seconds["processes"].append(request_all(sides, f"train {steps}"))
    images = students * steps * options.batch_size
    speeds = {side: images / statistics.median(each) for side, each in seconds.items() if each}
    for rival in list(speeds)[1:]:
        case = f"{name} x {students}, {mode}: fused, {rival}"
        yield compare_results(case, speeds["fused"], speeds[rival], "images/s", more_is_better=True)


def measure_all(options: Namespace) -> Iterator[Result]:
    """Yield all rows; the children serve all networks."""
    for name in options.networks:
        for students in options.check_students:
            yield from compare_rows(name, students, options)
    modes = ["eager", "graph"] if options.device == "cuda" else ["eager"]
    count = max((each for each in options.students if each <= options.processes), default=0)
    child = [sys.executable, __file__, "--serve", "--device", options.device]
    child += ["--batch-size", str(options.batch_size)]
    sides = [Side(child, {"OMP_NUM_THREADS": "1"}) for _ in range(count)]
    try:
        for name in options.networks:
            for mode in modes:
                for students in options.students:
                    yield from measure_case(name, students, mode, sides[:students], options)
    finally:
        for side in sides:
            side.close()


def read_options() -> Namespace:
    """Parse the command line."""

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = make_parser(__doc__)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--students", type=numbers, default=[2, 8, 16])
    parser.add_argument("--processes", type=int, default=16, help="at most; 0 for none")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=20, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--check-students", type=numbers, default=[2], help="N of the comparison")
    parser.add_argument("--check-steps", type=int, default=3, help="steps of the comparison")
    parser.add_argument("--serve", action="store_true", help=SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Compare and measure all cases, and print the rows."""
    options = read_options()
    torch.set_num_threads(1)
    if options.serve:
        serve(options)
        return
    rows: list[Result] = []
    for row in measure_all(options):
        if options.json:  # at once: a time limit may end the later cases
            print_results([row], as_json=True)
        rows.append(row)
    if not options.json:
        print_results(rows, as_json=False)
    sys.exit(any(map(exceeds, rows)))


if __name__ == "__main__":
    main()
