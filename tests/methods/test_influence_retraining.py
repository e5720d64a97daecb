"""Test influence against retraining: logistic regression on digits with other sample weights."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from methods import influence
from methods.influence import LastLayer
from methods.sample_weighting import Part
from methods.sample_weights import auc, sample_weights
from methods.tempered_objective import Losses, Term

CLASSES, SAMPLES, DECAY = 5, 300, 1e-2
FLIPPED = slice(0, 45)


class Regression(NamedTuple):
    """Minimum of (1/n) sum_i w_i l_i + (decay / 2) |theta|^2 at w = 1, with held-out losses.

    The losses (m,) are those of the minima at w (m, n).
    """

    problem: LastLayer
    minimum: Tensor
    held_out_losses: Callable[[Tensor], Tensor]

    @property
    def phi(self) -> Tensor:
        return influence.scores(self.problem, influence.exact, DECAY).phi


def regression(soft: bool, decay: float = DECAY, flips: bool = False) -> Regression:
    """Return cross entropy, or a mix with KD from a smoothed teacher at temperature 3.

    With `flips` some labels are wrong.
    """
    data = load_digits(n_class=CLASSES)
    inputs, labels = torch.from_numpy(data.data).double() / 16, torch.from_numpy(data.target).long()
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    training, held_out = order[:SAMPLES], order[SAMPLES : SAMPLES + 200]
    known = labels[training].clone()
    if flips:
        known[FLIPPED] = (known[FLIPPED] + 1) % CLASSES
    one_hot = functional.one_hot(known, CLASSES).double()
    share = torch.full((SAMPLES,), 0.5 if soft else 1.0, dtype=torch.float64)
    terms = [Term(share, 1.0, one_hot)] + [Term(1 - share, 3.0, (one_hot + 0.3).softmax(1))] * soft
    losses, h = Losses(terms), inputs[training]

    def logits(layer: Tensor, of: Tensor) -> Tensor:
        matrix = layer.view(CLASSES, -1)
        return of @ matrix[:, :-1].T + matrix[:, -1]

    def objective(layer: Tensor, weights: Tensor) -> Tensor:
        hard = functional.cross_entropy(logits(layer, h), known, reduction="none")
        each = share * hard
        if soft:
            each = each + 9 * (1 - share) * functional.cross_entropy(
                logits(layer, h) / 3, terms[1].targets, reduction="none"
            )
        return (weights * each).mean() + decay / 2 * layer.square().sum()

    slope, hessian = torch.func.grad(objective), torch.func.hessian(objective)
    ones, minimum = torch.ones(SAMPLES).double(), torch.zeros(CLASSES * 65).double()
    for _ in range(12):  # Newton
        minimum = (
            minimum
            - torch.linalg.lstsq(
                hessian(minimum, ones), slope(minimum, ones), driver="gelsd"
            ).solution
        )
    assert slope(minimum, ones).abs().max() < 1e-10
    factor = torch.linalg.inv(hessian(minimum, ones)) if decay else torch.eye(0)

    def held_out_losses(weights: Tensor) -> Tensor:
        layers, slopes = minimum.expand(len(weights), -1), torch.func.vmap(slope)
        for _ in range(40):  # Newton with the Hessian at the start
            layers = layers - slopes(layers, weights) @ factor
        assert slopes(layers, weights).abs().max() < 1e-12
        of_one = functional.cross_entropy
        return torch.stack(
            [of_one(logits(layer, inputs[held_out]), labels[held_out]) for layer in layers]
        )

    problem = LastLayer(
        Part(logits(minimum, h), h, known),
        losses,
        Part(logits(minimum, inputs[held_out]), inputs[held_out], labels[held_out]),
        ones,
        1 << 20,
    )
    return Regression(problem, minimum, held_out_losses)


@pytest.fixture(scope="module", params=[False, True], ids=["labels", "distilled"])
def fitted(request: pytest.FixtureRequest) -> Regression:
    return regression(soft=request.param)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def test_influence_foresees_training_without_a_sample(fitted: Regression) -> None:
    left_out = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(1))[:60]
    weights = torch.ones(len(left_out) + 1, SAMPLES).double()
    weights[torch.arange(len(left_out)), left_out] = 0
    *without, before = fitted.held_out_losses(weights)
    foreseen, found = -fitted.phi[left_out] / SAMPLES, torch.stack(without) - before
    assert correlation(foreseen, found) > 0.95
    assert (
        correlation(foreseen.argsort().argsort().double(), found.argsort().argsort().double())
        > 0.95
    )
    assert 0.9 < float((foreseen @ found) / (foreseen @ foreseen)) < 1.3


def test_the_score_is_the_derivative_in_the_weight_of_a_sample(fitted: Regression) -> None:
    step, phi = 1e-4, fitted.phi
    chosen = phi.abs().topk(5).indices
    moved = step * functional.one_hot(chosen, SAMPLES).double()
    above, below = fitted.held_out_losses(1 + moved), fitted.held_out_losses(1 - moved)
    torch.testing.assert_close(
        (above - below) / (2 * step) * SAMPLES, phi[chosen], rtol=1e-3, atol=0
    )


def test_scores_sum_to_the_effect_of_the_decay(fitted: Regression) -> None:
    problem = fitted.problem
    direction = influence.exact(problem, problem.held_out_gradient(), DECAY).direction
    torch.testing.assert_close(fitted.phi.sum(), SAMPLES * DECAY * direction @ fitted.minimum)


def test_the_scores_sum_to_zero_at_a_minimum_without_decay() -> None:
    phi = regression(soft=True, decay=0).phi
    assert abs(float(phi.sum())) < 1e-6 * float(phi.abs().sum())


def test_wrong_labels_get_less_weight_and_the_released_sign_more() -> None:
    phi = regression(soft=False, flips=True).phi
    flipped = torch.zeros(SAMPLES, dtype=torch.bool)
    flipped[FLIPPED] = True
    assert auc(phi, flipped) > 0.85
    for by in ("sigmoid", "sigmoid_std", "exp", "hard"):
        weights, released = sample_weights(phi, by), sample_weights(phi, by, sign="released")
        assert weights[flipped].mean() < 0.8 * weights[~flipped].mean()
        assert released[flipped].mean() > released[~flipped].mean()
