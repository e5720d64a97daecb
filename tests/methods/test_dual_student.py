"""Test the teacher's certainty of dual students, in closed form and at its limits.

`test_dml.py` tests peer learning.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import (
    METHODS,
    Batch,
    DualStudent,
    Mix,
    Objective,
    Output,
    Progress,
    SettingsError,
    Task,
    losses,
)
from methods.histogram import BINS
from tests.refusal import refused

CLASSES, SIZE = 10, 8
ALONE = {"lambda_peer": 0.0}
FORMS = [
    (certainty, norm)
    for certainty in ("certain", "uncertain", "none")
    for norm in ("none", "mean1")
]
every_form = pytest.mark.parametrize(("certainty", "w_norm"), FORMS)


def draw(seed: int, size: int = SIZE, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(
        size, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def saying(batch: Batch, student: Tensor, teacher: Tensor, *peers: Tensor) -> Batch:
    """Return the batch with the given logits."""
    features = batch.student.features
    peer_function = (lambda: torch.stack(peers)) if peers else None
    return replace(
        batch,
        student=Output(student, features),
        teacher=Output(teacher, features),
        peers=peer_function,
    )


def kl(p_logits: Tensor, q_logits: Tensor, temperature: float) -> Tensor:
    """Return D(p_T || q_T) by torch, (B,)."""
    p, q = (
        torch.distributions.Categorical(logits=logits / temperature)
        for logits in (p_logits, q_logits)
    )
    return torch.distributions.kl_divergence(p, q)


def uncertainty(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return H/log K by scalar arithmetic, (B,)."""
    rows = []
    for row in (logits / temperature).tolist():
        total = sum(math.exp(value) for value in row)
        shares = [math.exp(value) / total for value in row]
        rows.append(-sum(share * math.log(share) for share in shares) / math.log(len(row)))
    return torch.tensor(rows, dtype=torch.float64)


