"""Test maps from scores to weights, and the area under the ROC curve by counting pairs."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from methods.sample_weights import MAPS, auc, clip_scores, sample_weights

EVERY = pytest.mark.parametrize("by", list(MAPS))


def scores(seed: int = 0, size: int = 80) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3 - 0.5


def test_the_maps_are_their_formulas() -> None:
    phi = scores().double()
    low, high = phi.min(), phi.max()
    expected = {
        "sigmoid": 1 / (1 + (5 * phi / (high - low)).exp()),
        "sigmoid_std": 1 / (1 + (phi / ((phi - phi.mean()).square().mean().sqrt())).exp()),
        "exp": (-(2 * (phi - low) / (high - low) - 1)).exp(),
        "hard": (phi <= 0).double(),
    }
    assert set(expected) == set(MAPS)
    for by, weights in expected.items():
        torch.testing.assert_close(
            sample_weights(phi, by, sharpness=5.0), (weights / weights.mean()).float()
        )


@EVERY
def test_weights_are_positive_of_mean_one_and_fall_with_the_score(by: str) -> None:
    phi = scores()
    weights = sample_weights(phi, by)[phi.argsort()]
    assert weights.dtype == torch.float32
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    assert (weights.diff() <= 0).all()
    assert weights[0] > weights[-1]
    assert by == "hard" or weights.min() > 0


@EVERY
@pytest.mark.parametrize("scale", [1e-12, 7.0, 1e12])
def test_a_scale_of_the_scores_changes_nothing(by: str, scale: float) -> None:
    torch.testing.assert_close(
        sample_weights(scale * scores().double(), by), sample_weights(scores().double(), by)
    )


@EVERY
def test_the_released_sign_is_that_of_the_negated_scores(by: str) -> None:
    torch.testing.assert_close(
        sample_weights(scores(), by, sign="released"), sample_weights(-scores(), by)
    )


def test_a_larger_sharpness_sets_the_weights_further_apart() -> None:
    blunt, sharp = (sample_weights(scores(), sharpness=k).std() for k in (2.0, 20.0))
    assert blunt < sharp


@EVERY
@pytest.mark.parametrize("value", [-2.0, 0.0, 3.0])
def test_scores_that_are_all_the_same_give_weight_one(by: str, value: float) -> None:
    assert torch.equal(sample_weights(torch.full((9,), value), by), torch.ones(9))


@EVERY
def test_no_sample_and_one_sample_have_weight_one(by: str) -> None:
    assert torch.equal(sample_weights(torch.zeros(0), by), torch.zeros(0))
    assert torch.equal(sample_weights(torch.tensor([2.0]), by), torch.ones(1))


def test_hard_map_gives_weight_one_if_all_samples_harm() -> None:
    assert torch.equal(sample_weights(scores().abs() + 1, "hard"), torch.ones(80))
    assert torch.equal(sample_weights(-scores().abs() - 1, "hard"), torch.ones(80))


@EVERY
def test_unscored_and_excluded_samples_have_weight_one(by: str) -> None:
    phi, weighed = scores(), torch.ones(80, dtype=torch.bool)
    phi[:3], weighed[3:10] = torch.tensor([math.nan, math.inf, -math.inf]), False
    weights = sample_weights(phi, by, weighed=weighed)
    assert torch.equal(weights[:10], torch.ones(10))
    torch.testing.assert_close(weights[10:], sample_weights(phi[10:], by))
    assert torch.equal(sample_weights(torch.full((5,), math.nan), by), torch.ones(5))


@EVERY
def test_scores_far_from_zero_and_near_each_other_keep_their_order(by: str) -> None:
    weights = sample_weights(torch.linspace(1e6, 1e6 + 1, 50, dtype=torch.float64), by)
    assert weights.isfinite().all()
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert (weights.diff() <= 0).all()


def test_an_outlier_does_not_decide_the_range() -> None:
    phi = scores(size=300)
    spoiled = phi.clone()
    spoiled[0] = 1e9
    for by in ("sigmoid", "exp"):
        others = sample_weights(spoiled, by)[1:]
        torch.testing.assert_close(others, sample_weights(phi, by)[1:], rtol=0.2, atol=0.1)


def test_the_outer_hundredths_are_clipped() -> None:
    phi = torch.arange(200.0)[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(clip_scores(phi), phi.clamp(2, 197))
    assert torch.equal(clip_scores(phi[:50]), phi[:50])


def test_auc_is_that_of_scikit_learn_ties_included() -> None:
    generator = torch.Generator().manual_seed(0)
    rough = torch.randint(6, (200,), generator=generator).float()
    positive = torch.rand(200, generator=generator) < 0.3
    expected = roc_auc_score(positive.numpy(), rough.numpy())
    assert auc(rough, positive) == pytest.approx(expected)
    assert auc(-rough, positive) == pytest.approx(1 - expected)


def test_auc_excludes_samples_without_a_score() -> None:
    values, positive = (
        torch.tensor([0.0, 1.0, math.nan, 2.0]),
        torch.tensor([False, True, False, True]),
    )
    assert auc(values, positive) == 1
    assert math.isnan(auc(values, torch.tensor([False, False, True, False])))
