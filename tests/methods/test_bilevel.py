"""Test the held-out loss's slope after a virtual step against differences and a manual step."""

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from methods import Batch, LookAhead, Method, Output, Progress
from methods.akd import AKD
from methods.capabilities import LooksAhead
from methods.learnable import held_out_slope
from methods.weighted import AlphaWeightedMethod

INPUTS, CLASSES, RATE = 5, 10, 0.3
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(INPUTS, CLASSES),
    "tanh": lambda: nn.Sequential(nn.Linear(INPUTS, 7), nn.Tanh(), nn.Linear(7, CLASSES)),
    "batchnorm": lambda: nn.Sequential(
        nn.Linear(INPUTS, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, CLASSES)
    ),
}
every_network = pytest.mark.parametrize("network", NETWORKS)
every_method = pytest.mark.parametrize("name", ["kd", "ttm", "wttm", "akd"])


class Scene:
    """A network in float64, a training batch with its teacher's logits, and a held-out batch."""

    def __init__(self, network: str) -> None:
        torch.manual_seed(3)
        self.network = NETWORKS[network]().double().train()
        self.inputs, self.apart = torch.randn(12, INPUTS).double(), torch.randn(10, INPUTS).double()
        self.labels, self.held_out = torch.randint(CLASSES, (12,)), torch.randint(CLASSES, (10,))
        self.teacher = 2 * torch.randn(12, CLASSES).double()

    def batch(
        self, inputs: Tensor, labels: Tensor, teacher: Tensor | None
    ) -> Callable[[Mapping[str, Tensor]], Batch]:
        def at(parameters: Mapping[str, Tensor]) -> Batch:
            buffers = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
            logits = functional_call(self.network, {**parameters, **buffers}, (inputs,))
            teacher_output = None if teacher is None else Output(teacher, teacher)
            return Batch(
                torch.arange(len(labels)), inputs, labels, Output(logits, logits), teacher_output
            )

        return at

    def ahead(self) -> LookAhead:
        training = self.batch(self.inputs, self.labels, self.teacher)
        return LookAhead(
            dict(self.network.named_parameters()),
            training,
            self.batch(self.apart, self.held_out, None),
            learning_rate=RATE,
        )

    def after(self, method: AlphaWeightedMethod, alpha: float) -> float:
        """Return the held-out loss after one step of plain SGD, with copies and an optimizer."""
        student = copy.deepcopy(self.network)
        optimizer = torch.optim.SGD(student.parameters(), lr=RATE)
        logits = student(self.inputs)
        batch = Batch(
            torch.arange(12),
            self.inputs,
            self.labels,
            Output(logits, logits),
            Output(self.teacher, self.teacher),
        )
        terms = method._terms(batch)
        loss: Tensor = (1 - alpha) * functional.cross_entropy(
            logits, self.labels
        ) + alpha * terms.soft.mean()
        torch.autograd.backward(loss)
        optimizer.step()
        return functional.cross_entropy(student(self.apart), self.held_out).item()


def slope(
    scene: Scene,
    method: AlphaWeightedMethod,
    alpha: float,
    mean: Callable[[Tensor], Tensor] = lambda value: value,
) -> float:
    return held_out_slope(
        scene.ahead(), method._terms, torch.tensor(alpha, dtype=torch.float64), mean
    ).item()


@every_network
@every_method
@pytest.mark.parametrize("alpha", [0.0, 0.35, 0.9])
def test_the_slope_is_that_of_central_differences_over_whole_steps(
    network: str, name: str, alpha: float, prepare: Any
) -> None:
    scene, method = Scene(network), prepare(name)
    expected = (scene.after(method, alpha + 1e-5) - scene.after(method, alpha - 1e-5)) / 2e-5
    found = slope(scene, method, alpha)
    assert abs(expected) > 1e-4 and found == pytest.approx(expected, rel=1e-6)


@every_network
def test_the_slope_is_that_of_a_virtual_step_written_out(network: str, prepare: Any) -> None:
    """Hinton's loss written out, with the graph kept through the step and alpha as a leaf."""
    scene, method, alpha = (
        Scene(network),
        prepare("kd"),
        torch.tensor(0.6, dtype=torch.float64, requires_grad=True),
    )
    here = {
        name: value.detach().clone().requires_grad_()
        for name, value in scene.network.named_parameters()
    }
    buffers = {name: buffer.clone() for name, buffer in scene.network.named_buffers()}
    logits = functional_call(scene.network, {**here, **buffers}, (scene.inputs,))
    log_q, log_p = ((one / 4).log_softmax(1) for one in (logits, scene.teacher))
    soft = 16 * functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    loss = (1 - alpha) * functional.cross_entropy(logits, scene.labels) + alpha * soft
    gradients = torch.autograd.grad(loss, list(here.values()), create_graph=True)
    there = {
        name: value - RATE * gradient
        for (name, value), gradient in zip(here.items(), gradients, strict=True)
    }
    after = functional.cross_entropy(
        functional_call(scene.network, {**there, **buffers}, (scene.apart,)), scene.held_out
    )
    (expected,) = torch.autograd.grad(after, alpha)
    assert slope(scene, method, 0.6) == pytest.approx(expected.item(), rel=1e-9)


