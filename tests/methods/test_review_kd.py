"""Compare ReviewKD with loops over positions, identities and finite differences."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods import Batch, Output, Progress, SettingsError, Task
from methods.feature_maps import FeatureStages, MapShape
from methods.review_kd import Fusion, ReviewKD, hierarchical_context_loss
from tests.refusal import refused

SIZE, CLASSES = 4, 3
STUDENT = {"stage1": MapShape(2, 6, 6), "stage2": MapShape(3, 3, 3)}
TEACHER = {"stage1": MapShape(4, 6, 6), "stage2": MapShape(5, 4, 2)}
FEATURES = (3, 5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prepared(epochs: int = 8, **settings: Any) -> ReviewKD:
    torch.manual_seed(1)
    method = ReviewKD(ReviewKD.Settings.build(settings))
    sizes: dict[str, Any] = {"student_maps": STUDENT, "teacher_maps": TEACHER}
    sizes |= {"student_features": FEATURES[0], "teacher_features": FEATURES[1]}
    method.prepare(None, Task(CLASSES, 9, epochs, **sizes))
    return method


def batch_of() -> Batch:
    student = {name: draw(SIZE, *each, seed=each[0]) for name, each in STUDENT.items()}
    teacher = {name: draw(SIZE, *each, seed=each[0]) for name, each in TEACHER.items()}
    logits = [draw(SIZE, CLASSES, seed=seed) for seed in (7, 8)]
    own, target = (
        Output(each, draw(SIZE, width, seed=width))
        for each, width in zip(logits, FEATURES, strict=True)
    )
    index = torch.arange(SIZE)
    return Batch(
        index, logits[0], index % CLASSES, own, target, student_maps=student, teacher_maps=teacher
    )


def normalised(maps: Tensor, norm: nn.Module) -> Tensor:
    """Return maps (B, C, H, W) less their mean over the batch, divided by their deviation."""
    assert isinstance(norm, nn.BatchNorm2d)
    mean = maps.mean((0, 2, 3), keepdim=True)
    variance = (maps - mean).square().mean((0, 2, 3), keepdim=True)
    scaled = (maps - mean) / (variance + norm.eps).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def nearest(maps: Tensor, height: int, width: int) -> Tensor:
    """Return maps enlarged or reduced by a loop over positions."""
    result = maps.new_empty(*maps.shape[:2], height, width)
    for row in range(height):
        for column in range(width):
            source = row * maps.shape[2] // height, column * maps.shape[3] // width
            result[..., row, column] = maps[..., source[0], source[1]]
    return result


def convolved(maps: Tensor, weight: Tensor) -> Tensor:
    """Return a 3x3 convolution, as a sum over the nine shifted maps."""
    padded = nn.functional.pad(maps, (1, 1, 1, 1))
    height, width = maps.shape[2:]
    return sum(  # type: ignore[return-value]
        torch.einsum(
            "oc,bchw->bohw",
            weight[:, :, row, column],
            padded[:, :, row : row + height, column : column + width],
        )
        for row in range(3)
        for column in range(3)
    )


def expected_term(method: ReviewKD, batch: Batch) -> Tensor:
    """Return the feature term from the paper's figure, level by level."""
    assert batch.teacher is not None
    student = [*batch.student_maps.values(), batch.student.features[:, :, None, None]]
    teacher = [*batch.teacher_maps.values(), batch.teacher.features[:, :, None, None]]
    total, deeper = torch.zeros(()), None
    for level in (2, 1, 0):
        fusion = method.fusions[level]
        assert isinstance(fusion, Fusion)
        reduce, norm = fusion.reduce
        assert isinstance(reduce, nn.Conv2d)
        result = torch.einsum("oc,bchw->bohw", reduce.weight[:, :, 0, 0], student[level])
        result = normalised(result, norm)
        if deeper is not None:
            assert fusion.attention is not None and fusion.attention.bias is not None
            deeper = nearest(deeper, *result.shape[2:])
            both = torch.cat([result, deeper], dim=1)
            scores = torch.einsum("oc,bchw->bohw", fusion.attention.weight[:, :, 0, 0], both)
            shares = 1 / (1 + torch.exp(-scores - fusion.attention.bias[:, None, None]))
            result = result * shares[:, [0]] + deeper * shares[:, [1]]
        deeper = nearest(result, *teacher[level].shape[2:])
        expand, norm = fusion.expand
        assert isinstance(expand, nn.Conv2d)
        fused = normalised(convolved(deeper, expand.weight), norm)
        total = total + hierarchical_context_loss(fused, teacher[level])
    return total


