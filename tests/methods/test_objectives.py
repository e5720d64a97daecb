"""Test the weights of the terms of CE, KD, TTM and WTTM: forms, relations, mean power sum."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from methods import KD, TTM, WTTM, Batch, Knowledge, Output, SettingsError, Task, losses
from tests.refusal import refused

TASK = Task(classes=10, samples=24, epochs=3)


def parts(batch: Any, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return cross entropy, divergences and power sums of a batch, written out."""
    log_q, p_t = (
        batch.student.logits.log_softmax(1),
        (batch.teacher.logits / temperature).softmax(1),
    )
    divergence = functional.kl_div(log_q, p_t, reduction="none").sum(1)
    power_sum = (batch.teacher.logits.softmax(1) ** (1 / temperature)).sum(1)
    return functional.cross_entropy(batch.student.logits, batch.labels), divergence, power_sum


def test_label_smoothing_one_ignores_the_label(prepare: Any, make_batch: Any) -> None:
    method = prepare("cross_entropy", label_smoothing=1.0)
    batch = make_batch(method)
    expected = -batch.student.logits.log_softmax(1).mean()
    torch.testing.assert_close(method(batch).loss, expected)


def test_kd_is_hintons_weighted_sum(prepare: Any, make_batch: Any) -> None:
    method = prepare("kd", temperature=4.0, alpha=0.9)
    batch = make_batch(method)
    hard = functional.cross_entropy(batch.student.logits, batch.labels)
    log_q, p = (batch.student.logits / 4).log_softmax(1), (batch.teacher.logits / 4).softmax(1)
    soft = 16 * functional.kl_div(log_q, p, reduction="batchmean")
    objective = method(batch)
    torch.testing.assert_close(objective.loss, 0.1 * hard + 0.9 * soft)
    torch.testing.assert_close(
        objective.terms,
        {
            "loss": 0.1 * hard + 0.9 * soft,
            "cross_entropy": hard,
            "distillation": soft,
            "alpha": torch.tensor(0.9),
        },
    )


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_kd_at_the_ends_of_alpha_is_one_of_its_terms(
    alpha: float, prepare: Any, make_batch: Any
) -> None:
    method = prepare("kd", alpha=alpha)
    objective = method(make_batch(method))
    torch.testing.assert_close(
        objective.loss, objective.terms["distillation" if alpha else "cross_entropy"]
    )


def test_kd_forms_are_one_objective_up_to_a_factor(prepare: Any, make_batch: Any) -> None:
    convex, additive = prepare("kd", alpha=0.9), prepare("kd", form="additive", beta=9.0)
    batch = make_batch(convex)
    torch.testing.assert_close(convex(batch).loss, (1 - 0.9) * additive(batch).loss)


def test_ttm_is_equation_2(prepare: Any, make_batch: Any) -> None:
    method = prepare("ttm", form="additive", temperature=10.0, beta=45.0, normalize=False)
    batch = make_batch(method)
    hard, divergence, _ = parts(batch, 10.0)
    objective = method(batch)
    torch.testing.assert_close(objective.loss, hard + 45 * divergence.mean())
    torch.testing.assert_close(
        objective.terms, {"cross_entropy": hard, "distillation": divergence.mean()}
    )


def test_ttm_normalised_has_weights_that_sum_to_one(prepare: Any, make_batch: Any) -> None:
    paper, normalised = (
        prepare("ttm", form="additive", beta=36.0, normalize=flag) for flag in (False, True)
    )
    batch = make_batch(paper)
    torch.testing.assert_close(normalised(batch).loss, paper(batch).loss / 37)


@pytest.mark.parametrize("name", ["ttm", "wttm"])
def test_convex_form_is_equation_19_times_its_factor(
    name: str, prepare: Any, make_batch: Any
) -> None:
    convex = prepare(name, temperature=4.0, alpha=0.9)
    additive = prepare(name, form="additive", temperature=4.0, beta=36.0, normalize=False)
    batch = make_batch(convex)
    torch.testing.assert_close(convex(batch).loss, (1 - 0.9) * additive(batch).loss)


def test_wttm_is_equation_23(prepare: Any, make_batch: Any) -> None:
    method = prepare(
        "wttm", form="additive", temperature=5.0, beta=1.4, normalize=False, mean_power_sum=False
    )
    batch = make_batch(method)
    hard, divergence, power_sum = parts(batch, 5.0)
    objective = method(batch)
    torch.testing.assert_close(objective.loss, hard + 1.4 * (power_sum * divergence).mean())
    expected = {
        "cross_entropy": hard,
        "distillation": divergence.mean(),
        "power_sum": power_sum.mean(),
    }
    torch.testing.assert_close(objective.terms, expected)


