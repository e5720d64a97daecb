"""Test invariants of every alpha (clamp, finite gradients, loss), and schedules in closed form."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, Method, Mix, Output, Progress, SettingsError
from methods.weighted import AlphaWeightedMethod
from tests.refusal import ANY, refused

LOW, HIGH = 0.2, 0.7
PLANS: dict[str, dict[str, Any]] = {
    name: {"alpha_schedule": name} for name in ("constant", "linear", "cosine", "step")
}
LEARNED: dict[str, dict[str, Any]] = {
    name: {"alpha_schedule": "learnable", "alpha_learnable": name}
    for name in ("raw", "uncertainty", "entropy", "bayes", "bilevel")
}
GAPS: dict[str, dict[str, Any]] = {
    name: {"alpha_schedule": "gap", "alpha_gap": name} for name in ("ratio", "kl", "label", "acc")
}
GAPS["kl-sample"] = {**GAPS["kl"], "alpha_per_sample": True}
FORMS = PLANS | LEARNED | GAPS
WEIGHTED = [name for name, kind in METHODS.items() if issubclass(kind, AlphaWeightedMethod)]
CLAMP = {"alpha_min": LOW, "alpha_max": HIGH}

every_weighted = pytest.mark.parametrize("name", WEIGHTED)
# every form on one method, and one form on every method: alpha depends only on the two terms
every_form_or_weighted = pytest.mark.parametrize(
    ("name", "form"),
    [*(("akd", form) for form in FORMS), *((name, "raw") for name in WEIGHTED if name != "akd")],
)


def hard_and_soft(batch: Batch, temperature: float = 4.0) -> tuple[Tensor, Tensor]:
    """Return cross entropy and T^2 D(p_T || q_T), means over the batch, written out."""
    assert batch.teacher is not None
    q, p = (
        (logits / temperature).log_softmax(1)
        for logits in (batch.student.logits, batch.teacher.logits)
    )
    hard = functional.cross_entropy(batch.student.logits, batch.labels)
    return hard, temperature**2 * (p.exp() * (p - q)).sum(1).mean()


def variants(batch: Batch) -> dict[str, Batch]:
    """Return the batch with missing labels, blended, and with a student equal to the teacher."""
    assert batch.teacher is not None
    size = len(batch.labels)
    none = torch.full((size,), -1)
    some = torch.where(torch.arange(size) < 3, -1, batch.labels)
    share = torch.linspace(0, 1, size)
    return {
        "plain": batch,
        "half unlabelled": replace(batch, labels=some),
        "unlabelled": replace(batch, labels=none),
        "blended": replace(batch, mix=Mix(batch.labels.roll(1), share)),
        "blended, half unlabelled": replace(batch, labels=some, mix=Mix(some.roll(1), share)),
        "blended, unlabelled": replace(batch, labels=none, mix=Mix(none, share)),
        "identical": replace(
            batch,
            student=Output(batch.teacher.logits.clone().requires_grad_(), batch.student.features),
        ),
    }


def alphas(method: Method, batch: Batch) -> Tensor:
    """Return alpha on a batch, one number or one per sample, before averaging."""
    assert isinstance(method, AlphaWeightedMethod)
    found = method.alpha.compute(batch, method._terms(batch))
    return torch.as_tensor(found).detach()


def gradient(loss: Tensor, batch: Batch) -> Tensor:
    (found,) = torch.autograd.grad(loss, batch.student.logits)
    return found


def trained(method: Method, batch: Batch, steps: int, rate: float = 0.3) -> None:
    """Train alpha's own parameters for many steps on one batch."""
    own = torch.optim.SGD(method.parameters(), lr=rate, momentum=0.9)
    for _ in range(steps):
        own.zero_grad()
        method(batch).loss.backward()
        own.step()


@every_form_or_weighted
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_alpha_stays_in_its_clamp_and_the_gradient_is_finite(
    name: str, form: str, scale: float, prepare: Any, make_batch: Any
) -> None:
    method = prepare(name, **FORMS[form], **CLAMP, alpha=LOW, alpha_start=LOW, alpha_end=HIGH)
    for seed in range(3):
        for what, batch in variants(make_batch(method, scale=scale, seed=seed)).items():
            objective = method(batch)
            assert LOW - 1e-6 <= objective.terms["alpha"] <= HIGH + 1e-6, what
            assert (
                (alphas(method, batch) >= LOW - 1e-6) & (alphas(method, batch) <= HIGH + 1e-6)
            ).all(), what
            assert objective.loss.isfinite() and gradient(objective.loss, batch).isfinite().all(), (
                what
            )


@pytest.mark.parametrize("form", LEARNED)
@pytest.mark.parametrize(
    ("scale", "what"), [(0.1, "unlabelled"), (3.0, "plain"), (1e4, "identical")]
)
def test_many_steps_against_the_clamp_leave_alpha_finite_and_within(
    form: str, scale: float, what: str, prepare: Any, make_batch: Any
) -> None:
    method = prepare("akd", **LEARNED[form], **CLAMP)
    batch = variants(make_batch(method, scale=scale))[what]
    trained(method, batch, 400)
    assert LOW - 1e-6 <= method(batch).terms["alpha"] <= HIGH + 1e-6
    assert all(parameter.isfinite().all() for parameter in method.parameters())


