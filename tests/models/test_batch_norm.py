"""Test batch norm over several workers' batches (gloo) against torch's over one whole batch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orchestrator.core.context import TrialContext
from orchestrator.models.batch_norm import SyncBatchNorm, synchronise
from orchestrator.models.build import build
from tests.process_group import on_every_rank
from tests.refusal import refused

WORLD, EACH, STEPS = 3, 2, 3
KINDS: dict[str, dict[str, Any]] = {
    "usual": {},
    "cumulative": {"momentum": None},
    "bare": {"affine": False},
    "untracked": {"track_running_stats": False},
    "compiled": {},
    "activated": {},
}


class ActivatedBatchNorm(nn.BatchNorm2d):
    """Batch norm with an activation, as in timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.Softplus()

    def forward(self, input: Tensor) -> Tensor:
        activated: Tensor = self.act(self.drop(super().forward(input)))
        return activated


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    activated = kind == "activated"
    norm = ActivatedBatchNorm(4) if activated else nn.BatchNorm2d(4, **KINDS[kind])
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()


def batches() -> Tensor:
    """Return (steps, samples, 2, 6, 6); each rank's part has its own mean and spread."""
    spread = torch.arange(1, WORLD + 1, dtype=torch.float64).repeat_interleave(EACH)[
        :, None, None, None
    ]
    return (
        spread
        * torch.randn(
            STEPS,
            WORLD * EACH,
            2,
            6,
            6,
            generator=torch.Generator().manual_seed(1),
            dtype=torch.float64,
        )
        + 5 * spread
    )


def trained(module: nn.Module, parts: Tensor) -> None:
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for inputs in parts:
        optimizer.zero_grad()
        module(inputs).square().mean().backward()
        optimizer.step()


def worker(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    """Return the state of every kind of network after some steps, and its output."""
    found = {}
    for kind in KINDS:
        module = synchronise(network(kind), TrialContext(rank, world_size))
        assert any(isinstance(each, SyncBatchNorm) for each in module.modules())
        if kind == "compiled":
            module.compile(backend="eager")  # type: ignore[no-untyped-call]
        trained(DistributedDataParallel(module), batches()[:, rank * EACH : (rank + 1) * EACH])
        found[kind] = {name: value.clone() for name, value in module.state_dict().items()}
        found[kind]["output"] = module.eval()(batches()[0]).detach()
    return found


def test_ranks_have_the_batch_norm_of_one_whole_batch() -> None:
    """Values, gradients through the statistics, and running statistics must agree."""
    ranks = on_every_rank(WORLD, worker)
    for kind in KINDS:
        whole = network(kind)
        trained(whole, batches())
        expected = {**whole.state_dict(), "output": whole.eval()(batches()[0]).detach()}
        for found in ranks:
            assert found[kind].keys() == expected.keys(), "the state is that of torch's own"
            for name, value in expected.items():
                assert torch.allclose(found[kind][name], value, rtol=1e-9, atol=1e-9), (kind, name)


@pytest.mark.parametrize(
    "name",
    [
        *("cnn", "separable_cnn", "resnet8", "resnet18", "mobilenet_v2"),
        *("wrn_16_1", "vgg8", "shuffle_v1", "shuffle_v2", "mobilenet_v2_half"),
    ],
)
def test_every_batch_norm_is_replaced_and_nothing_else_changes(name: str) -> None:
    torch.manual_seed(0)
    made = build(name, 5, (3, 32, 32), {})
    before, parameters = (
        {key: value.clone() for key, value in made.state_dict().items()},
        list(made.parameters()),
    )
    synchronise(made, TrialContext(0, 2))
    norms = [
        module for module in made.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    assert norms and all(isinstance(module, SyncBatchNorm) for module in norms)
    assert all(old is new for old, new in zip(parameters, made.parameters(), strict=True))
    after = made.state_dict()
    assert before.keys() == after.keys() and all(
        torch.equal(after[key], value) for key, value in before.items()
    )


def test_batch_norm_that_computes_more_is_refused() -> None:
    class Scaled(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    with refused("sync_batch_norm", True, False):
        synchronise(nn.Sequential(Scaled(2)), TrialContext(0, 2))


def test_one_worker_keeps_torchs_own() -> None:
    made = synchronise(build("cnn", 5, (3, 32, 32), {}), TrialContext())
    assert not any(isinstance(module, SyncBatchNorm) for module in made.modules())