def test_wttm_divides_by_the_mean_over_the_training_part(make_batch: Any) -> None:
    settings = {"form": "additive", "beta": 2.0, "normalize": False}
    logits = 3 * torch.randn(24, 10, generator=torch.Generator().manual_seed(4))
    method = WTTM(WTTM.Settings.build(settings))
    method.prepare(lambda: Knowledge(logits, None, torch.zeros(24, dtype=torch.int64)), TASK)
    batch = make_batch(method)
    hard, divergence, power_sum = parts(batch, 4.0)
    mean = (logits.softmax(1) ** 0.25).sum(1).mean()
    torch.testing.assert_close(
        method(batch).loss, hard + 2 / mean * (power_sum * divergence).mean()
    )


def test_mean_power_sum_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(23, 10)
    knowledge = Knowledge(logits, None, torch.zeros(23, dtype=torch.int64))
    whole, blocks = WTTM(WTTM.Settings.build({})), WTTM(WTTM.Settings.build({}))
    whole.prepare(lambda: knowledge, TASK)
    monkeypatch.setattr("methods.ttm._BLOCK", 5)
    blocks.prepare(lambda: knowledge, TASK)
    assert whole.log_mean == pytest.approx(blocks.log_mean, rel=1e-12)
    assert whole.log_mean == pytest.approx(
        math.log((logits.double().softmax(1) ** 0.25).sum(1).mean()), rel=1e-12
    )


def test_wttm_of_a_uniform_teacher_is_ttm_where_a_power_sum_is_too_small_for_float32(
    prepare: Any, make_batch: Any
) -> None:
    """K^(1 - 1/T) = 1e-57 for every sample, so that all weights are 1."""
    settings = {"temperature": 0.05, "alpha": 0.9}
    wttm, ttm = WTTM(WTTM.Settings.build(settings)), TTM(TTM.Settings.build(settings))
    logits, student = (
        torch.zeros(6, 1000),
        torch.randn(6, 1000, generator=torch.Generator().manual_seed(3)).requires_grad_(),
    )
    for method in (wttm, ttm):
        method.prepare(
            lambda: Knowledge(logits, None, torch.zeros(6, dtype=torch.int64)), Task(1000, 6, 1)
        )
    batch = Batch(
        torch.arange(6), student, torch.arange(6), Output(student, student), Output(logits, logits)
    )
    found, expected = wttm(batch).loss, ttm(batch).loss
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, student)[0] for loss in (found, expected))
    )


@pytest.mark.parametrize("temperature", [0.05, 0.2, 0.9, 3.0])
def test_weights_of_wttm_are_the_power_sums_over_their_mean_at_any_temperature(
    temperature: float,
) -> None:
    """Against sums of Python floats, which can hold 1e-308."""
    logits = 4 * torch.randn(5, 100, generator=torch.Generator().manual_seed(8))
    method = WTTM(
        WTTM.Settings.build(
            {"temperature": temperature, "form": "additive", "beta": 1.0, "normalize": False}
        )
    )
    method.prepare(
        lambda: Knowledge(logits, None, torch.zeros(5, dtype=torch.int64)), Task(100, 5, 1)
    )
    batch = Batch(
        torch.arange(5),
        logits,
        torch.full((5,), -1),
        Output(torch.zeros(5, 100), logits),
        Output(logits, logits),
    )
    powers = [
        math.fsum(value ** (1 / temperature) for value in row.double().softmax(0).tolist())
        for row in logits
    ]
    weights = torch.tensor([5 * value / math.fsum(powers) for value in powers])
    divergence = losses.transformed_teacher_kl(logits, torch.zeros(5, 100), temperature)
    torch.testing.assert_close(method(batch).loss, (weights * divergence).mean())


def test_wttm_without_a_teacher_to_average_is_refused() -> None:
    with refused("mean_power_sum", True, (False,), error=SettingsError):
        WTTM(WTTM.Settings.build({})).prepare(None, TASK)
    WTTM(WTTM.Settings.build({"mean_power_sum": False})).prepare(None, TASK)


@pytest.mark.parametrize("kind", [KD, TTM, WTTM])
def test_setting_of_the_other_form_is_ignored(kind: Any, prepare: Any, make_batch: Any) -> None:
    name = kind.__name__.lower()
    first, second = prepare(name, form="convex", beta=1.0), prepare(name, form="convex", beta=99.0)
    assert torch.equal(first(make_batch(first)).loss, second(make_batch(second)).loss)
    first, second = (
        prepare(name, form="additive", alpha=0.1),
        prepare(name, form="additive", alpha=0.8),
    )
    assert torch.equal(first(make_batch(first)).loss, second(make_batch(second)).loss)
