"""Test the published points of TTM and WTTM against the published training, by trained weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import METHODS, Batch, Knowledge, Output, Task
from search_spaces import SPACES

SAMPLES, INPUTS, CLASSES, STEPS, SIZE = 64, 8, 10, 300, 16
MOMENTUM, DECAY = 0.9, 5e-4  # of the published CIFAR recipe
TABLE = {"ttm": 7.0, "wttm": 1.5}  # beta at gamma = 0.3, table 8, resnet56 -> resnet20


def task() -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, labels and the teacher's logits of all samples, in float64."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(SAMPLES, INPUTS, generator=generator, dtype=torch.float64)
    truth = 3 * torch.randn(INPUTS, CLASSES, generator=generator, dtype=torch.float64)
    logits = inputs @ truth
    return inputs, logits.argmax(1), logits


def trained(loss: Any, rate: float, decay: float) -> Tensor:
    """Return the weights of a small network after `STEPS` steps of SGD on loss(rows, logits)."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(INPUTS, 12), nn.Tanh(), nn.Linear(12, CLASSES)).double()
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=MOMENTUM, weight_decay=decay)
    inputs = task()[0]
    for step in range(STEPS):
        rows = torch.arange(SIZE) + SIZE * (step % (SAMPLES // SIZE))
        optimizer.zero_grad()
        loss(rows, network(inputs[rows])).backward()
        optimizer.step()
    return torch.cat([value.detach().flatten() for value in network.parameters()])


def by_method(name: str, settings: dict[str, Any]) -> Any:
    """Return the loss of a method with these settings."""
    _, labels, logits = task()
    kind = METHODS[name]
    method = kind(kind.Settings.build(settings))
    method.prepare(lambda: Knowledge(logits, None, labels), Task(CLASSES, SAMPLES, 1))

    def loss(rows: Tensor, student: Tensor) -> Tensor:
        batch = Batch(
            rows,
            student,
            labels[rows],
            Output(student, student),
            Output(logits[rows], logits[rows]),
        )
        found: Tensor = method(batch).loss
        return found

    return loss


def published(name: str) -> Any:
    """Return H(y, q) + beta U D(p^gamma / U || q), with U = sum of p^gamma (TTM: factor 1).

    Source: equations 2 and 23.
    """
    _, labels, logits = task()

    def loss(rows: Tensor, student: Tensor) -> Tensor:
        powers = logits[rows].softmax(1) ** 0.3
        total = powers.sum(1, keepdim=True)
        divergence = functional.kl_div(
            student.log_softmax(1), powers / total, reduction="none"
        ).sum(1)
        soft = (total[:, 0] * divergence if name == "wttm" else divergence).mean()
        return functional.cross_entropy(student, labels[rows]) + TABLE[name] * soft

    return loss


def point(name: str) -> tuple[dict[str, Any], float]:
    """Return the settings of the published point, and its learning rate."""
    values = dict(SPACES[name].points[1])
    return {key: value for key, value in values.items() if "." not in key}, values[
        "training.learning_rate"
    ]


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", TABLE)
def test_the_published_point_trains_the_published_weights(name: str) -> None:
    settings, rate = point(name)
    assert (
        apart(
            trained(by_method(name, settings), rate, DECAY), trained(published(name), 0.05, DECAY)
        )
        < 1e-10
    )


@pytest.mark.parametrize("name", ["kd", "ttm"])
def test_the_forms_are_one_training_where_the_decay_is_scaled_against_the_rate(name: str) -> None:
    """At rate / (1 - alpha) the convex form needs decay x (1 - alpha), not the recipe's decay."""
    temperature, alpha = 10 / 3, 21 / 31
    beta = alpha * (temperature if name == "ttm" else 1) / (1 - alpha)
    additive: dict[str, Any] = {"form": "additive", "temperature": temperature, "beta": beta}
    additive |= {"normalize": False} if name == "ttm" else {}
    whole = trained(by_method(name, additive), 0.05, 10 * DECAY)
    convex = by_method(name, {"temperature": temperature, "alpha": alpha})
    assert apart(trained(convex, 0.05 / (1 - alpha), 10 * DECAY * (1 - alpha)), whole) < 1e-10
    assert apart(trained(convex, 0.05 / (1 - alpha), 10 * DECAY), whole) > 0.01
