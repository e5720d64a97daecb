"""Test logit standardisation: z-scores, affine invariance in every method, and published points."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, losses
from methods.standardization import StandardizationSettings
from search_spaces import SPACES

SWITCHED = [
    name for name, kind in METHODS.items() if issubclass(kind.Settings, StandardizationSettings)
]
WITHOUT_LABELS = [name for name in SWITCHED if not METHODS[name].needs.labels]


def draw(seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(8, 10, generator=generator, dtype=torch.float64)


def affine(logits: Tensor) -> Tensor:
    """Return a positive affine map of each sample's logits."""
    generator = torch.Generator().manual_seed(9)
    scale, shift = torch.rand(2, len(logits), 1, generator=generator)
    mapped: Tensor = (0.2 + 3 * scale) * logits + 20 * (shift - 0.5)
    return mapped.to(logits.dtype)


def with_student(batch: Batch, logits: Tensor) -> Batch:
    return replace(batch, student=batch.student._replace(logits=logits))


def test_z_scores_are_those_of_numpy() -> None:
    logits = draw(1)
    values = logits.numpy()
    deviation = values.std(axis=1, ddof=1, keepdims=True)
    expected = (values - values.mean(axis=1, keepdims=True)) / deviation
    np.testing.assert_allclose(losses.standardize(logits).numpy(), expected, rtol=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(losses.standardize, draw(1).requires_grad_())


@pytest.mark.parametrize("value", [0.0, 7.3])
def test_equal_logits_have_no_scale(value: float) -> None:
    logits = torch.full((2, 10), value, requires_grad=True)
    found = losses.tempered_kl(draw(1)[:2].float(), losses.standardize(logits), 2.0)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert not losses.standardize(logits).any() and not gradient.any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_logits_are_standardised_in_full_precision(kind: torch.dtype) -> None:
    logits = draw(1).to(kind)
    found = losses.standardize(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), losses.standardize(logits.double()))


def test_kd_has_the_deviation_times_t_as_temperature(prepare: Any, make_batch: Any) -> None:
    method = prepare("kd", standardize=True, alpha=1.0, temperature=2.0)
    batch = make_batch(method)
    expected = []
    for v, z in zip(batch.teacher_logits, batch.student.logits.detach(), strict=True):
        log_p, log_q = ((each / (2.0 * each.std())).log_softmax(0) for each in (v, z))
        expected.append(4 * functional.kl_div(log_q, log_p, log_target=True, reduction="sum"))
    torch.testing.assert_close(method(batch).loss, torch.stack(expected).mean())


def test_switched_off_the_logits_are_the_same_object() -> None:
    logits = draw(1)
    assert {"kd", "akd", "dml", "dual_student", "ic_kd", "fitnet", "dkd"} <= set(SWITCHED)
    for name in SWITCHED:
        assert METHODS[name].Settings().scale_logits(logits) is logits  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", WITHOUT_LABELS)
def test_positive_affine_maps_of_the_student_have_no_effect(
    name: str, prepare: Any, make_batch: Any
) -> None:
    weight = {"alpha": 0.9, "batch_level": 0.0, "class_level": 0.0}  # the compared logits alone
    weight = {key: weight[key] for key in weight if key in METHODS[name].Settings.model_fields}

    def loss(standardize: bool, mapped: bool) -> Tensor:
        method = prepare(name, standardize=standardize, **weight)
        batch = make_batch(method)
        batch = replace(batch, labels=torch.full_like(batch.labels, -1))  # no cross entropy
        logits = batch.student.logits
        found: Tensor = method(with_student(batch, affine(logits) if mapped else logits)).loss
        return found

    torch.testing.assert_close(loss(True, True), loss(True, False), rtol=1e-4, atol=1e-5)
    assert (loss(False, True) - loss(False, False)).abs() > 0.01


def test_positive_affine_maps_have_no_effect_in_dkd(prepare: Any, make_batch: Any) -> None:
    method = prepare("dkd", standardize=True)
    batch = make_batch(method)
    mapped = with_student(batch, affine(batch.student.logits))
    for name in ("target", "non_target"):
        torch.testing.assert_close(method(mapped).terms[name], method(batch).terms[name])


def test_context_module_starts_as_kd_of_z_scores(prepare: Any, make_batch: Any) -> None:
    plain, module = (
        prepare("akd", standardize=True, alpha_schedule="constant", cam=cam)
        for cam in (False, True)
    )
    batch = make_batch(plain)
    torch.testing.assert_close(
        module(batch).terms["distillation"], plain(batch).terms["distillation"]
    )
    shown = module.class_distributions(batch)
    expected = (losses.standardize(batch.teacher_logits) / 4).softmax(1)
    torch.testing.assert_close(shown["teacher"], expected)


def z_scored_kl(batch: Batch, temperature: float) -> Tensor:
    scores = [
        (each - each.mean(1, keepdim=True)) / (1e-7 + each.std(1, keepdim=True)) / temperature
        for each in (batch.teacher_logits, batch.student.logits)
    ]
    log_p, log_q = (each.log_softmax(1) for each in scores)
    return temperature**2 * functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def test_published_setting_of_kd(prepare: Any, make_batch: Any) -> None:
    """The released code trains 0.1 CE + 9 T^2 KL of z-scores at T = 2."""
    published = {"form": "additive", "lambda_ce": 0.1, "beta": 9.0, "temperature": 2.0}
    method = prepare("kd", standardize=True, **published)
    batch = make_batch(method)
    hard = functional.cross_entropy(batch.student.logits, batch.labels)
    torch.testing.assert_close(method(batch).loss, 0.1 * hard + 9 * z_scored_kl(batch, 2.0))


def test_published_point_of_dkd(prepare: Any, make_batch: Any) -> None:
    """The released code multiplies both weights by 9; at equal weights DKD of two classes is KD."""
    (point,) = (each for each in SPACES["dkd"].points if each["standardize"])
    assert (point["alpha"], point["beta"], point["temperature"]) == (9 * 1.0, 9 * 8.0, 2.0)
    method = prepare("dkd", **{key: each for key, each in point.items() if "." not in key})
    batch = make_batch(method)
    two = replace(
        batch,
        labels=batch.labels % 2,
        student=batch.student._replace(logits=batch.student.logits[:, :2]),
        teacher=batch.student._replace(logits=batch.teacher_logits[:, :2]),
    )
    objective = method(two)
    soft = objective.loss - objective.terms["cross_entropy"]
    torch.testing.assert_close(soft, 9 * z_scored_kl(two, 2.0), rtol=1e-4, atol=1e-4)
