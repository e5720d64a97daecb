"""Test AKD with its module: its start as KD, its optimum, and the flow of gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import AKD, KD, Batch, Knowledge, LookAhead, Method, Mix, Output, Task
from methods.alpha import Terms

FIXED = {"alpha_schedule": "constant", "alpha": 0.7}
every_size = pytest.mark.parametrize("classes", [2, 10, 100, 1000])


class Free(nn.Module):
    """Unbounded module: its parameters are the scores of each sample and class."""

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(size, classes, dtype=torch.float64))

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the scores, whatever the inputs."""
        return self.scores


def method_for(classes: int, kind: type[Method] = AKD, **settings: Any) -> Method:
    torch.manual_seed(0)
    method = kind(
        kind.Settings.build({"cam": True, **FIXED, **settings} if kind is AKD else FIXED | settings)
    )
    method.prepare(None, Task(classes, 24, 3))
    return method


def awake(method: Method) -> AKD:
    """Move the method's module away from its initial state."""
    assert isinstance(method, AKD) and method.context is not None
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in method.context.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return method


def batch_of(
    classes: int, size: int = 6, dtype: torch.dtype = torch.float64, scale: float = 3.0
) -> Batch:
    generator = torch.Generator().manual_seed(4)
    drawn = [
        (scale * torch.randn(size, classes, generator=generator, dtype=torch.float64)).to(dtype)
        for _ in range(2)
    ]
    labels = torch.randint(classes, (size,), generator=generator)
    features = torch.zeros(size, 2)
    student, teacher = drawn[0].requires_grad_(), drawn[1]
    return Batch(
        torch.arange(size),
        torch.zeros(size, 1),
        labels,
        Output(student, features),
        Output(teacher, features),
    )


def gradients(loss: Tensor, method: Method, batch: Batch) -> tuple[Tensor, list[Tensor | None]]:
    """Return the gradients of the student's logits and of the method's parameters."""
    own = list(method.parameters())
    student, *rest = torch.autograd.grad(loss, [batch.student.logits, *own], allow_unused=True)
    return student, list(rest)


@every_size
def test_initial_module_equals_kd(classes: int) -> None:
    method, kd, batch = method_for(classes).double(), method_for(classes, KD), batch_of(classes)
    objective = method(batch)
    torch.testing.assert_close(
        objective.loss - objective.terms["cam"], kd(batch).loss, rtol=1e-12, atol=1e-12
    )
    student, _ = gradients(objective.loss, method, batch)
    expected, _ = gradients(kd(batch).loss, kd, batch)
    torch.testing.assert_close(student, expected, rtol=1e-10, atol=1e-14)


