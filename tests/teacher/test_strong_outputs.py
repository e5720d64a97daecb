"""Test that the teacher's outputs on strong views are cached under an identity of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orchestrator.config.ensemble_schema import Ensemble
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.ensemble import EnsembleOutputs, FrozenEnsemble
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher

CPU = torch.device("cpu")
VIEW = 1


@pytest.fixture
def spec(specify: Callable[..., TrialSpec]) -> TrialSpec:
    return specify("data.limit.train=96", "data.limit.validation=40", "data.limit.test=40")


@pytest.fixture
def batches(spec: TrialSpec) -> Batches:
    dataset = Dataset.open(spec.data)
    transforms = {"random_erasing": 1.0}
    views = Views("crop", 0, len(dataset.train), 1, transforms=transforms)
    return Batches(dataset, views, 32, 0, strong=views.strong(transforms))


def cached(teacher: FrozenTeacher, batches: Batches | None, root: Path) -> CachedTeacher:
    assert batches is not None
    return CachedTeacher(teacher, batches, Cache(root, 2**24), "float32", TrialContext(), 5)


def test_both_views_are_cached_and_equal_the_teacher_to_the_bit(
    batches: Batches, spec: TrialSpec, make_teacher: Callable[..., Path], tmp_path: Path
) -> None:
    teacher = FrozenTeacher.open(make_teacher(spec.data, width=16), CPU)
    weak, strong = (cached(teacher, each, tmp_path / "c") for each in (batches, batches.strong))
    for source in (weak, strong):
        source.open_view(VIEW)
        assert source.counts() == {"hits": 0.0, "misses": 1.0}
    assert weak.files(VIEW)["logits"].parent != strong.files(VIEW)["logits"].parent
    assert weak.files(None) == strong.files(None), "the clean view is computed once"
    online = OnlineTeacher(teacher)
    for batch in batches.train(4, VIEW):
        assert batch.strong is not None
        pairs = [(weak.answer(batch), batch), (strong.answer(batch.strong), batch.strong)]
        for answer, inputs in pairs:
            assert torch.equal(answer.logits, online.answer(inputs).logits)
        assert not torch.equal(pairs[0][0].logits, pairs[1][0].logits)


@pytest.mark.parametrize("weights", ["fixed", "confidence", "entropy"])
def test_several_teachers_are_averaged_on_strong_views(
    batches: Batches,
    spec: TrialSpec,
    make_teacher: Callable[..., Path],
    tmp_path: Path,
    weights: str,
) -> None:
    teachers = [
        FrozenTeacher.open(make_teacher(spec.data, network, width=width), CPU)
        for network, width in (("mlp", 16), ("cnn", 4))
    ]
    ensemble = FrozenEnsemble(teachers, Ensemble.model_validate({"weights": weights}))
    source = EnsembleOutputs(
        ensemble, [cached(each, batches.strong, tmp_path / "cache") for each in teachers]
    )
    source.open_view(VIEW)
    for batch in batches.train(0, VIEW):
        strong = batch.strong
        assert strong is not None
        logits = [teacher(strong.inputs).logits for teacher in teachers]
        expected, _ = ensemble.average(logits, strong.labels)
        assert torch.equal(source.answer(strong).logits, expected.logits)