@pytest.mark.parametrize(
    ("form", "scale"),
    [*((form, 3.0) for form in ("raw", "uncertainty", "entropy", "bayes")), ("raw", 1e4)],
)
def test_learned_alpha_returns_from_both_ends_of_the_clamp(
    form: str, scale: float, prepare: Any, make_batch: Any
) -> None:
    method = prepare("akd", **LEARNED[form], **CLAMP, alpha_tau=0.1)
    follows = variants(make_batch(method))["identical"]  # soft = 0 < CE: alpha rises
    target_logits = follows.teacher_logits
    wrong = replace(
        follows,
        labels=target_logits.argmax(1),
        student=Output((20 * target_logits).requires_grad_(), follows.student.features),
    )
    trained(method, make_batch(method, scale=scale), 100)
    ends = []
    for _ in range(2):
        for one in (follows, wrong):
            trained(method, one, 300)
            ends.append(float(method(one).terms["alpha"]))
    assert ends == pytest.approx([HIGH, LOW, HIGH, LOW], abs=1e-5)


def test_alpha_without_a_clamp_never_quite_reaches_zero_or_one(
    prepare: Any, make_batch: Any
) -> None:
    """At one its slope would stay zero."""
    for form in ("raw", "entropy", "bilevel"):
        method = prepare("akd", **LEARNED[form], alpha_min=0.0, alpha_max=1.0)
        batch = make_batch(method)
        for end in (-200.0, 200.0):
            with torch.no_grad():
                method.alpha.logit.fill_(end)
            assert 0 < method(batch).terms["alpha"] < 1, form


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_a_fixed_alpha_weighs_cross_entropy_and_the_soft_term(
    alpha: float, dtype: torch.dtype, prepare: Any, make_batch: Any
) -> None:
    """Then akd and kd have the same loss."""
    fixed = {"alpha_schedule": "constant", "alpha": alpha}
    method, kd = prepare("akd", **fixed), prepare("kd", **fixed)
    batch = make_batch(method, scale=1.0, dtype=dtype)
    hard, soft = hard_and_soft(batch)
    close = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(
        method(batch).loss, (1 - alpha) * hard + alpha * soft, rtol=close, atol=close
    )
    assert torch.equal(method(batch).loss, kd(batch).loss)


@every_weighted
def test_at_the_ends_of_alpha_the_gradient_is_that_of_one_term(
    name: str, prepare: Any, make_batch: Any
) -> None:
    for alpha in (0.0, 1.0):
        method = prepare(name, alpha_schedule="constant", alpha=alpha)
        batch = make_batch(method, dtype=torch.float64)
        terms = method._terms(batch)
        expected = gradient(
            terms.soft.mean()
            if alpha
            else functional.cross_entropy(batch.student.logits, batch.labels),
            batch,
        )
        torch.testing.assert_close(
            gradient(method(batch).loss, batch), expected, rtol=1e-12, atol=1e-15
        )
    if name in ("kd", "akd"):
        torch.testing.assert_close(terms.soft.mean(), hard_and_soft(batch)[1], rtol=1e-12, atol=0)


@every_weighted
@pytest.mark.parametrize("logit", [-1.5, 0.0, 0.7])
def test_the_slope_along_a_raw_alpha_is_that_of_central_differences(
    name: str, logit: float, prepare: Any, make_batch: Any
) -> None:
    method = prepare(name, **LEARNED["raw"]).double()
    batch = make_batch(method, dtype=torch.float64)
    losses = []
    for moved in (-1e-6, 0.0, 1e-6):
        with torch.no_grad():
            method.alpha.logit.fill_(logit + moved)
        losses.append(method(batch).loss)
        if moved == 0:
            (slope,) = torch.autograd.grad(losses[-1], method.alpha.logit, retain_graph=True)
            alpha = 1 / (1 + math.exp(-logit))
            terms = method._terms(batch)
            torch.testing.assert_close(
                slope, alpha * (1 - alpha) * (terms.soft.mean() - terms.hard), rtol=1e-12, atol=0
            )
    torch.testing.assert_close((losses[2] - losses[0]) / 2e-6, slope, rtol=1e-7, atol=1e-8)