@every_network
def test_look_ahead_changes_no_state(network: str, prepare: Any) -> None:
    scene, method = Scene(network), bilevel(prepare)
    for parameter in scene.network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = {key: value.clone() for key, value in scene.network.state_dict().items()}
    method.look_ahead(scene.ahead())
    assert all(torch.equal(value, before[key]) for key, value in scene.network.state_dict().items())
    for parameter in scene.network.parameters():
        assert parameter.requires_grad and parameter.grad is not None and parameter.grad.eq(7).all()
    assert all(parameter.grad is None for parameter in method.parameters())


def test_parameters_that_do_not_touch_a_loss_are_allowed(prepare: Any) -> None:
    scene, method = Scene("tanh"), prepare("akd")
    expected = slope(scene, method, 0.4)
    scene.network.register_parameter("idle", nn.Parameter(torch.ones(3).double()))
    assert slope(scene, method, 0.4) == pytest.approx(expected, rel=1e-12)


def test_two_ranks_have_the_slope_of_the_whole_batch(prepare: Any) -> None:
    """The three gradients are averaged, not the slopes: a slope is not linear in them."""
    whole, halves = Scene("tanh"), [Scene("tanh"), Scene("tanh")]
    for rank, half in enumerate(halves):
        mine, apart = slice(6 * rank, 6 * rank + 6), slice(5 * rank, 5 * rank + 5)
        half.inputs, half.labels, half.teacher = (
            half.inputs[mine],
            half.labels[mine],
            half.teacher[mine],
        )
        half.apart, half.held_out = half.apart[apart], half.held_out[apart]
    alone = [slope(half, prepare("kd"), 0.4) for half in halves]
    met, rank_values = Barrier(2, timeout=30), [torch.zeros(0), torch.zeros(0)]

    def of_rank(number: int) -> float:
        def mean(value: Tensor) -> Tensor:
            rank_values[number] = value
            met.wait()
            both = (rank_values[0] + rank_values[1]) / 2
            met.wait()
            return both

        return slope(halves[number], prepare("kd"), 0.4, mean)

    with ThreadPoolExecutor(2) as ranks:
        found = list(ranks.map(of_rank, range(2)))
    expected = slope(whole, prepare("kd"), 0.4)
    assert found == pytest.approx([expected, expected], rel=1e-9)
    assert sum(alone) / 2 != pytest.approx(expected, rel=1e-2)


def bilevel(prepare: Any, **settings: Any) -> AKD:
    chosen = {"alpha_schedule": "learnable", "alpha_learnable": "bilevel", **settings}
    method: AKD = prepare("akd", **chosen).double()
    return method


def step(scene: Scene, method: Method) -> float:
    """Return the gradient of alpha's parameter in one real step."""
    method.zero_grad()
    parameters = dict(scene.network.named_parameters())
    method(scene.ahead().training(parameters)).loss.backward()
    (parameter,) = method.parameters()
    assert parameter.grad is not None
    return parameter.grad.item()


@pytest.mark.parametrize("logit", [-1.0, 0.5])
def test_only_the_step_after_a_look_ahead_gives_the_normalised_slope(
    logit: float, prepare: Any
) -> None:
    scene, method = Scene("batchnorm"), bilevel(prepare)
    (parameter,) = method.parameters()
    square = None
    for value in (logit, logit + 0.4, logit - 0.3):
        with torch.no_grad():
            parameter.fill_(value)
        alpha = parameter.detach().sigmoid().item()
        raw = alpha * (1 - alpha) * slope(scene, prepare("akd"), alpha)
        square = raw**2 if square is None else 0.9 * square + 0.1 * raw**2
        method.look_ahead(scene.ahead())
        assert step(scene, method) == pytest.approx(raw / square**0.5, rel=1e-7)
        assert step(scene, method) == 0 == step(scene, method)


def test_slope_does_not_change_the_loss_value(prepare: Any) -> None:
    scene, method = Scene("tanh"), bilevel(prepare)
    batch = scene.ahead().training(dict(scene.network.named_parameters()))
    without = method(batch).loss
    method.look_ahead(scene.ahead())
    assert torch.equal(method(batch).loss, without)


def test_following_the_slope_lowers_the_held_out_loss(prepare: Any) -> None:
    scene, method = Scene("tanh"), bilevel(prepare, alpha_min=0.01, alpha_max=0.99)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.15)
    for _ in range(60):
        optimizer.zero_grad()
        method.look_ahead(scene.ahead())
        step(scene, method)
        optimizer.step()
    (parameter,) = method.parameters()
    plain = prepare("akd")
    ends = [scene.after(plain, end) for end in (0.01, 0.25, 0.5, 0.75, 0.99)]
    assert scene.after(plain, parameter.detach().sigmoid().item()) <= min(ends) + 1e-3 < max(ends)


def test_only_bilevel_looks_ahead_at_the_configured_interval(prepare: Any) -> None:
    assert bilevel(prepare, alpha_every=7).look_ahead_interval == 7
    for settings in (
        {"alpha_schedule": "gap"},
        {"alpha_schedule": "learnable"},
        {"alpha_schedule": "linear"},
    ):
        assert prepare("akd", **settings).look_ahead_interval == 0
    assert not isinstance(prepare("cross_entropy"), LooksAhead)


def test_slope_is_not_saved_in_the_state(prepare: Any) -> None:
    """The state between two epochs holds the running size, not the slope of an old step."""
    scene, method, other = Scene("tanh"), bilevel(prepare), bilevel(prepare)
    method.look_ahead(scene.ahead())
    assert set(method.state_dict()) == {"alpha.logit", "alpha.square"}
    other.load_state_dict(method.state_dict())
    other.end_epoch(Progress(1, 3, {}))
    assert step(scene, other) == 0
