"""Fixtures of the method tests: batches and teacher outputs that satisfy a method's needs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from methods import METHODS, Batch, Knowledge, Method, Output, Task
from methods.capabilities import (
    UsesFeatureMaps,
    UsesMemoryBank,
    WeightsSamples,
    uses_peers,
    uses_teacher_bank,
)
from methods.feature_maps import FeatureStages, MapShape

CLASSES, FEATURES, SAMPLES = 10, 6, 24
STAGES = {"stage1": MapShape(4, 6, 6), "stage2": MapShape(6, 3, 3), "stage3": MapShape(8, 2, 2)}
TASK = Task(
    classes=CLASSES, samples=SAMPLES, epochs=3, student_features=FEATURES, teacher_features=FEATURES
)

Prepare = Callable[..., Method]
MakeBatch = Callable[..., Batch]


def _output(logits: Tensor, generator: torch.Generator) -> Output:
    return Output(
        logits, torch.randn(len(logits), FEATURES, generator=generator, dtype=logits.dtype)
    )


def _draw(generator: torch.Generator, size: int, scale: float, dtype: torch.dtype) -> Tensor:
    return (scale * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)).to(dtype)


def _maps(stages: Sequence[str], size: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: torch.randn(size, *STAGES[name], generator=generator) for name in stages}


def selected_stages(method: Method) -> FeatureStages:
    """Return the stages that a method selects of a student with two and a teacher with three."""
    if not isinstance(method, UsesFeatureMaps):
        return FeatureStages((), ())
    return method.select_stages(tuple(STAGES)[:2], tuple(STAGES))


@pytest.fixture
def make_batch() -> MakeBatch:
    """Return a function that builds a batch with exactly the inputs that a method needs."""

    def make(
        method: Method,
        size: int = 8,
        scale: float = 3.0,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        student, teacher, peer = (_draw(generator, size, scale, dtype) for _ in range(3))
        weights = torch.rand(size, generator=generator) + 0.5
        stages, maps = selected_stages(method), torch.Generator().manual_seed(seed + 100)
        return Batch(
            index=torch.randperm(SAMPLES, generator=generator)[:size],
            inputs=torch.randn(size, 4, generator=generator),
            labels=torch.randint(CLASSES, (size,), generator=generator),
            student=_output(student.requires_grad_(), generator),
            teacher=_output(teacher, generator) if method.needs.teacher else None,
            peers=(lambda: peer[None]) if uses_peers(method) else None,
            weights=weights / weights.mean() if isinstance(method, WeightsSamples) else None,
            student_maps=_maps(stages.student, size, maps),
            teacher_maps=_maps(stages.teacher, size, maps),
        )

    return make


@pytest.fixture
def prepare() -> Prepare:
    """Return a function that builds a method by name and prepares it for the small task."""

    def make(name: str, **settings: object) -> Method:
        torch.manual_seed(0)
        kind = METHODS[name]
        if "peer_warmup" in kind.Settings.model_fields:
            # otherwise the first epoch would not use the peers
            settings = {"peer_warmup": 0.0, **settings}
        method = kind(kind.Settings.build(settings))
        stages = selected_stages(method)
        task = replace(
            TASK,
            student_maps={name: STAGES[name] for name in stages.student},
            teacher_maps={name: STAGES[name] for name in stages.teacher},
        )
        method.prepare(_knowledge if method.needs.teacher else None, task)
        if isinstance(method, UsesMemoryBank) and uses_teacher_bank(method, TASK.epochs):
            method.update_bank(_knowledge())
        return method

    return make


def _knowledge() -> Knowledge:
    generator = torch.Generator().manual_seed(1)
    output = _output(_draw(generator, SAMPLES, 3.0, torch.float32), generator)
    return Knowledge(output.logits, output.features, torch.arange(SAMPLES) % CLASSES)