def gradient(objective: Objective, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(objective.loss, logits)
    return found


def weights(method: DualStudent, teacher: Tensor) -> Tensor:
    """Return w of the samples, (B,)."""
    return method._weights(
        losses.normalized_entropy(teacher, method.settings.certainty_temperature)
    )


@every_form
@pytest.mark.parametrize("peer_weight", ["none", "1-w"])
@pytest.mark.parametrize("certainty_temperature", [1.0, 2.5])
def test_the_objective_is_the_sum_of_its_three_terms(
    certainty: str,
    w_norm: str,
    peer_weight: str,
    certainty_temperature: float,
    prepare: Any,
    make_batch: Any,
) -> None:
    method = prepare(
        "dual_student",
        lambda_ce=0.25,
        lambda_kd=0.6,
        lambda_peer=0.4,
        temperature=3.0,
        peer_temperature=2.0,
        certainty=certainty,
        certainty_temperature=certainty_temperature,
        w_norm=w_norm,
        peer_weight=peer_weight,
    )
    student, teacher, first, second = (draw(seed) for seed in range(4))
    batch = saying(make_batch(method), student, teacher, first, second)
    unsure = uncertainty(teacher, certainty_temperature)
    w = {"certain": 1 - unsure, "uncertain": unsure, "none": torch.ones_like(unsure)}[certainty]
    w = w / w.mean() if w_norm == "mean1" else w
    hard = functional.cross_entropy(student, batch.labels)
    soft = (w * 9 * kl(teacher, student, 3.0)).mean()
    apart = 4 * (kl(first, student, 2.0) + kl(second, student, 2.0)) / 2
    leaning = (unsure * apart if peer_weight == "1-w" else apart).mean()
    objective = method(batch)
    torch.testing.assert_close(objective.loss, 0.25 * hard + 0.6 * soft + 0.4 * leaning)
    torch.testing.assert_close(
        objective.terms,
        {
            "cross_entropy": hard,
            "distillation": soft,
            "uncertainty": unsure.mean(),
            "weight": w.mean(),
            "peer": apart.mean(),
        },
    )


def test_the_weight_is_the_divergence_from_uniform_over_its_largest(prepare: Any) -> None:
    teacher = draw(1)
    expected = kl(teacher, torch.zeros_like(teacher), 1.0) / math.log(CLASSES)
    torch.testing.assert_close(weights(prepare("dual_student"), teacher), expected)
    torch.testing.assert_close(
        weights(prepare("dual_student", certainty="uncertain"), teacher), 1 - expected
    )


@pytest.mark.parametrize("scale", [0.0, 1e-3, 0.3, 3.0, 30.0, 1e6])
@pytest.mark.parametrize("certainty", ["certain", "uncertain"])
def test_the_weight_stays_within_its_bounds(certainty: str, scale: float, prepare: Any) -> None:
    found = weights(prepare("dual_student", certainty=certainty), draw(2, 1000, scale).float())
    assert ((found >= 0) & (found <= 1)).all()


def test_the_weight_falls_with_the_entropy_from_one_hot_to_uniform(prepare: Any) -> None:
    """A mixture of one class and the uniform distribution, whose share raises the entropy."""
    shares = torch.linspace(0, 1, 21, dtype=torch.float64)[:, None]
    p = (1 - shares) * functional.one_hot(torch.tensor(3), CLASSES) + shares / CLASSES
    logits = p.clamp(min=1e-300).log()
    found = weights(prepare("dual_student"), logits)
    assert (found.diff() < 0).all()
    torch.testing.assert_close(
        found[[0, -1]], torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert ((found[1:-1] > 0) & (found[1:-1] < 1)).all(), "reached at the ends alone"
    reverse = weights(prepare("dual_student", certainty="uncertain"), logits)
    torch.testing.assert_close(reverse + found, torch.ones_like(found))


def test_a_certain_teacher_is_plain_kd(prepare: Any, make_batch: Any) -> None:
    """w = 1: with weights that sum to one it is the convex KD, including the gradient."""
    dual, kd = (
        prepare("dual_student", lambda_ce=0.3, lambda_kd=0.7, **ALONE),
        prepare("kd", alpha=0.7),
    )
    labels = torch.arange(SIZE)
    student = draw(3).requires_grad_()
    sure = (1e3 * functional.one_hot(labels, CLASSES)).double()
    batch = saying(make_batch(kd), student, sure)
    torch.testing.assert_close(dual(batch).loss, kd(batch).loss)
    torch.testing.assert_close(gradient(dual(batch), student), gradient(kd(batch), student))
    assert dual(batch).terms["weight"] == 1


def test_without_certainty_equals_plain_kd(prepare: Any, make_batch: Any) -> None:
    dual = prepare(
        "dual_student", lambda_ce=0.3, lambda_kd=0.7, certainty="none", w_norm="mean1", **ALONE
    )
    kd = prepare("kd", alpha=0.7)
    student = draw(4).requires_grad_()
    batch = saying(make_batch(kd), student, draw(5, scale=0.5))
    torch.testing.assert_close(dual(batch).loss, kd(batch).loss)
    torch.testing.assert_close(gradient(dual(batch), student), gradient(kd(batch), student))


@pytest.mark.parametrize("w_norm", ["none", "mean1"])
def test_uniform_teacher_has_no_weight(w_norm: str, prepare: Any, make_batch: Any) -> None:
    selective, plain = (
        prepare("dual_student", w_norm=w_norm, **ALONE),
        prepare("dual_student", certainty="none", **ALONE),
    )
    student = draw(6)
    batch = saying(
        make_batch(plain), student, torch.full((SIZE, CLASSES), 7.0, dtype=torch.float64)
    )
    assert plain(batch).terms["distillation"] > 1
    assert selective(batch).terms["distillation"] < 1e-6


@pytest.mark.parametrize("classes", range(2, 40))
def test_rounding_is_not_normalised_to_a_mean_of_one(classes: int, prepare: Any) -> None:
    even = torch.full((SIZE, classes), 7.0)
    assert weights(prepare("dual_student", w_norm="mean1"), even).max() < 0.5


def test_a_weight_of_zero_everywhere_stays_zero_when_it_is_normalised(
    prepare: Any, make_batch: Any
) -> None:
    method = prepare("dual_student", certainty="uncertain", w_norm="mean1", **ALONE)
    sure = (1e4 * functional.one_hot(torch.arange(SIZE), CLASSES)).float()
    objective = method(saying(make_batch(method), draw(7).float().requires_grad_(), sure))
    assert objective.terms["weight"] == objective.terms["distillation"] == 0
    assert objective.loss.isfinite()


@pytest.mark.parametrize("certainty", ["certain", "uncertain"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_normalised_weights_have_mean_one_and_the_same_proportions(
    certainty: str, scale: float, prepare: Any
) -> None:
    teacher = draw(8, scale=scale)
    bare = weights(prepare("dual_student", certainty=certainty), teacher)
    found = weights(prepare("dual_student", certainty=certainty, w_norm="mean1"), teacher)
    assert found.mean().item() == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(found / found.sum(), bare / bare.sum())


def test_the_mean_is_that_of_the_batch_of_all_ranks() -> None:
    """Two ranks with teachers of different certainty: only their joint weights have mean one."""
    parts = draw(9, scale=1.0), draw(10, scale=10.0)
    means = torch.stack([(1 - uncertainty(part)).mean() for part in parts])
    found = []
    for part in parts:
        method = DualStudent(DualStudent.Settings.build({"w_norm": "mean1"}))
        method.prepare(None, Task(CLASSES, 2 * SIZE, 3, lambda value: means.mean()))
        found.append(weights(method, part))
    assert torch.cat(found).mean().item() == pytest.approx(1)
    assert found[0].mean() < 0.9 and found[1].mean() > 1.1


def test_one_less_w_leans_on_the_peers_where_the_teacher_is_unsure(
    prepare: Any, make_batch: Any
) -> None:
    student, peer = draw(11).requires_grad_(), draw(12)
    teacher = torch.cat(
        [torch.zeros(4, CLASSES), 1e3 * functional.one_hot(torch.arange(4), CLASSES)]
    ).double()
    for certainty in ("certain", "uncertain", "none"):
        found = []
        for weight in (0.0, 0.4):
            method = prepare(
                "dual_student", certainty=certainty, peer_weight="1-w", lambda_peer=weight
            )
            found.append(
                gradient(method(saying(make_batch(method), student, teacher, peer)), student)
            )
        difference = found[1] - found[0]
        expected = 0.4 * (student.detach().softmax(1) - peer.softmax(1)) / SIZE
        torch.testing.assert_close(difference[:4], expected[:4])
        assert difference[4:].abs().max() < 1e-12


@every_form
@pytest.mark.parametrize("peer_weight", ["none", "1-w"])
def test_gradient_is_that_of_finite_differences(
    certainty: str, w_norm: str, peer_weight: str, prepare: Any, make_batch: Any
) -> None:
    method = prepare(
        "dual_student",
        certainty=certainty,
        w_norm=w_norm,
        peer_weight=peer_weight,
        peer_temperature=2.0,
    )
    teacher, peer = draw(13, scale=1.0), draw(14)
    batch = make_batch(method)
    assert torch.autograd.gradcheck(
        lambda student: method(saying(batch, student, teacher, peer)).loss,
        (draw(15).requires_grad_(),),
    )


def test_a_high_temperature_makes_every_teacher_look_unsure(prepare: Any) -> None:
    teacher = draw(16)
    found = [
        weights(prepare("dual_student", certainty_temperature=value), teacher).mean()
        for value in (0.5, 1.0, 4.0, 100.0)
    ]
    assert found == sorted(found, reverse=True) and found[-1] < 1e-3


def test_the_histogram_is_that_of_the_samples_of_an_epoch(prepare: Any, make_batch: Any) -> None:
    method = prepare("dual_student", certainty="none", lambda_peer=0.0)
    teachers = draw(17, scale=1.0), draw(18, scale=3.0)
    for teacher in teachers:
        method(saying(make_batch(method), draw(19), teacher))
    values = uncertainty(torch.cat(teachers))
    drawn = method.end_epoch(Progress(1, 3, {}))
    expected = [
        int(((values >= low / BINS) & (values < (low + 1) / BINS)).sum()) / (2 * SIZE)
        for low in range(BINS)
    ]
    assert drawn["uncertainty_histogram"].tolist() == expected
    assert set(method.end_epoch(Progress(2, 3, {}))) == {"peer_weight"}, (
        "an epoch without a sample, as after a resume"
    )


def test_the_histogram_is_averaged_over_the_ranks(make_batch: Any) -> None:
    other = torch.zeros(BINS)
    other[0] = 3 * SIZE
    method = DualStudent(DualStudent.Settings.build(ALONE))
    method.prepare(None, Task(CLASSES, SIZE, 3, lambda value: (value + other) / 2))
    method(saying(make_batch(method), draw(20), torch.zeros(SIZE, CLASSES)))
    shares = method.end_epoch(Progress(1, 3, {}))["uncertainty_histogram"]
    assert isinstance(shares, Tensor) and shares[0] == 0.75 and shares[-1] == 0.25


def test_neither_labels_nor_a_teacher_is_refused() -> None:
    with refused("lambda_kd", 0, "above 0", error=SettingsError) as caught:
        DualStudent.Settings.build({"lambda_ce": 0, "lambda_kd": 0})
    assert "lambda_ce" in str(caught.value)
    for one in ("lambda_ce", "lambda_kd"):
        DualStudent.Settings.build({one: 0})


def test_the_default_weights_sum_to_one() -> None:
    settings = METHODS["dual_student"].Settings()
    assert isinstance(settings, DualStudent.Settings)
    assert sum(
        getattr(settings, f"lambda_{part}") for part in ("ce", "kd", "peer")
    ) == pytest.approx(1)


def test_labels_count_as_they_do_in_the_batch(prepare: Any, make_batch: Any) -> None:
    """Labels count by their shares if samples are blended; missing ones do not count."""
    method = prepare("dual_student", lambda_ce=1.0)
    batch = make_batch(method)
    silent = method(replace(batch, labels=torch.full((SIZE,), -1))).loss
    half = replace(batch, labels=torch.where(torch.arange(SIZE) < 4, batch.labels, -1))
    blended = replace(half, mix=Mix(batch.labels.roll(1), torch.linspace(0, 1, SIZE)))
    for given in (batch, half, blended):
        torch.testing.assert_close(method(given).loss - silent, given.cross_entropy())
