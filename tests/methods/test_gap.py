"""Test alpha from the gap of student and teacher: formulas by hand, smoothing, ranks."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import Batch, Method, Mix, Output, Progress, Task
from methods.alpha import Terms
from methods.histogram import BINS
from methods.weighted import AlphaWeightedMethod

LOW, HIGH = 0.1, 0.7
MIDDLE = (LOW + HIGH) / 2
CLAMP = {"alpha_schedule": "gap", "alpha_min": LOW, "alpha_max": HIGH}
GAPS = ("ratio", "kl", "label", "acc")


@pytest.fixture
def gap(prepare: Any) -> Any:
    """Return a function that builds AKD with a formula; smoothing is off by default."""
    return lambda name, **settings: prepare(
        "akd", **{**CLAMP, "alpha_gap": name, "alpha_ema": 0.0, **settings}
    )


def alpha(method: Method, batch: Batch) -> Tensor:
    assert isinstance(method, AlphaWeightedMethod)
    found = method.alpha.compute(batch, method._terms(batch))
    assert isinstance(found, Tensor) and not found.requires_grad
    return found


def terms(hard: float, soft: float, divergence: float = 0.0) -> Terms:
    return Terms(
        torch.tensor(hard),
        torch.tensor([soft / 2, 1.5 * soft]),
        torch.tensor([divergence / 2, 1.5 * divergence]),
    )


def with_logits(batch: Batch, student: Tensor, teacher: Tensor) -> Batch:
    return replace(
        batch,
        student=Output(student, batch.student.features),
        teacher=Output(teacher, batch.student.features),
        labels=batch.labels,
    )


@pytest.mark.parametrize("name", GAPS)
def test_no_gradient_goes_through_alpha(name: str, gap: Any, make_batch: Any) -> None:
    method = gap(name)
    batch = make_batch(method)
    given = method._terms(batch)
    assert given.soft.requires_grad and not method.alpha.compute(batch, given).requires_grad
    assert not list(method.parameters()) and not method.parameter_groups()


@pytest.mark.parametrize(("hard", "soft"), [(1.0, 1.0), (3.0, 1.0), (0.02, 0.03)])
def test_the_ratio_is_the_soft_share_of_both_terms(
    hard: float, soft: float, gap: Any, make_batch: Any
) -> None:
    method = gap("ratio")
    assert float(method.alpha.compute(make_batch(method), terms(hard, soft))) == pytest.approx(
        soft / (hard + soft), abs=1e-6
    )


def test_the_ratio_rises_with_the_gap_until_the_clamp(gap: Any, make_batch: Any) -> None:
    method = gap("ratio")
    batch = make_batch(method)
    found = [
        float(method.alpha.compute(batch, terms(1.0, soft)))
        for soft in (0.0, 0.01, 0.2, 0.5, 1.0, 2.0, 9.0)
    ]
    assert found[:2] == pytest.approx([LOW, LOW], abs=1e-6) and found[-1] == pytest.approx(
        HIGH, abs=1e-6
    )
    assert found[1:] == sorted(found[1:]) and len(set(found[1:-1])) == 5


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_divergence_goes_63_percent_of_its_way_at_its_scale(
    scale: float, gap: Any, make_batch: Any
) -> None:
    method = gap("kl", alpha_scale=scale)
    batch = make_batch(method)
    values = (0.0, 0.1, 0.4, scale, 4.0)
    found = [float(method.alpha.compute(batch, terms(1.0, 1.0, value))) for value in values]
    assert found == pytest.approx(
        [LOW + (HIGH - LOW) * (1 - math.exp(-value / scale)) for value in values], abs=1e-6
    )


def test_the_divergence_of_each_sample_is_that_of_its_distributions(
    gap: Any, make_batch: Any
) -> None:
    method = gap("kl", alpha_per_sample=True)
    batch = make_batch(method, scale=1.0)
    p, q = (
        (logits / 4).softmax(1) for logits in (batch.teacher.logits, batch.student.logits.detach())
    )
    nats = (p * (p / q).log()).sum(1)
    expected = LOW + (HIGH - LOW) * (1 - torch.exp(-nats))
    torch.testing.assert_close(alpha(method, batch), expected)
    assert torch.equal(alpha(method, batch).argsort(), nats.argsort()), "it rises with the gap"


@pytest.mark.parametrize("slope", [2.0, 5.0])
def test_the_label_is_the_sigmoid_of_how_much_more_the_teacher_believes_it(
    slope: float, gap: Any, make_batch: Any
) -> None:
    method = gap("label", alpha_slope=slope)
    batch = make_batch(method)
    p, q = (
        functional.softmax(logits, 1)
        for logits in (batch.teacher.logits, batch.student.logits.detach())
    )
    own = [float(p[i, y] - q[i, y]) for i, y in enumerate(batch.labels.tolist())]
    expected = [LOW + (HIGH - LOW) / (1 + math.exp(-slope * each)) for each in own]
    assert alpha(method, batch).tolist() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(alpha(method, batch).argsort(), torch.tensor(own).argsort()), (
        "it rises with the gap"
    )


def test_the_label_of_a_blend_is_the_difference_of_both_by_their_shares(
    gap: Any, make_batch: Any
) -> None:
    method = gap("label")
    batch = make_batch(method)
    share, partners = torch.linspace(0, 1, 8), batch.labels.roll(1)
    p, q = (
        functional.softmax(logits, 1)
        for logits in (batch.teacher.logits, batch.student.logits.detach())
    )
    weights = share[:, None] * functional.one_hot(batch.labels, 10) + (1 - share)[
        :, None
    ] * functional.one_hot(partners, 10)
    expected = LOW + (HIGH - LOW) * torch.sigmoid(5 * ((p - q) * weights).sum(1))
    torch.testing.assert_close(alpha(method, replace(batch, mix=Mix(partners, share))), expected)


def test_a_student_like_its_teacher_has_the_least_ratio_and_the_middle_of_the_label(
    gap: Any, make_batch: Any
) -> None:
    method = gap("ratio")
    batch = make_batch(method)
    same = with_logits(batch, batch.teacher.logits, batch.teacher.logits)
    assert float(alpha(method, same)) == pytest.approx(LOW, abs=1e-6)
    torch.testing.assert_close(alpha(gap("label"), same), torch.full((8,), MIDDLE))
    assert float(alpha(gap("kl"), same)) == pytest.approx(LOW, abs=1e-6)


def test_wrong_teacher_gets_below_half_and_unlabelled_sample_gets_half(
    gap: Any, make_batch: Any
) -> None:
    method = gap("label")
    batch = make_batch(method)
    right, wrong = (8 * functional.one_hot((batch.labels + by) % 10, 10).float() for by in (0, 1))
    assert (alpha(method, with_logits(batch, torch.zeros(8, 10), wrong)) < MIDDLE - 0.01).all()
    assert (alpha(method, with_logits(batch, torch.zeros(8, 10), right)) > MIDDLE + 0.01).all()
    unlabelled = replace(with_logits(batch, torch.zeros(8, 10), right), labels=torch.full((8,), -1))
    torch.testing.assert_close(alpha(method, unlabelled), torch.full((8,), MIDDLE))


@pytest.mark.parametrize("name", ["ratio", "kl"])
@pytest.mark.parametrize("stays", [0.0, 0.5, 0.9])
def test_batch_alpha_is_smoothed_over_the_steps(
    name: str, stays: float, gap: Any, make_batch: Any
) -> None:
    method, plain = gap(name, alpha_ema=stays), gap(name)
    batch = make_batch(method)
    steps = [terms(1.0, soft, soft) for soft in (0.4, 1.5, 0.7, 1.1)]
    alone = [float(plain.alpha.compute(batch, step)) for step in steps]
    expected = [
        sum(w * a for w, a in zip(weights(stays, n), alone, strict=False)) for n in range(1, 5)
    ]
    assert [float(method.alpha.compute(batch, step)) for step in steps] == pytest.approx(
        expected, abs=1e-6
    )


def weights(stays: float, steps: int) -> list[float]:
    """Return the weights of a running mean that starts at its first value."""
    return [
        stays ** (steps - 1),
        *((1 - stays) * stays ** (steps - 1 - step) for step in range(1, steps)),
    ]


def accuracies(batch: Batch) -> tuple[float, float]:
    student, teacher = (
        logits.argmax(1) == batch.labels for logits in (batch.student.logits, batch.teacher_logits)
    )
    return float(student.double().mean()), float(teacher.double().mean())


@pytest.mark.parametrize("stays", [0.0, 0.9])
def test_the_accuracies_of_an_epoch_decide_the_next_one_all_of_it(
    stays: float, gap: Any, make_batch: Any
) -> None:
    method = gap("acc", alpha_slope=4.0, alpha_ema=stays, alpha_min=0.01, alpha_max=0.99)
    batch = make_batch(method)
    sharp = with_logits(
        batch, batch.student.logits, 9 * functional.one_hot(batch.labels, 10).float()
    )
    weak = with_logits(
        batch, 9 * functional.one_hot(batch.labels, 10).float(), batch.teacher.logits
    )
    difference = 0.0
    for epoch, seen in enumerate(([sharp, batch], [weak, weak, batch], [weak])):
        expected = 1 / (1 + math.exp(-4 * difference))
        for one in seen:
            assert float(alpha(method, one)) == pytest.approx(expected, abs=1e-6)
        difference = sum(accuracies(one)[1] - accuracies(one)[0] for one in seen) / len(seen)
        assert abs(difference) > 0.1
        method.end_epoch(Progress(epoch + 1, 3, {}))


def test_the_accuracies_stay_when_an_epoch_is_ended_again_after_a_resume(
    gap: Any, make_batch: Any
) -> None:
    method, resumed = gap("acc"), gap("acc")
    batch = make_batch(method)
    sharp = with_logits(
        batch, batch.student.logits, 9 * functional.one_hot(batch.labels, 10).float()
    )
    alpha(method, sharp)
    method.end_epoch(Progress(1, 3, {}))
    resumed.load_state_dict(method.state_dict())
    resumed.end_epoch(Progress(1, 3, {}))
    assert (
        torch.equal(alpha(resumed, batch), alpha(method, batch))
        and float(alpha(method, batch)) > 0.55
    )


def test_samples_without_a_label_do_not_count_for_the_accuracies(gap: Any, make_batch: Any) -> None:
    method = gap("acc", alpha_slope=4.0, alpha_max=0.99)
    batch = make_batch(method)
    sharp = with_logits(
        batch,
        9 * functional.one_hot((batch.labels + 1) % 10, 10).float(),
        9 * functional.one_hot(batch.labels, 10).float(),
    )
    alpha(method, replace(sharp, labels=torch.where(torch.arange(8) < 5, -1, batch.labels)))
    method.end_epoch(Progress(1, 3, {}))
    assert float(alpha(method, batch)) == pytest.approx(1 / (1 + math.exp(-4)), abs=1e-6)
    alpha(method, replace(sharp, labels=torch.full((8,), -1)))
    method.end_epoch(Progress(2, 3, {}))
    assert float(alpha(method, batch)) == pytest.approx(0.5)


def test_blended_samples_count_for_the_accuracies_by_their_shares(
    gap: Any, make_batch: Any
) -> None:
    method = gap("acc", alpha_slope=2.0)
    batch = make_batch(method)
    partners, share = batch.labels.roll(3), torch.linspace(0, 1, len(batch.labels))
    alpha(method, replace(batch, mix=Mix(partners, share)))
    method.end_epoch(Progress(1, 3, {}))
    right = []
    for logits in (batch.teacher.logits, batch.student.logits):
        each = [
            weight * (int(row.argmax()) == own) + (1 - weight) * (int(row.argmax()) == other)
            for row, own, other, weight in zip(
                logits, batch.labels.tolist(), partners.tolist(), share.tolist(), strict=True
            )
        ]
        right.append(sum(each) / len(each))
    assert float(alpha(method, batch)) == pytest.approx(
        1 / (1 + math.exp(-2 * (right[0] - right[1]))), rel=1e-5
    )


def halves(batch: Batch) -> list[Batch]:
    def part(value: Any, piece: slice) -> Any:
        return (
            Output(*(each[piece] for each in value)) if isinstance(value, Output) else value[piece]
        )

    names = ("index", "inputs", "labels", "student", "teacher")
    return [
        replace(batch, **{name: part(getattr(batch, name), piece) for name in names})
        for piece in (slice(4), slice(4, 8))
    ]


@pytest.mark.parametrize("name", ["ratio", "kl"])
def test_two_ranks_have_the_alpha_of_the_whole_batch(name: str, gap: Any, make_batch: Any) -> None:
    """Each rank contributes its part; the mean of both is the value of the whole batch."""
    whole = gap(name)
    batch = make_batch(whole, scale=1.0)
    rank_values: list[Tensor] = []

    def noted(value: Tensor) -> Tensor:
        rank_values.append(value)
        return value

    ranks = [gap(name), gap(name)]
    for method, half in zip(ranks, halves(batch), strict=True):
        method.prepare(None, Task(10, 24, 3, noted))
        alone = float(alpha(method, half))
        assert abs(alone - float(alpha(whole, batch))) > 1e-4, "the halves differ"
    (first, second) = rank_values
    for method, half in zip((gap(name), gap(name)), halves(batch), strict=True):
        method.prepare(None, Task(10, 24, 3, lambda _: (first + second) / 2))
        torch.testing.assert_close(alpha(method, half), alpha(whole, batch))


def test_two_ranks_have_the_accuracies_of_the_whole_batch(gap: Any, make_batch: Any) -> None:
    settings = {"alpha_slope": 2.0, "alpha_min": 0.01, "alpha_max": 0.99}
    whole, *ranks = (gap("acc", **settings) for _ in range(3))
    batch = make_batch(whole)
    right = 8 * functional.one_hot(batch.labels, 10).float()
    student = torch.where(
        torch.arange(8)[:, None] < 3, right, right.roll(1, dims=1)
    )  # 3 of 4 here, none there
    seen = with_logits(batch, student, right)
    for method, part in zip((whole, *ranks), (seen, *halves(seen)), strict=True):
        alpha(method, part)
    mean = torch.stack([rank.alpha.correct for rank in ranks]).mean(0)
    for rank in ranks:
        rank.prepare(None, Task(10, 24, 3, lambda _: mean))
    for method in (whole, *ranks):
        method.end_epoch(Progress(1, 3, {}))
        assert float(alpha(method, batch)) == pytest.approx(
            1 / (1 + math.exp(-2 * 5 / 8)), abs=1e-6
        )


@pytest.mark.parametrize("labelled", [8, 5, 1, 0])
@pytest.mark.parametrize("blended", [False, True])
def test_the_samples_of_a_batch_have_its_cross_entropy_as_their_mean(
    labelled: int, blended: bool, gap: Any, make_batch: Any
) -> None:
    batch = make_batch(gap("label"), dtype=torch.float64)
    batch = replace(batch, labels=torch.where(torch.arange(8) < labelled, batch.labels, -1))
    if blended:
        batch = replace(batch, mix=Mix(batch.labels.roll(2), torch.linspace(0, 1, 8)))
    assert batch.cross_entropies().shape == (8,)
    torch.testing.assert_close(
        batch.cross_entropies().mean(), batch.cross_entropy(), rtol=1e-7, atol=1e-12
    )


@pytest.mark.parametrize("blended", [False, True])
def test_an_alpha_that_all_samples_share_gives_the_loss_of_the_batch(
    blended: bool, gap: Any, prepare: Any, make_batch: Any
) -> None:
    fixed = prepare("akd", alpha_schedule="constant", alpha=MIDDLE)
    each = gap("label", alpha_slope=1e-9)
    batch = make_batch(each, dtype=torch.float64)
    batch = replace(batch, labels=torch.where(torch.arange(8) < 3, -1, batch.labels))
    if blended:
        batch = replace(batch, mix=Mix(batch.labels.roll(2), torch.linspace(0, 1, 8)))
    torch.testing.assert_close(each(batch).loss, fixed(batch).loss, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "settings"), [("label", {}), ("kl", {"alpha_per_sample": True})])
def test_the_histogram_counts_the_alphas_of_an_epoch(
    name: str, settings: dict[str, Any], gap: Any, make_batch: Any
) -> None:
    method = gap(name, **settings)
    batches = [make_batch(method, seed=seed) for seed in range(3)]
    found = torch.cat([alpha(method, batch) for batch in batches])
    for batch in batches:
        method(batch)
    shares = method.end_epoch(Progress(1, 3, {}))["alpha_histogram"]
    counts = [
        int(((found >= low / BINS) & (found < (low + 1) / BINS)).sum()) for low in range(BINS)
    ]
    assert shares.tolist() == pytest.approx([count / len(found) for count in counts]) and sum(
        counts
    ) == len(found)
    assert float(shares.sum()) == pytest.approx(1) and sum(count > 0 for count in counts) > 2
    assert method.end_epoch(Progress(1, 3, {})) == {}, "nothing is left of the epoch"


def test_alphas_at_the_very_ends_are_counted(gap: Any, make_batch: Any) -> None:
    method = gap("label", alpha_min=0.0, alpha_max=1.0, alpha_slope=1e6)
    method(make_batch(method))
    shares = method.end_epoch(Progress(1, 3, {}))["alpha_histogram"]
    assert float(shares.sum()) == pytest.approx(1) and float(
        shares[0] + shares[-1]
    ) == pytest.approx(1)


def test_an_alpha_of_the_batch_has_no_histogram(gap: Any, make_batch: Any) -> None:
    for name in ("ratio", "kl", "acc"):
        method = gap(name)
        method(make_batch(method))
        assert method.end_epoch(Progress(1, 3, {})) == {}
