"""Test objective terms, last layer and estimators against autograd and dense solves, float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import influence
from methods.influence import DivergedError, LastLayer, Problem, Solution
from methods.sample_weighting import Part
from methods.tempered_objective import Losses, Term

SAMPLES, HELD_OUT, CLASSES, FEATURES = 60, 20, 4, 6
ALL = slice(0, SAMPLES)
DAMPING = 1e-2


class Small(NamedTuple):
    """A small network with data, its objective in torch's own losses, and the same as a problem."""

    network: nn.Sequential
    inputs: Tensor
    losses: Losses
    loss_of: Callable[[Tensor], Tensor]
    weights: Tensor
    held_out: tuple[Tensor, Tensor]

    def objective(self, parameters: dict[str, Tensor]) -> Tensor:
        return (self.weights * self.loss_of(self.logits(parameters, self.inputs))).mean()

    def logits(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        found = torch.func.functional_call(self.network, parameters, (inputs,))
        assert isinstance(found, Tensor)
        return found

    def part(self, inputs: Tensor, labels: Tensor) -> Part:
        features = self.network[:-1](inputs).detach()
        return Part(self.network[-1](features).detach(), features, labels)

    def problem(self, limit_bytes: int = 1 << 20) -> LastLayer:
        training = self.part(self.inputs, torch.full((len(self.inputs),), -1))
        return LastLayer(
            training, self.losses, self.part(*self.held_out), self.weights, limit_bytes
        )

    def last(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach()
            for name, tensor in self.network.named_parameters()
            if name.startswith("2.")
        }


@pytest.fixture(scope="module")
def small() -> Small:
    torch.manual_seed(0)
    network = (
        nn.Sequential(nn.Linear(5, FEATURES), nn.Tanh(), nn.Linear(FEATURES, CLASSES))
        .double()
        .requires_grad_(False)
    )
    inputs, held_out = torch.randn(SAMPLES, 5).double(), torch.randn(HELD_OUT, 5).double()
    labels, teacher = torch.randint(CLASSES, (SAMPLES,)), 3 * torch.randn(SAMPLES, CLASSES).double()
    hard, soft = torch.rand(SAMPLES).double(), torch.rand(SAMPLES).double()
    hard[:5] = 0  # as for a missing label
    one_hot = functional.one_hot(labels, CLASSES).double()
    losses = Losses([Term(hard, 1.0, one_hot), Term(soft, 3.0, (teacher / 3).softmax(1))])

    def loss_of(logits: Tensor) -> Tensor:
        soft_targets = (teacher / 3).softmax(1)
        divergence = functional.kl_div(
            (logits / 3).log_softmax(1), soft_targets, reduction="none"
        ).sum(1)
        return (
            hard * functional.cross_entropy(logits, labels, reduction="none")
            + soft * 9 * divergence
        )

    known = torch.randint(CLASSES, (HELD_OUT,))
    known[3] = -1
    return Small(
        network, inputs, losses, loss_of, 2 * torch.rand(SAMPLES).double(), (held_out, known)
    )


def flat(parameters: Any) -> Tensor:
    """Return weight (K, D) and bias (K,) as (K, D + 1), row by row."""
    return torch.cat([parameters["2.weight"], parameters["2.bias"][:, None]], dim=1).flatten()


def dense(small: Small) -> Tensor:
    """Return the Hessian of the real objective in the last layer, in the problem's order."""

    def objective(layer: Tensor) -> Tensor:
        matrix = layer.view(CLASSES, FEATURES + 1)
        return small.objective({"2.weight": matrix[:, :-1], "2.bias": matrix[:, -1]})

    found = torch.func.hessian(objective)(flat(small.last()))
    assert isinstance(found, Tensor)
    return found


def rank_correlation(one: Tensor, other: Tensor) -> float:
    ranks = torch.stack([one.argsort().argsort(), other.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def test_losses_are_those_of_torch_up_to_a_constant(small: Small) -> None:
    one, other = (torch.randn(SAMPLES, CLASSES).double() for _ in range(2))
    found = small.losses.values(one, ALL) - small.losses.values(other, ALL)
    torch.testing.assert_close(found, small.loss_of(one) - small.loss_of(other))


def test_gradients_and_curvature_are_the_derivatives_of_the_losses(small: Small) -> None:
    logits, directions = (torch.randn(SAMPLES, CLASSES).double() for _ in range(2))
    slope = torch.func.grad(lambda z: small.loss_of(z).sum())
    expected, bent = torch.func.jvp(slope, (logits,), (directions,))[:2]
    torch.testing.assert_close(small.losses.gradients(logits, ALL), expected)
    torch.testing.assert_close(small.losses.curvature(logits, directions, ALL), bent)


def test_rows_say_which_samples(small: Small) -> None:
    logits, directions, rows = (
        torch.randn(SAMPLES, CLASSES).double(),
        torch.randn(SAMPLES, CLASSES).double(),
        slice(7, 30),
    )
    for of in (small.losses.values, small.losses.gradients):
        torch.testing.assert_close(of(logits[rows], rows), of(logits, ALL)[rows])
    bent = small.losses.curvature(logits[rows], directions[rows], rows)
    torch.testing.assert_close(bent, small.losses.curvature(logits, directions, ALL)[rows])


def test_the_sum_of_curvatures_is_that_of_single_ones(small: Small) -> None:
    logits = torch.randn(SAMPLES, CLASSES).double()
    columns = [
        (
            small.losses.curvature(logits, unit.expand(SAMPLES, -1), ALL) * small.weights[:, None]
        ).sum(0)
        for unit in torch.eye(CLASSES, dtype=torch.float64)
    ]
    torch.testing.assert_close(
        small.losses.curvature_sum(logits, small.weights, ALL), torch.stack(columns)
    )
    weighted = (small.losses.curvature_traces(logits, ALL) * small.weights).sum()
    torch.testing.assert_close(weighted, torch.stack(columns).trace())


def test_drawn_gradients_have_the_covariance_of_the_curvature() -> None:
    draws = 40_000
    logits = torch.tensor([[1.0, -1.0, 0.5]]).double().expand(draws, -1)
    targets = torch.full((draws, 3), 1 / 3).double()
    losses = Losses(
        [
            Term(torch.full((draws,), 0.7).double(), 1.0, targets),
            Term(torch.full((draws,), 2.0).double(), 2.0, targets),
        ]
    )
    drawn = losses.drawn_gradients(logits, slice(0, draws), torch.Generator().manual_seed(0))
    expected = sum(
        weight * (q.diag() - q.outer(q))
        for weight, q in ((0.7, logits[0].softmax(0)), (2.0, (logits[0] / 2).softmax(0)))
    )
    torch.testing.assert_close(drawn.T @ drawn / draws, expected, rtol=0.03, atol=0.01)
    assert drawn.mean(0).abs().max() < 0.02


@pytest.mark.parametrize("limit_bytes", [1, 3000, 1 << 20])
def test_last_layer_is_the_block_of_the_real_objective(small: Small, limit_bytes: int) -> None:
    problem, hessian = small.problem(limit_bytes), dense(small)
    assert (problem.size, problem.samples) == (CLASSES * (FEATURES + 1), SAMPLES)
    torch.testing.assert_close(problem.matrix(), hessian)
    torch.testing.assert_close(Problem.matrix(problem), hessian)
    vector = torch.randn(problem.size).double()
    torch.testing.assert_close(problem.product(vector), hessian @ vector)


@pytest.mark.parametrize("limit_bytes", [1, 1 << 20])
def test_along_is_the_product_with_every_samples_gradient(small: Small, limit_bytes: int) -> None:
    problem = small.problem(limit_bytes)
    gradients = torch.stack(
        [
            flat(
                torch.func.grad(
                    lambda last, one=one: small.loss_of(small.logits(last, small.inputs))[one]
                )(small.last())
            )
            for one in range(SAMPLES)
        ]
    )
    vector = torch.randn(problem.size).double()
    torch.testing.assert_close(problem.directional_derivatives(vector), gradients @ vector)
    torch.testing.assert_close(problem.gradients(slice(10, 20)), gradients[10:20])


def test_the_held_out_gradient_is_of_the_labelled(small: Small) -> None:
    inputs, labels = small.held_out

    def loss(last: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(small.logits(last, inputs), labels, ignore_index=-1)

    torch.testing.assert_close(
        small.problem().held_out_gradient(), flat(torch.func.grad(loss)(small.last()))
    )


def solved(small: Small) -> Tensor:
    """Return phi by dense linear algebra on autograd's Hessian."""
    problem = small.problem()
    system = dense(small) + DAMPING * torch.eye(problem.size, dtype=torch.float64)
    return -problem.directional_derivatives(torch.linalg.solve(system, problem.held_out_gradient()))


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (influence.exact, {}),
        (influence.last_layer, {}),
        (influence.cg, {"tolerance": 1e-13}),
        (influence.lissa, {"tolerance": 1e-12}),
    ],
)
def test_estimators_solve_the_damped_system(
    small: Small, estimator: influence.Estimator, options: dict[str, Any]
) -> None:
    found = influence.scores(small.problem(), estimator, DAMPING, **options)
    torch.testing.assert_close(found.phi, solved(small), rtol=1e-9, atol=1e-10)
    assert found.residual is not None
    assert found.residual < 1e-11


def test_a_large_last_layer_is_solved_by_conjugate_gradients(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influence, "MAX_EXACT_SIZE", 1)
    found = influence.scores(small.problem(), influence.last_layer, DAMPING)
    assert found.iterations > 1
    torch.testing.assert_close(found.phi, solved(small), rtol=1e-3, atol=1e-4)


def test_conjugate_gradients_end_after_as_many_steps_as_there_are_parameters(small: Small) -> None:
    problem = small.problem()
    assert (
        influence.cg(problem, problem.held_out_gradient(), 1.0, tolerance=1e-12).iterations
        <= problem.size
    )
    assert influence.cg(problem, problem.held_out_gradient(), DAMPING, largest=3).iterations == 3


def test_a_preconditioner_changes_the_way_and_not_the_solution(small: Small) -> None:
    problem = small.problem()
    gradient = problem.held_out_gradient()
    plain = influence.cg(problem, gradient, DAMPING, tolerance=1e-13)
    helped = influence.cg(
        problem, gradient, DAMPING, tolerance=1e-13, preconditioner=problem.preconditioner(DAMPING)
    )
    torch.testing.assert_close(helped.direction, plain.direction)


def test_the_preconditioner_is_the_inverse_where_all_samples_are_alike(small: Small) -> None:
    one = small.part(small.inputs[:1], torch.tensor([0]))
    alike = Part(*(tensor.expand(SAMPLES, *tensor.shape[1:]) for tensor in one))
    flat_targets = torch.full((SAMPLES, CLASSES), 1 / CLASSES).double()
    losses = Losses([Term(torch.ones(SAMPLES).double(), 2.0, flat_targets)])
    problem = LastLayer(alike, losses, alike, small.weights, 1 << 20)
    vector = torch.randn(problem.size).double()
    found = problem.preconditioner(DAMPING)(vector)
    torch.testing.assert_close(problem.product(found) + DAMPING * found, vector)


def test_one_step_of_lissa_ranks_like_no_curvature_and_not_like_the_solution(small: Small) -> None:
    problem = small.problem()
    once = influence.scores(problem, influence.lissa, DAMPING, depth=1).phi
    identity = influence.scores(problem, influence.identity, DAMPING)
    assert identity.residual is None
    torch.testing.assert_close(
        identity.phi, -problem.directional_derivatives(problem.held_out_gradient())
    )
    assert rank_correlation(once, identity.phi) > 0.98
    assert rank_correlation(solved(small), identity.phi) < 0.95


def test_the_largest_eigenvalue_is_that_of_the_matrix(small: Small) -> None:
    problem = small.problem()
    found = influence.largest_eigenvalue(problem, problem.held_out_gradient())
    assert found == pytest.approx(float(torch.linalg.eigvalsh(dense(small)).max()), rel=0.02)


def test_lissa_notices_a_scale_that_is_too_small(small: Small) -> None:
    problem = small.problem()
    scale = 0.4 * influence.largest_eigenvalue(problem, problem.held_out_gradient())
    with pytest.raises(DivergedError, match="scale"):
        influence.scores(problem, influence.lissa, DAMPING, scale=scale)


@pytest.mark.parametrize("estimator", [influence.exact, influence.cg])
def test_curvature_that_is_not_positive_is_refused(
    small: Small, estimator: influence.Estimator
) -> None:
    with pytest.raises(DivergedError, match="damping"):
        influence.scores(small.problem(), estimator, -100.0)


@pytest.mark.parametrize(
    "estimator",
    [influence.exact, influence.cg, influence.lissa, influence.identity, influence.last_layer],
)
def test_flat_held_out_loss_gives_no_influence(
    small: Small, estimator: influence.Estimator
) -> None:
    problem = small.problem()
    found: Solution = estimator(problem, torch.zeros(problem.size).double(), DAMPING)
    assert torch.equal(found.direction, torch.zeros(problem.size).double())


def test_only_exact_estimator_needs_memory_for_a_matrix() -> None:
    size = 100 * 513
    assert influence.needed_bytes("exact", 50_000, 100, 512, size) > 2 * 8 * size**2 - 1
    assert influence.needed_bytes("last_layer", 50_000, 100, 512, size) < 100e6
    for name in ("cg", "lissa", "identity"):
        assert influence.needed_bytes(name, 50_000, 100, 512, size) < 10e6
    assert influence.needed_bytes("last_layer", 500, 10, 64, 650) == influence.needed_bytes(
        "exact", 500, 10, 64, 650
    )
