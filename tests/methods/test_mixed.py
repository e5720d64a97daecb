"""Test that the labels of blended samples count by their shares, for every method."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import METHODS, Batch, Method, Mix, Objective, losses

SIZE = 8
PARTNERS = torch.arange(SIZE).roll(3)
every_method = pytest.mark.parametrize("name", METHODS)


def mixed(batch: Batch, share: float | Tensor, partners: Tensor | None = None) -> Batch:
    """Return the batch blended with partners; `share` is that of each sample's own label."""
    labels = batch.labels[PARTNERS] if partners is None else partners
    return replace(batch, mix=Mix(labels, torch.as_tensor(share, dtype=torch.float32).expand(SIZE)))


def with_fixed_weights(name: str, prepare: Any) -> Method:
    """Return the method with a label weight that does not depend on the labels.

    It is then linear in the labels.
    """
    has_alpha = "alpha_schedule" in METHODS[name].Settings.model_fields
    fixed: Method = prepare(name, **({"alpha_schedule": "constant"} if has_alpha else {}))
    return fixed


def loss(method: Method, batch: Batch) -> Tensor:
    """Return the loss of a first step; a step may change the state of its method."""
    objective: Objective = copy.deepcopy(method)(batch)
    return objective.loss


# settings without the terms in which labels count otherwise than in the cross entropy
CROSS_ENTROPY_ALONE = {"dkd": {"alpha": 0.0, "beta": 0.0}}


def some_unlabelled(batch: Batch) -> Batch:
    return replace(batch, labels=torch.where(torch.arange(SIZE) % 3 == 0, -1, batch.labels))


def test_without_a_mix_the_cross_entropy_is_the_plain_one_to_the_bit(
    prepare: Any, make_batch: Any
) -> None:
    batch = some_unlabelled(make_batch(prepare("cross_entropy")))
    for smoothing in (0.0, 0.1):
        plain = losses.cross_entropy(batch.student.logits, batch.labels, smoothing)
        assert torch.equal(batch.cross_entropy(smoothing), plain)


@every_method
def test_a_share_of_one_is_no_mix(name: str, prepare: Any, make_batch: Any) -> None:
    for batch in (make_batch(prepare(name)), some_unlabelled(make_batch(prepare(name)))):
        plain, whole = prepare(name)(batch), prepare(name)(mixed(batch, 1.0))
        torch.testing.assert_close(whole.loss, plain.loss)
        torch.testing.assert_close(whole.terms, plain.terms)


@every_method
def test_a_share_of_zero_is_the_label_of_the_partner(
    name: str, prepare: Any, make_batch: Any
) -> None:
    for batch in (make_batch(prepare(name)), some_unlabelled(make_batch(prepare(name)))):
        partner, nothing = (
            prepare(name)(replace(batch, labels=batch.labels[PARTNERS])),
            prepare(name)(mixed(batch, 0.0)),
        )
        torch.testing.assert_close(nothing.loss, partner.loss)
        torch.testing.assert_close(nothing.terms, partner.terms)


@every_method
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_loss_is_linear_in_the_share(
    name: str, share: float, prepare: Any, make_batch: Any
) -> None:
    method = with_fixed_weights(name, prepare)
    batch = make_batch(method)
    own, partner = (loss(method, mixed(batch, end)) for end in (1.0, 0.0))
    torch.testing.assert_close(
        loss(method, mixed(batch, share)), share * own + (1 - share) * partner
    )


