"""Measure the inference cost of a network: parameters, multiply-adds, latency of one image."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.config.schema import Network
from orchestrator.config.trial import apply
from orchestrator.data.dataset import DataSummary, read_summary
from orchestrator.models.build import build_for_data
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.comparison.record import TEACHER, Comparison, InferenceCost
from orchestrator.sweep.comparison.result import complete_trials, open_seed_sweeps

WARM_UP, REPEATS = 10, 50


def inference_cost(network: Network, summary: DataSummary, repeats: int = REPEATS) -> InferenceCost:
    """Return the cost of a network: float32 on the CPU, in eval mode, one image, one thread.

    The weights do not affect the cost and are random.

    Args:
        network: The network.
        summary: Description of the data, with classes and shape.
        repeats: Repetitions of the latency measurement.
    """
    module = build_for_data(network, summary).eval()
    image = torch.zeros(1, *summary.shape)
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        module(image)
    latency_ms = 1000 * _median_s(lambda: module(image).logits, repeats)
    # the counter counts a multiplication and an addition as two
    return InferenceCost(
        sum(each.numel() for each in module.parameters()),
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


def measure_inference(store: Store, comparison: Comparison) -> None:
    """Measure the costs of the students and the teacher, once, and keep them in the record.

    A network is measured once, so that methods which train the same student do not differ by noise.
    """
    trained = open_seed_sweeps(store, comparison)
    networks = {
        method: network
        for method in comparison.methods
        if (network := _student(method, [sweep for _, sweep in trained]))
    }
    if teacher := comparison.configuration.teacher:
        networks[TEACHER] = teacher.network
    if networks.keys() <= comparison.inference.keys():
        return
    summary, measured = read_summary(trained[0][1].folder), dict[str, InferenceCost]()
    for name, network in networks.items():
        key = network.model_dump_json()
        if key not in measured:
            measured[key] = inference_cost(network, summary)
        comparison.inference[name] = measured[key]
    comparison.save()


def _student(method: str, sweeps: Sequence[Sweep]) -> Network | None:
    """Return the network of the first student that a method has trained to the end."""
    trials = ((sweep, trial) for sweep in sweeps for trial in complete_trials(sweep, method))
    first = next(trials, None)
    return first and apply(first[0].configuration, first[1].settings).student
