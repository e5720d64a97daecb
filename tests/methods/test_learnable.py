"""Test a trained alpha: its fixed point for constant terms, and the loss that trains it."""

import math
from typing import Any

import pytest
import torch

from methods import Method
from methods.alpha import Terms
from methods.weighted import AlphaWeightedMethod

TERMS = [(1.0, 1.0), (0.5, 2.0), (3.0, 0.7), (0.02, 0.05)]
steady = pytest.mark.parametrize(("hard", "soft"), TERMS)


@pytest.fixture
def learnable(prepare: Any) -> Any:
    """Return a function that builds AKD with a learnable alpha, in float64, almost unclamped."""

    def make(name: str, **settings: Any) -> Method:
        chosen = {
            "alpha_schedule": "learnable",
            "alpha_learnable": name,
            "alpha_min": 1e-4,
            "alpha_max": 1 - 1e-4,
            **settings,
        }
        method: Method = prepare("akd", **chosen).double()
        return method

    return make


def settled(
    method: Method, make_batch: Any, hard: float, soft: float, steps: int = 250, rate: float = 0.5
) -> float:
    """Return alpha after its own optimizer has seen constant terms."""
    assert isinstance(method, AlphaWeightedMethod)
    batch = make_batch(method)
    terms = Terms(
        torch.tensor(hard).double(),
        torch.tensor([soft / 2, 1.5 * soft]).double(),
        torch.ones(2).double(),
    )
    optimizer = torch.optim.SGD(method.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        weighed = method.alpha(batch, terms)
        weighed.total.backward()
        optimizer.step()
    return float(weighed.tracked["alpha"])


@steady
@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_the_entropy_ends_at_its_fixed_point(
    hard: float, soft: float, tau: float, learnable: Any, make_batch: Any
) -> None:
    """In losses of mean one: the difference over (CE + soft) / 2, over tau."""
    expected = 1 / (1 + math.exp(-(hard - soft) / ((hard + soft) / 2) / tau))
    assert settled(
        learnable("entropy", alpha_tau=tau), make_batch, hard, soft, rate=2.0
    ) == pytest.approx(expected, abs=1e-6)


@steady
def test_the_uncertainties_end_at_the_share_of_the_other_term(
    hard: float, soft: float, learnable: Any, make_batch: Any
) -> None:
    method = learnable("uncertainty")
    assert settled(method, make_batch, hard, soft) == pytest.approx(hard / (hard + soft), abs=1e-6)
    expected = torch.tensor([hard, soft], dtype=torch.float64).log()
    torch.testing.assert_close(method.alpha.log_variances.detach(), expected, rtol=0, atol=1e-5)


@steady
@pytest.mark.parametrize("degrees", [0.5, 4.0])
def test_bayes_ends_at_half_its_degrees_over_the_soft_term(
    hard: float, soft: float, degrees: float, learnable: Any, make_batch: Any
) -> None:
    beta = degrees / (2 * soft)
    found = settled(learnable("bayes", alpha_degrees=degrees), make_batch, hard, soft)
    assert found == pytest.approx(beta / (1 + beta), abs=1e-6)


@pytest.mark.parametrize(
    ("hard", "soft", "end"), [(2.0, 0.5, 0.8), (0.5, 2.0, 0.3), (1.0, 1.0, 0.5)]
)
def test_raw_goes_to_the_end_of_the_smaller_term(
    hard: float, soft: float, end: float, learnable: Any, make_batch: Any
) -> None:
    method = learnable("raw", alpha_min=0.3, alpha_max=0.8)
    assert settled(method, make_batch, hard, soft, steps=300) == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize("name", ["uncertainty", "entropy", "bayes"])
def test_gradient_of_alpha_equals_differences_of_its_objective(
    name: str, learnable: Any, make_batch: Any
) -> None:
    """The published sums, written out, at terms of 2 and 0.6 nats."""
    hard, soft = 2.0, 0.6
    scale = (hard + soft) / 2

    def published(value: list[float]) -> float:
        if name == "uncertainty":
            return math.exp(-value[0]) * hard + math.exp(-value[1]) * soft + sum(value)
        if name == "bayes":
            return hard + math.exp(value[0]) * soft - 1.5 * value[0]
        alpha = 1 / (1 + math.exp(-value[0]))
        entropy = -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)
        return ((1 - alpha) * hard + alpha * soft) / scale - 0.7 * entropy

    method = learnable(name, alpha_degrees=3.0, alpha_tau=0.7)
    (parameter,) = method.parameters()
    start = [0.4, -0.3][: parameter.numel()]
    with torch.no_grad():
        parameter.copy_(torch.tensor(start).reshape(parameter.shape))
    terms = Terms(
        torch.tensor(hard).double(), torch.full((4,), soft).double(), torch.ones(4).double()
    )
    method.alpha(make_batch(method), terms).total.backward()
    for position, slope in enumerate(parameter.grad.flatten().tolist()):
        up, down = (
            [v + sign * 1e-5 * (i == position) for i, v in enumerate(start)] for sign in (1, -1)
        )
        assert slope == pytest.approx((published(up) - published(down)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", ["raw", "uncertainty", "entropy", "bayes", "bilevel"])
def test_alpha_is_one_group_at_a_constant_rate_of_its_own(name: str, learnable: Any) -> None:
    method = learnable(name, alpha_learning_rate=0.007)
    (group,) = method.parameter_groups()
    assert group.learning_rate == 0.007 and not group.scheduled
    assert {id(one) for one in group.parameters} == {id(one) for one in method.parameters()}


@pytest.mark.parametrize("name", ["raw", "uncertainty", "entropy", "bayes", "bilevel"])
@pytest.mark.parametrize("labelled", [True, False])
def test_every_parameter_gets_a_gradient_from_every_batch(
    name: str, labelled: bool, prepare: Any, make_batch: Any
) -> None:
    """Replicas wait for the gradients of all parameters."""
    method = prepare("akd", alpha_schedule="learnable", alpha_learnable=name, cam=True)
    batch = make_batch(method)
    if not labelled:
        batch.labels.fill_(-1)
    method(batch).loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in method.parameters()
    )


def test_the_entropy_measures_its_losses_by_the_mean_of_all_ranks(
    learnable: Any, make_batch: Any
) -> None:
    method, averaged = learnable("entropy"), list[float]()

    def mean(value: torch.Tensor) -> torch.Tensor:
        averaged.append(float(value))
        return torch.full_like(value, 5.0)

    method.alpha.task = method.alpha.task.__class__(10, 24, 3, mean)
    terms = Terms(torch.tensor(2.0), torch.tensor([1.0]), torch.tensor([1.0]))
    method.alpha(make_batch(method), terms)
    assert averaged == [1.5] and float(method.alpha.scale) == 5.0
