"""Compare FitNet and attention transfer with loops and identities."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods import Batch, Output, SettingsError, Task, build_method
from methods.attention_transfer import AttentionTransfer, attention
from methods.feature_distillation import pool_to_smaller
from methods.feature_maps import FeatureStages, MapShape, select_stage
from methods.fitnet import FitNet
from tests.refusal import refused

THREE = ("stage1", "stage2", "stage3")
SIZE, CLASSES = 5, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Batch:
    features = draw(SIZE, 3)
    return Batch(
        torch.arange(SIZE),
        features,
        torch.arange(SIZE) % CLASSES,
        Output(draw(SIZE, CLASSES, seed=1), features),
        Output(draw(SIZE, CLASSES, seed=2), features),
        student_maps=student,
        teacher_maps=teacher,
    )


def fitnet(student: Tensor, teacher: Tensor, **settings: Any) -> FitNet:
    torch.manual_seed(0)
    method = FitNet(FitNet.Settings.build(settings))
    shapes = [{"stage2": MapShape(*each.shape[1:])} for each in (student, teacher)]
    method.prepare(None, Task(CLASSES, 9, 2, student_maps=shapes[0], teacher_maps=shapes[1]))
    return method


def test_hint_equals_a_loop_over_positions() -> None:
    student, teacher = draw(SIZE, 2, 4, 4).float(), draw(SIZE, 3, 2, 2, seed=5).float()
    method, total = fitnet(student, teacher), 0.0
    regressor = method.regressor
    assert isinstance(regressor, nn.Conv2d) and regressor.bias is not None
    weight, bias = regressor.weight[:, :, 0, 0], regressor.bias
    for sample in range(SIZE):
        for row in range(2):
            for column in range(2):
                square = student[sample, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                guess = (weight @ square.mean(dim=(1, 2)) + bias).relu()
                distance = (guess - teacher[sample, :, row, column]).square().sum()
                total += distance.item()
    term = method.feature_term(batch_of({"stage2": student}, {"stage2": teacher}))
    assert term.item() == pytest.approx(total / teacher.numel(), rel=1e-5)


def test_hint_is_zero_for_a_map_that_the_regressor_gives() -> None:
    student = draw(SIZE, 2, 3, 3).float()
    method = fitnet(student, draw(SIZE, 4, 3, 3))
    hint = method.regressor(student).relu().detach()
    term = method.feature_term(batch_of({"stage2": student}, {"stage2": hint}))
    assert term.item() == 0


def test_regressor_is_trained_and_the_teacher_is_not() -> None:
    student, teacher = draw(SIZE, 2, 3, 3).float(), draw(SIZE, 4, 3, 3).float()
    student.requires_grad_()
    method = fitnet(student, teacher)
    method(batch_of({"stage2": student}, {"stage2": teacher})).loss.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert method.regressor.weight.grad is not None and teacher.grad is None


@pytest.mark.parametrize(
    ("number", "stages", "expected"),
    [
        (0, THREE, "stage2"),
        (0, THREE[:2], "stage1"),
        (0, THREE[:1], "stage1"),
        (3, THREE, "stage3"),
    ],
)
def test_stage_is_the_middle_one_or_the_one_that_is_named(
    number: int, stages: tuple[str, ...], expected: str
) -> None:
    assert select_stage(stages, number, "student_stage") == expected


def test_stage_that_does_not_exist_is_refused() -> None:
    with refused("teacher_stage", 4, (0, 3), error=SettingsError):
        FitNet(FitNet.Settings.build({"teacher_stage": 4})).select_stages(THREE, THREE)
    with refused("stages", 3, (0, 2), error=SettingsError):
        AttentionTransfer(AttentionTransfer.Settings.build({"stages": 3})).select_stages(
            THREE[:2], THREE
        )


def test_network_without_stages_is_refused() -> None:
    with refused("student_stage", 0, error=SettingsError):
        FitNet(FitNet.Settings()).select_stages((), THREE)
    with refused("stages", 0, error=SettingsError):
        AttentionTransfer(AttentionTransfer.Settings()).select_stages(THREE, ())


def transfer(**settings: Any) -> AttentionTransfer:
    return AttentionTransfer(AttentionTransfer.Settings.build(settings))


def test_stages_are_paired_from_the_output() -> None:
    assert transfer().select_stages(THREE[:2], THREE) == FeatureStages(THREE[:2], THREE[1:])
    assert transfer(stages=1).select_stages(THREE, THREE) == FeatureStages(THREE[2:], THREE[2:])


def test_attention_equals_a_loop_over_positions() -> None:
    student = {"stage1": draw(SIZE, 2, 4, 4), "stage2": draw(SIZE, 3, 2, 2, seed=1)}
    teacher = {"stage2": draw(SIZE, 5, 4, 4, seed=2), "stage3": draw(SIZE, 2, 2, 2, seed=3)}
    total = 0.0
    for s, t in zip(student.values(), teacher.values(), strict=True):
        positions = s.shape[2] * s.shape[3]
        for sample in range(SIZE):
            both = []
            for maps in (s[sample], t[sample]):
                values = [
                    sum(float(v) ** 2 for v in maps[:, row, column]) / len(maps)
                    for row in range(s.shape[2])
                    for column in range(s.shape[3])
                ]
                norm = sum(value**2 for value in values) ** 0.5
                both.append([value / norm for value in values])
            total += sum((a - b) ** 2 for a, b in zip(*both, strict=True)) / (SIZE * positions)
    term = transfer().feature_term(batch_of(student, teacher))
    assert term.item() == pytest.approx(total, rel=1e-5)


def test_attention_ignores_the_scale_and_the_order_of_channels() -> None:
    maps = draw(SIZE, 3, 4, 4)
    torch.testing.assert_close(attention(7.0 * maps.flip(1)), attention(maps))
    torch.testing.assert_close(attention(maps).square().sum(dim=1), torch.ones(SIZE).double())
    same = transfer().feature_term(batch_of({"stage1": 3 * maps}, {"stage1": maps}))
    assert same.item() == pytest.approx(0, abs=1e-12)


def test_map_with_a_single_position_is_refused() -> None:
    shapes = {"stage1": MapShape(8, 1, 1)}
    larger = {"stage3": MapShape(4, 7, 6)}
    with refused("stages", 0, error=SettingsError) as caught:
        transfer().prepare(None, Task(CLASSES, 9, 2, student_maps=shapes, teacher_maps=larger))
    assert "stage1 8x1x1" in str(caught.value) and "stage3 4x7x6" in str(caught.value)


def test_maps_are_averaged_to_the_smaller_sides() -> None:
    first, second = pool_to_smaller(draw(2, 3, 4, 2), draw(2, 5, 2, 4))
    assert first.shape == (2, 3, 2, 2) and second.shape == (2, 5, 2, 2)
    same = draw(2, 3, 4, 4)
    assert pool_to_smaller(same, same)[0] is same


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_objective_is_the_weighted_sum_of_its_terms(alpha: float) -> None:
    maps = {"stage1": draw(SIZE, 3, 4, 4).float()}
    batch = batch_of(maps, {"stage1": draw(SIZE, 2, 4, 4, seed=4).float()})
    objective = transfer(alpha=alpha, beta=20.0)(batch)
    terms = objective.terms
    expected = (1 - alpha) * terms["cross_entropy"] + 20 * terms["features"]
    if alpha:
        expected = expected + alpha * terms["distillation"]
    torch.testing.assert_close(objective.loss, expected)
    assert ("distillation" in terms) == bool(alpha)
    without = replace(batch, student_maps={}, teacher_maps={})
    with pytest.raises(ValueError, match="feature maps"):
        transfer()(without)


RELEASED = {(4, 4): (4, 4), (8, 8): (4, 4), (3, 2): (6, 4), (7, 6): (5, 6)}


@pytest.mark.parametrize(("student", "teacher"), RELEASED.items())
def test_released_regressor_gives_the_size_of_the_teacher(
    student: tuple[int, int], teacher: tuple[int, int]
) -> None:
    maps, hint = draw(SIZE, 2, *student).float(), draw(SIZE, 3, *teacher, seed=1).float()
    method = fitnet(maps, hint, regressor="released")
    guess = method.regressor(maps)
    assert guess.shape == hint.shape
    # the batch norm of a batch: each channel has mean 0 and variance 1
    torch.testing.assert_close(guess.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(guess.var((0, 2, 3), correction=0), torch.ones(3), atol=1e-2, rtol=0)
    term = method.feature_term(batch_of({"stage2": maps}, {"stage2": hint}))
    torch.testing.assert_close(term, (guess.clamp(min=0) - hint).square().mean())
    assert all(group.decayed for group in method.parameter_groups()) and not list(method.buffers())
    assert not fitnet(maps, hint).parameter_groups()[0].decayed


def test_released_regressor_that_does_not_exist_is_refused_with_both_sizes() -> None:
    with refused("regressor", "released", ("pointwise",), error=SettingsError) as caught:
        fitnet(draw(SIZE, 2, 3, 3), draw(SIZE, 4, 8, 8), regressor="released")
    assert "2x3x3" in str(caught.value) and "4x8x8" in str(caught.value)


def test_additive_form_has_the_whole_cross_entropy() -> None:
    maps = {"stage1": draw(SIZE, 3, 4, 4).float()}
    batch = batch_of(maps, {"stage1": draw(SIZE, 2, 4, 4, seed=4).float()})
    objective = transfer(alpha=1.0, beta=20.0, form="additive")(batch)
    terms = objective.terms
    expected = terms["cross_entropy"] + terms["distillation"] + 20 * terms["features"]
    torch.testing.assert_close(objective.loss, expected)


def test_logit_term_of_wttm_is_that_of_the_method() -> None:
    maps = {"stage1": draw(SIZE, 3, 4, 4).float()}
    batch = batch_of(maps, maps)
    combined = transfer(alpha=4.0, form="additive", logit_term="wttm", temperature=5.0)(batch)
    wttm = {"form": "additive", "beta": 4.0, "normalize": False, "temperature": 5.0}
    alone = build_method("wttm", {**wttm, "mean_power_sum": False})
    alone.prepare(None, Task(CLASSES, 9, 2))
    assert combined.terms["features"].item() == 0
    torch.testing.assert_close(combined.loss, alone(batch).loss)


def test_weight_above_one_needs_the_additive_form() -> None:
    with refused("alpha", 1.5, (0, 1), error=SettingsError):
        transfer(alpha=1.5)
    with refused("alpha", 101.0, error=SettingsError):
        transfer(alpha=101.0, form="additive")
