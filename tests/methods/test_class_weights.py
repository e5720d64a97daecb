"""Test class weights: torch's weighted mean, on the labels of every method alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, Mix, Output
from methods.capabilities import WeightsSamples
from orchestrator.extensions.method_checks import CLASSES
from tests.methods.test_ranks import SIZE, WORLD, Ranks, part

WEIGHTS = torch.linspace(0.5, 3, CLASSES)
# weight of the cross entropy of the labels in the objective
LABEL_TERMS: dict[tuple[str, Any], float] = {
    ("cross_entropy", ()): 1,
    ("kd", (("alpha", 0.3),)): 0.7,
    ("kd", (("form", "additive"),)): 1,
    ("ttm", (("form", "additive"), ("normalize", False))): 1,
    ("wttm", (("form", "additive"), ("normalize", False))): 1,
    ("akd", (("alpha_schedule", "constant"), ("alpha", 0.4), ("cam", True))): 0.6,
    ("dml", ()): 1,
    ("dual_student", (("lambda_ce", 0.3),)): 0.3,
    ("ic_kd", (("alpha", 0.9),)): 0.1,
    ("tf_kd", (("alpha", 0.1),)): 0.9,
    ("tf_kd", (("alpha", 0.1), ("form", "released"))): 0.9,
    ("fitnet", (("alpha", 0.2),)): 0.8,
    ("attention_transfer", ()): 1,
    ("attention_transfer", (("alpha", 1.0), ("form", "additive"))): 1,
    ("crd", (("alpha", 0.2),)): 0.8,
    ("review_kd", ()): 1,
    ("dkd", ()): 1,
    ("dist", ()): 1,
    ("mlkd", ()): 0.1,
}


@pytest.fixture
def batch(prepare: Any, make_batch: Any) -> Batch:
    made: Batch = make_batch(prepare("cross_entropy"), 40)
    return replace(made, labels=torch.where(torch.arange(40) % 5 == 0, -1, made.labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_mean_is_that_of_torch(batch: Batch, smoothing: float) -> None:
    expected = functional.cross_entropy(
        batch.student.logits,
        batch.labels,
        weight=WEIGHTS,
        ignore_index=-1,
        label_smoothing=smoothing,
    )
    weighted = replace(batch, class_weights=WEIGHTS)
    torch.testing.assert_close(weighted.cross_entropy(smoothing), expected)
    double = Output(batch.student.logits.double(), batch.student.features)
    assert replace(weighted, student=double).cross_entropy().dtype == torch.float64
    if not smoothing:
        torch.testing.assert_close(weighted.cross_entropies().mean(), expected)


def test_equal_weights_are_none_to_the_bit_and_their_scale_has_no_effect(batch: Batch) -> None:
    ones = replace(batch, class_weights=torch.ones(CLASSES))
    assert torch.equal(ones.cross_entropy(0.1), batch.cross_entropy(0.1))
    assert torch.equal(ones.cross_entropies(), batch.cross_entropies())
    scaled = replace(batch, class_weights=4 * WEIGHTS)
    torch.testing.assert_close(
        scaled.cross_entropy(), replace(batch, class_weights=WEIGHTS).cross_entropy()
    )


def test_a_whole_weight_repeats_the_samples_of_its_class(batch: Batch) -> None:
    counts = torch.arange(CLASSES) % 3 + 1
    labels = batch.labels.clamp(min=0)
    index = torch.arange(len(labels)).repeat_interleave(counts[labels])
    repeated = replace(
        batch, labels=batch.labels[index], student=Output(*(each[index] for each in batch.student))
    )
    torch.testing.assert_close(
        replace(batch, class_weights=counts.float()).cross_entropy(), repeated.cross_entropy()
    )


def test_blended_labels_count_by_share_and_weight(batch: Batch) -> None:
    share = torch.rand(40, generator=torch.Generator().manual_seed(1))
    mix = Mix(batch.labels.roll(3), share)
    ends = [
        functional.cross_entropy(
            batch.student.logits, labels, weight=WEIGHTS, ignore_index=-1, reduction="none"
        )
        for labels in (batch.labels, mix.labels)
    ]
    weights = [
        WEIGHTS[labels.clamp(min=0)] * (labels != -1) for labels in (batch.labels, mix.labels)
    ]
    total = (share * ends[0] + (1 - share) * ends[1]).sum()
    expected = total / (share * weights[0] + (1 - share) * weights[1]).sum()
    torch.testing.assert_close(
        replace(batch, mix=mix, class_weights=WEIGHTS).cross_entropy(), expected
    )


def test_every_method_that_accepts_class_weights_is_tested() -> None:
    weighting = {name for name, kind in METHODS.items() if issubclass(kind, WeightsSamples)}
    assert {name for name, _ in LABEL_TERMS} == set(METHODS) - weighting


@pytest.mark.parametrize(("case", "factor"), LABEL_TERMS.items(), ids=str)
def test_class_weights_change_the_label_term_alone(
    case: tuple[str, Any], factor: float, prepare: Any, make_batch: Any
) -> None:
    name, settings = case
    plain = make_batch(prepare(name, **dict(settings)))
    weighted = replace(plain, class_weights=WEIGHTS)
    found = [prepare(name, **dict(settings))(each).loss for each in (plain, weighted)]
    expected = factor * (weighted.cross_entropy() - plain.cross_entropy())
    torch.testing.assert_close(found[1] - found[0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "akd"])
def test_ranks_have_the_gradient_of_the_whole_batch(
    name: str, prepare: Any, make_batch: Any
) -> None:
    method = prepare(name, **({"alpha_schedule": "constant"} if name == "akd" else {}))
    batch = replace(make_batch(method, SIZE), class_weights=WEIGHTS)
    logits, ranks = batch.student.logits, Ranks()
    (expected,) = torch.autograd.grad(method(batch).loss, logits)

    def work(rank: int) -> Tensor:
        own = replace(part(batch, rank, ranks.mean), class_weights=WEIGHTS)
        gradient: Tensor = torch.autograd.grad(method(own).loss, logits)[0]
        return gradient

    found = torch.stack(ranks.play(work))
    assert len(found) == WORLD
    torch.testing.assert_close(found.mean(0), expected, rtol=1e-4, atol=1e-6)