@every_form_or_weighted
def test_alpha_adds_no_gradient_to_the_student(
    name: str, form: str, prepare: Any, make_batch: Any
) -> None:
    """The student's gradient is that of the weighted sum with a constant alpha."""
    method = prepare(name, **FORMS[form]).double()
    batch = make_batch(method, dtype=torch.float64)
    found = gradient(method(batch).loss, batch)
    again = prepare(name, **FORMS[form]).double()
    alpha, terms = alphas(again, batch), again._terms(batch)
    each = functional.cross_entropy(batch.student.logits, batch.labels, reduction="none")
    expected = gradient(((1 - alpha) * each + alpha * terms.soft).mean(), batch)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def along(settings: dict[str, Any], epochs: int, prepare: Any, make_batch: Any) -> list[float]:
    """Return alpha of each epoch, and after the last one."""
    method = prepare("akd", **settings)
    batch, found = make_batch(method), list[float]()
    for epoch in range(1, epochs + 1):
        found.append(float(method(batch).terms["alpha"]))
        method.end_epoch(Progress(epoch, epochs, {}))
    return [*found, float(method(batch).terms["alpha"])]


@pytest.mark.parametrize("when", [0.25, 0.5, 1.0])
def test_schedules_equal_their_formulas_in_every_epoch(
    when: float, prepare: Any, make_batch: Any
) -> None:
    settings = {"alpha_start": 0.9, "alpha_end": 0.1, "alpha_when": when}
    reached = int(8 * when)
    shares = [min(epoch / reached, 1.0) for epoch in range(9)]
    found = along(PLANS["linear"] | settings, 8, prepare, make_batch)
    assert found == pytest.approx([0.9 - 0.8 * share for share in shares], abs=1e-6)
    found = along(PLANS["cosine"] | settings, 8, prepare, make_batch)
    assert found == pytest.approx(
        [0.1 + 0.4 * (1 + math.cos(math.pi * share)) for share in shares], abs=1e-6
    )
    if when < 1:
        found = along(PLANS["step"] | settings, 8, prepare, make_batch)
        assert found == pytest.approx([0.9] * reached + [0.1] * (9 - reached), abs=1e-6)
    assert along(
        PLANS["constant"] | settings | {"alpha": 0.4}, 8, prepare, make_batch
    ) == pytest.approx([0.4] * 9)


@pytest.mark.parametrize(("start", "end"), [(0.9, 0.1), (0.0, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize("plan", ["linear", "cosine", "step"])
def test_schedules_are_monotonic_and_step_jumps_once(
    plan: str, start: float, end: float, prepare: Any, make_batch: Any
) -> None:
    found = along(
        PLANS[plan] | {"alpha_start": start, "alpha_end": end, "alpha_when": 0.7},
        10,
        prepare,
        make_batch,
    )
    changes = [after - before for before, after in pairwise(found)]
    assert all(change * (end - start) >= 0 for change in changes)
    assert found[0] == pytest.approx(start, abs=1e-6) and found[-1] == pytest.approx(end, abs=1e-6)
    if plan == "step":
        assert sum(change != 0 for change in changes) == (start != end)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("epoch", [1, 3, 7, 8])
def test_schedule_continues_after_resume(
    plan: str, epoch: int, prepare: Any, make_batch: Any
) -> None:
    settings = PLANS[plan] | {"alpha_when": 0.6}
    whole = along(settings, 8, prepare, make_batch)
    fresh = prepare("akd", **settings)
    fresh.end_epoch(Progress(epoch, 8, {}))
    assert float(fresh(make_batch(fresh)).terms["alpha"]) == whole[epoch]


@every_weighted
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"alpha_min": 0.5, "alpha_max": 0.5}, ("alpha_min", 0.5, (0, 0.5))),
        ({"alpha_min": 0.9, "alpha_max": 0.1}, ("alpha_min", 0.9, (0, 0.1))),
        ({"alpha_schedule": "step", "alpha_when": 1.0}, ("alpha_when", 1, (0, 1))),
        ({"alpha_schedule": "no such plan"}, ("alpha_schedule", "no such plan", ANY)),
    ],
)
def test_contradictory_settings_are_refused(
    name: str, settings: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    field, value, limits = expected
    with refused(field, value, limits, SettingsError) as caught:
        METHODS[name].Settings.build(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in WEIGHTED if "form" in METHODS[name].Settings.model_fields]
)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "step", "learnable", "gap"])
def test_the_additive_form_has_no_alpha_to_schedule(name: str, schedule: str) -> None:
    with refused("alpha_schedule", schedule, ("constant",), error=SettingsError) as caught:
        METHODS[name].Settings.build({"form": "additive", "alpha_schedule": schedule})
    assert "\n" not in str(caught.value)
    METHODS[name].Settings.build({"form": "additive", "alpha_schedule": "constant"})


@pytest.mark.parametrize(("width", "heads"), [(32, 3), (16, 32), (1, 2)])
def test_indivisible_width_is_refused_with_a_divisible_one(width: int, heads: int) -> None:
    with refused(
        "cam_width", width, f"a multiple of cam_heads = {heads}", error=SettingsError
    ) as caught:
        METHODS["akd"].Settings.build({"cam_width": width, "cam_heads": heads})
    assert "\n" not in str(caught.value)
    proposed = int(str(caught.value).split()[-1])
    METHODS["akd"].Settings.build({"cam_width": proposed, "cam_heads": heads})
