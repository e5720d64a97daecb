"""Measure the inference cost of a student: parameters, multiply-adds, latency of one image."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.config.schema import Network
from orchestrator.data.dataset import DataSummary
from orchestrator.models.build import build_for_data

WARM_UP, REPEATS = 10, 50


@dataclass(frozen=True)
class StudentCost:
    """Inference cost of a student.

    `multiply_adds` are those of matrix products and convolutions for one image. `latency_ms` is the
    median of the repetitions.
    """

    parameters: int
    multiply_adds: int
    latency_ms: float


def student_cost(network: Network, summary: DataSummary, repeats: int = REPEATS) -> StudentCost:
    """Return the cost of a student: float32 on the CPU, in eval mode, one image, one thread.

    The weights do not affect the cost and are random.

    Args:
        network: The student's network.
        summary: Description of the data, with classes and shape.
        repeats: Repetitions of the latency measurement.
    """
    student = build_for_data(network, summary).eval()
    image = torch.zeros(1, *summary.shape)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        student(image)
    latency_ms = 1000 * _median_s(lambda: student(image).logits, repeats)
    # the counter counts a multiplication and an addition as two
    return StudentCost(
        sum(each.numel() for each in student.parameters()),
        counted.get_total_flops() // 2,
        latency_ms,
    )


def _median_s(forward: Callable[[], Tensor], repeats: int) -> float:
    threads, taken = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(WARM_UP):
                forward()
            for _ in range(repeats):
                start = time.perf_counter()
                forward()
                taken.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(taken)