def test_term_equals_the_fusion_of_each_level() -> None:
    method, batch = prepared(), batch_of()
    torch.testing.assert_close(method.feature_term(batch), expected_term(method, batch))


@pytest.mark.parametrize(("side", "levels"), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ())])
def test_context_loss_equals_loops_over_cells(side: int, levels: tuple[int, ...]) -> None:
    first, second = draw(2, 3, side, side), draw(2, 3, side, side, seed=1)
    total, weight, weights = (first - second).square().mean(), 1.0, 1.0
    for level in levels:
        weight, cell, squares = weight / 2, side // level, []
        for row in range(level):
            for column in range(level):
                window = (
                    ...,
                    slice(cell * row, cell * (row + 1)),
                    slice(cell * column, cell * (column + 1)),
                )
                means = first[window].mean((2, 3)) - second[window].mean((2, 3))
                squares.append(means.square())
        total, weights = total + weight * torch.stack(squares).mean(), weights + weight
    torch.testing.assert_close(hierarchical_context_loss(first, second), total / weights)


def test_context_loss_of_a_constant_distance_is_its_square() -> None:
    maps = draw(2, 3, 8, 8)
    assert hierarchical_context_loss(maps, maps + 3).item() == pytest.approx(9, rel=1e-5)
    assert hierarchical_context_loss(maps, maps).item() == 0


def test_gradients_equal_finite_differences() -> None:
    torch.manual_seed(2)
    fusion = Fusion(2, 3, MapShape(4, 4, 4), fuses=True).double()
    maps, deeper = draw(3, 2, 3, 3).double(), draw(3, 3, 2, 2, seed=1).double()
    teacher = draw(3, 4, 4, 4, seed=2).double()
    inputs = (maps.requires_grad_(), deeper.requires_grad_(), *fusion.parameters())

    def loss(*_: Tensor) -> Tensor:
        fused, result = fusion(maps, deeper)
        total: Tensor = hierarchical_context_loss(fused, teacher) + result.square().mean()
        return total

    assert torch.autograd.gradcheck(loss, inputs, atol=1e-6)


def test_teacher_has_no_gradient_and_the_student_has() -> None:
    method, batch = prepared(warmup=0.0), batch_of()
    maps = (batch.student_maps["stage1"].requires_grad_(), batch.student.features.requires_grad_())
    batch.teacher_maps["stage1"].requires_grad_()
    method(batch).loss.backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in maps)
    assert batch.teacher_maps["stage1"].grad is None
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_weight_rises_linearly_over_the_warm_up() -> None:
    method, weights = prepared(epochs=8, beta=6.0, warmup=0.5), []
    for epoch in range(1, 8):
        weights.append(float(method.beta))
        assert method.end_epoch(Progress(epoch, 8, {})) == {"beta": weights[-1]}
    assert weights == [0.0, 1.5, 3.0, 4.5, 6.0, 6.0, 6.0]
    assert prepared(beta=6.0, warmup=0.0).beta == 6.0
    assert prepared(epochs=1, beta=6.0).beta == 6.0, "a warm-up of less than one epoch"
    published = prepared(epochs=240)
    published.end_epoch(Progress(19, 240, {}))
    assert float(published.beta) == pytest.approx(5 * 19 / 20)
    published.end_epoch(Progress(20, 240, {}))
    assert published.beta == 5


def test_objective_has_the_weight_of_the_epoch() -> None:
    method, batch = prepared(epochs=4, beta=2.0, warmup=1.0), batch_of()
    method.end_epoch(Progress(1, 4, {}))
    objective = method(batch)
    terms = objective.terms
    torch.testing.assert_close(objective.loss, terms["cross_entropy"] + 0.5 * terms["features"])


def test_stages_are_paired_from_the_output() -> None:
    stages = ("stage1", "stage2", "stage3")
    method = ReviewKD(ReviewKD.Settings())
    assert method.select_stages(stages[:2], stages) == FeatureStages(stages[:2], stages[1:])
    with refused("stages", 3, (0, 2), error=SettingsError):
        ReviewKD(ReviewKD.Settings.build({"stages": 3})).select_stages(stages[:2], stages)