def test_initial_module_equals_kd_in_float32_per_sample() -> None:
    method, kd, batch = method_for(10), method_for(10, KD), batch_of(10, dtype=torch.float32)
    assert isinstance(method, AKD) and isinstance(kd, KD)
    torch.testing.assert_close(method.soft(batch).value, kd.soft(batch).value, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(method.class_weights(batch), torch.ones(6, 10))


@pytest.mark.parametrize("rho", [0.5, 4.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_module_converges_to_teacher_with_corrected_labels(rho: float, temperature: float) -> None:
    method, batch = method_for(10, cam_rho=rho, temperature=temperature), batch_of(10)
    assert isinstance(method, AKD)
    free = Free(6, 10)
    method.context = free  # type: ignore[assignment]
    optimizer = torch.optim.LBFGS(
        free.parameters(),
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = method.soft(batch).loss
        assert loss is not None
        torch.autograd.backward(loss)
        return loss.item()

    optimizer.step(closure)  # type: ignore[arg-type, no-untyped-call]
    p = (batch.teacher_logits / temperature).softmax(1)
    expected = (functional.one_hot(batch.labels, 10) + rho * p) / (1 + rho)
    torch.testing.assert_close(
        method.class_distributions(batch)["reweighted"].detach(), expected, rtol=0, atol=1e-4
    )
    mean = method.class_weights(batch)
    assert mean is not None
    torch.testing.assert_close(mean.mean(1), torch.ones(6).double())


def test_the_modules_objective_is_cross_entropy_and_rho_times_the_divergence_from_the_teacher() -> (
    None
):
    method, batch = awake(method_for(10, cam_rho=2.5)).double(), batch_of(10)
    assert isinstance(method, AKD) and method.context is not None
    v, scores = batch.teacher_logits / 4, method.context(batch.teacher_logits, batch.student.logits)
    p, mixed = v.softmax(1), (v + scores).softmax(1)
    expected = (
        functional.nll_loss(mixed.log(), batch.labels) + 2.5 * (p * (p / mixed).log()).sum(1).mean()
    )
    objective = method(batch)
    torch.testing.assert_close(objective.terms["cam"], expected.detach(), rtol=1e-10, atol=0)
    q = (batch.student.logits / 4).log_softmax(1)
    soft = 16 * (mixed * (mixed.log() - q)).sum(1).mean()
    hard = functional.cross_entropy(batch.student.logits, batch.labels)
    torch.testing.assert_close(
        objective.loss, 0.3 * hard + 0.7 * soft + expected, rtol=1e-10, atol=0
    )


@every_size
def test_detached_module_and_student_have_separate_gradients(classes: int) -> None:
    method, batch = awake(method_for(classes)).double(), batch_of(classes)
    assert isinstance(method, AKD)
    soft, hard = method.soft(batch), batch.cross_entropy()
    assert soft.loss is not None
    bare = 0.3 * hard + 0.7 * soft.value.mean()
    student, module = gradients(method(batch).loss, method, batch)
    expected, untouched = gradients(bare, method, batch)
    torch.testing.assert_close(student, expected, rtol=1e-12, atol=1e-16)
    assert all(one is None for one in untouched)
    own = torch.autograd.grad(method.soft(batch).loss, list(method.parameters()))  # type: ignore[arg-type]
    for found, alone in zip(module, own, strict=True):
        assert found is not None
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-14)


def test_joint_module_has_the_gradient_of_the_students_loss() -> None:
    method, apart = awake(method_for(10, cam_grad="joint")).double(), awake(method_for(10)).double()
    batch = batch_of(10)
    assert isinstance(method, AKD)
    student, module = gradients(method(batch).loss, method, batch)
    expected, alone = gradients(apart(batch).loss, apart, batch)
    torch.testing.assert_close(student, expected, rtol=1e-12, atol=1e-16)
    _, through = gradients(
        0.3 * batch.cross_entropy() + 0.7 * method.soft(batch).value.mean(), method, batch
    )
    for both, one, other in zip(module, alone, through, strict=True):
        assert both is not None and one is not None and other is not None
        torch.testing.assert_close(both, one + other, rtol=1e-8, atol=1e-12)
    assert any(other is not None and other.abs().max() > 1e-6 for other in through)


@pytest.mark.parametrize("grad", ["detached", "joint"])
def test_the_teacher_gets_no_gradient(grad: str) -> None:
    method, batch = awake(method_for(10, cam_grad=grad)).double(), batch_of(10)
    assert batch.teacher is not None
    batch.teacher.logits.requires_grad_()
    method(batch).loss.backward()
    assert batch.teacher.logits.grad is None and batch.student.logits.grad is not None


@every_size
@pytest.mark.parametrize("grad", ["detached", "joint"])
def test_any_number_of_classes_trains_and_autocast_changes_nothing(classes: int, grad: str) -> None:
    method, batch = (
        awake(method_for(classes, cam_grad=grad)),
        batch_of(classes, size=3, dtype=torch.float32),
    )
    outside = method(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = method(batch)
    assert torch.equal(outside.loss, inside.loss) and inside.loss.dtype == torch.float32
    for one, other in zip(
        gradients(outside.loss, method, batch)[1],
        gradients(inside.loss, method, batch)[1],
        strict=True,
    ):
        assert (
            one is not None
            and other is not None
            and one.isfinite().all()
            and torch.equal(one, other)
        )


@pytest.mark.parametrize(
    "settings", [{}, {"alpha_schedule": "gap"}, {"alpha_schedule": "learnable"}]
)
def test_unlabelled_and_blended_samples_train_the_module_too(settings: dict[str, Any]) -> None:
    method, batch = awake(method_for(10, **settings)), batch_of(10, dtype=torch.float32)
    none = torch.full((6,), -1)
    for one in (
        replace(batch, labels=none),
        replace(batch, mix=Mix(batch.labels.roll(1), torch.linspace(0, 1, 6))),
    ):
        objective = method(one)
        assert objective.loss.isfinite()
        assert all(
            found is not None and found.isfinite().all()
            for found in gradients(objective.loss, method, one)[1]
        )


def test_without_labels_module_converges_to_teacher() -> None:
    """Its cross entropy is zero then; the rest is least without a change."""
    method, batch = (
        method_for(10),
        replace(batch_of(10, dtype=torch.float32), labels=torch.full((6,), -1)),
    )
    objective = method(batch)
    assert float(objective.terms["cam"]) == pytest.approx(0, abs=1e-6)
    assert all(
        found is None or found.abs().max() < 1e-6
        for found in gradients(objective.loss, method, batch)[1]
    )


@pytest.mark.parametrize(
    "alpha", [{}, {"alpha_schedule": "learnable", "alpha_learning_rate": 0.003}]
)
def test_module_and_alpha_are_separate_parameter_groups(alpha: dict[str, Any]) -> None:
    method = method_for(10, cam_learning_rate=0.05, **alpha)
    assert isinstance(method, AKD) and method.context is not None
    *before, last = method.parameter_groups()
    assert last.learning_rate == 0.05 and last.scheduled
    assert {id(one) for one in last.parameters} == {id(one) for one in method.context.parameters()}
    assert [(group.learning_rate, group.scheduled) for group in before] == (
        [(0.003, False)] if alpha else []
    )
    grouped = [id(one) for group in method.parameter_groups() for one in group.parameters]
    assert sorted(grouped) == sorted(id(one) for one in method.parameters())


def test_without_module_has_no_parameters_or_terms() -> None:
    method, batch = method_for(10, cam=False), batch_of(10)
    assert isinstance(method, AKD) and not list(method.parameters())
    assert method.class_weights(batch) is None
    assert (
        set(method.class_distributions(batch)) == {"teacher", "student"}
        and "cam" not in method(batch).terms
    )


def test_class_distributions_are_at_the_temperature() -> None:
    method, batch = awake(method_for(10)).double(), batch_of(10)
    shown = method.class_distributions(batch)
    assert set(shown) == {"teacher", "student", "reweighted"}
    torch.testing.assert_close(shown["teacher"], (batch.teacher_logits / 4).softmax(1))
    torch.testing.assert_close(shown["student"], (batch.student.logits / 4).softmax(1))
    weights = method.class_weights(batch)
    assert weights is not None
    raised = weights * shown["teacher"]
    torch.testing.assert_close(shown["reweighted"], raised / raised.sum(1, keepdim=True))


def test_a_look_ahead_goes_through_the_module_and_leaves_its_gradients() -> None:
    method = awake(method_for(10, alpha_schedule="learnable", alpha_learnable="bilevel")).double()
    batch = batch_of(10)
    assert batch.teacher is not None
    weights = {"scale": torch.ones(10, dtype=torch.float64)}

    def at(parameters: Any) -> Batch:
        logits = batch.student.logits.detach() * parameters["scale"]
        return replace(batch, student=Output(logits, batch.student.features))

    method.look_ahead(LookAhead(weights, at, at, 0.1))
    assert all(parameter.grad is None for parameter in method.parameters())
    assert isinstance(method, AKD) and abs(float(method.alpha.slope)) == pytest.approx(1)  # type: ignore[arg-type]


def test_the_gap_is_measured_on_the_teacher_that_is_followed() -> None:
    method, batch = (
        awake(method_for(10, alpha_schedule="gap", alpha_ema=0.0)).double(),
        batch_of(10, scale=1.0),
    )
    assert isinstance(method, AKD)
    soft = method.soft(batch)
    found = method.alpha.compute(batch, Terms(batch.cross_entropy(), soft.value, soft.divergence))
    value, hard = soft.value.mean().item(), batch.cross_entropy().item()
    assert float(found) == pytest.approx(value / (value + hard), abs=1e-6)


def test_prepare_does_not_run_the_teacher() -> None:
    calls = 0

    def knowledge() -> Knowledge:
        nonlocal calls
        calls += 1
        return Knowledge(torch.zeros(24, 10), None, torch.zeros(24, dtype=torch.long))

    AKD(AKD.Settings.build({"cam": True})).prepare(knowledge, Task(10, 24, 3))
    assert calls == 0, "a pass of the teacher over the training part"


@pytest.mark.parametrize(
    "settings",
    [{"cam": True}, {"alpha_schedule": "learnable", "alpha_learnable": "uncertainty"}],
    ids=["cam", "uncertainty"],
)
def test_the_tracked_loss_is_the_students_alone(
    settings: dict[str, Any], prepare: Any, make_batch: Any
) -> None:
    method = prepare("akd", **settings)
    objective = method(make_batch(method))
    hard, soft, weight = (
        objective.terms[name] for name in ("cross_entropy", "distillation", "alpha")
    )
    torch.testing.assert_close(objective.terms["loss"], (1 - weight) * hard + weight * soft)
    assert not torch.equal(objective.loss, objective.terms["loss"])


def test_without_all_labels_the_module_still_ends_at_the_corrected_teacher(
    prepare: Any, make_batch: Any
) -> None:
    """Its objective is a mean over samples: CE + rho D with a label, rho D without one."""
    method = prepare("akd", cam=True, cam_rho=3.0)
    batch = make_batch(method)
    labels = torch.where(torch.arange(len(batch.labels)) % 2 == 0, batch.labels, -1)
    with torch.no_grad():
        for parameter in method.context.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            )
        scores = method.context(batch.teacher.logits, batch.student.logits)
    log_p = (batch.teacher.logits / 4).log_softmax(1)
    log_mixed = (batch.teacher.logits / 4 + scores).log_softmax(1)
    each = [
        3.0 * (p.exp() * (p - mixed)).sum() - (mixed[label] if label >= 0 else 0.0)
        for p, mixed, label in zip(log_p, log_mixed, labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(
        method(replace(batch, labels=labels)).terms["cam"],
        torch.stack(each).mean(),
        rtol=1e-5,
        atol=1e-6,
    )