@every_method
def test_each_sample_has_a_share_of_its_own(name: str, prepare: Any, make_batch: Any) -> None:
    """The hard term of a blend is the mean over the hard terms of its single samples."""
    alone, share = CROSS_ENTROPY_ALONE.get(name), torch.linspace(0, 1, SIZE)
    method = prepare(name, **alone) if alone else with_fixed_weights(name, prepare)
    # for methods with sample weights, whose mean is weighted
    batch = replace(make_batch(method), weights=torch.ones(SIZE))
    one_by_one = [
        losses.cross_entropy(batch.student.logits[[i]], labels[[i]]) * weight[i]
        for labels, weight in ((batch.labels, share), (batch.labels[PARTNERS], 1 - share))
        for i in range(SIZE)
    ]
    torch.testing.assert_close(
        mixed(batch, share).cross_entropy(), torch.stack(one_by_one).sum() / SIZE
    )
    change = loss(method, mixed(batch, share)) - loss(method, batch)
    hard = mixed(batch, share).cross_entropy() - batch.cross_entropy()
    whole = loss(method, mixed(batch, 0.0)) - loss(method, batch)
    swapped = mixed(batch, 0.0).cross_entropy() - batch.cross_entropy()
    torch.testing.assert_close(change * swapped, hard * whole, rtol=1e-4, atol=1e-5)


@every_method
def test_labels_that_are_missing_on_either_side_do_not_count(
    name: str, prepare: Any, make_batch: Any
) -> None:
    batch = make_batch(prepare(name))
    plain = prepare(name)(batch).loss
    own_alone = prepare(name)(mixed(batch, 0.3, torch.full((SIZE,), -1)))
    torch.testing.assert_close(own_alone.loss, plain)
    partner_alone = prepare(name)(
        mixed(replace(batch, labels=torch.full((SIZE,), -1)), 0.3, batch.labels)
    )
    torch.testing.assert_close(partner_alone.loss, plain)


@every_method
def test_the_gradient_of_a_blend_is_finite_without_any_label(
    name: str, prepare: Any, make_batch: Any
) -> None:
    method = prepare(name)
    batch = make_batch(method)
    none = torch.full((SIZE,), -1)
    objective = method(mixed(replace(batch, labels=none), 0.3, none))
    (slope,) = torch.autograd.grad(objective.loss, batch.student.logits)
    assert objective.loss.isfinite() and slope.isfinite().all()


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_of_a_blend_give_a_float32_loss(
    name: str, dtype: torch.dtype, prepare: Any, make_batch: Any
) -> None:
    method = prepare(name)
    half = mixed(make_batch(method, dtype=dtype), 0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective = method(half)
    assert objective.loss.dtype == torch.float32 and objective.loss.isfinite()


@every_method
def test_order_of_a_blended_batch_does_not_matter(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = mixed(make_batch(method), torch.linspace(0, 1, SIZE))
    assert batch.mix is not None
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(5))
    peers = batch.peers and batch.peers()[:, order]
    teacher = batch.teacher and type(batch.teacher)(*(part[order] for part in batch.teacher))
    moved = replace(
        batch,
        labels=batch.labels[order],
        index=batch.index[order],
        inputs=batch.inputs[order],  # type: ignore[index]
        student=type(batch.student)(*(part[order] for part in batch.student)),
        teacher=teacher,
        peers=None if peers is None else (lambda: peers),
        weights=None if batch.weights is None else batch.weights[order],
        mix=Mix(batch.mix.labels[order], batch.mix.share[order]),
        student_maps={name: each[order] for name, each in batch.student_maps.items()},
        teacher_maps={name: each[order] for name, each in batch.teacher_maps.items()},
    )
    torch.testing.assert_close(prepare(name)(moved).loss, method(batch).loss)


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_that_are_all_known_need_no_count(
    share: float | None, weighted: bool, smoothing: float, prepare: Any, make_batch: Any
) -> None:
    """The mean over the batch is that over the counted labels."""
    batch = make_batch(prepare("cross_entropy"))
    batch = batch if share is None else mixed(batch, share)
    classes = batch.student.logits.shape[1]
    counted = replace(batch, class_weights=torch.linspace(1, 2, classes) if weighted else None)
    known, logits = replace(counted, all_labelled=True), batch.student.logits
    fast, slow = (
        (
            each.cross_entropy(smoothing),
            each.cross_entropies(),
            each.unweighted_cross_entropy(smoothing, logits),
        )
        for each in (known, counted)
    )
    torch.testing.assert_close(fast, slow)
