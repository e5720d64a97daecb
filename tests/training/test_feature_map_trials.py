"""Train with feature maps: maps of each batch, cache, resumes, and features without a bank."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from trials_run import records_of, saved

from methods import METHODS, Batch, Knowledge, Needs, Objective, Task
from methods.attention_transfer import AttentionTransfer
from methods.cross_entropy import CrossEntropy
from methods.feature_maps import MapShape
from orchestrator.config.trial import TrialSpec
from orchestrator.data.dataset import Dataset
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher
from orchestrator.training.process_cache import open_teacher

SMALL = (
    "data.limit.train=96",
    "data.limit.validation=40",
    "data.limit.test=40",
    "training.batch_size=32",
    "training.epochs=2",
    "student.name=cnn",
    "student.width=4",
)
Make = Callable[..., TrialSpec]


@pytest.fixture
def distil_maps(specify: Any, make_teacher: Any) -> Make:
    """Return a function that specifies a trial with a convolutional teacher."""

    def make(*pairs: str, folder: str = "trial") -> TrialSpec:
        chosen = ("teacher.network.name=cnn", "teacher.network.width=6")
        spec = specify(*SMALL, *chosen, *pairs, folder=folder)
        return spec.model_copy(update={"teacher": make_teacher(spec.data, "cnn", width=6)})  # type: ignore[no-any-return]

    return make


class Recording(AttentionTransfer):
    """Attention transfer that records its batches and its task."""

    batches: list[Batch] = []  # noqa: RUF012
    tasks: list[Task] = []  # noqa: RUF012

    def prepare(self, knowledge: Any, task: Task) -> None:
        super().prepare(knowledge, task)
        Recording.tasks.append(task)

    def forward(self, batch: Batch) -> Objective:
        Recording.batches.append(batch)
        return super().forward(batch)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    monkeypatch.setitem(METHODS, "attention_transfer", Recording)
    Recording.batches, Recording.tasks = [], []
    return Recording


@pytest.mark.parametrize("augmentation", ["none", "crop"])
def test_batch_has_the_maps_of_its_inputs(
    augmentation: str, distil_maps: Make, recording: type[Recording]
) -> None:
    spec = distil_maps("method.name=attention_transfer", f"data.augmentation={augmentation}")
    records_of(spec)
    assert spec.teacher is not None
    teacher = open_teacher(spec.teacher, torch.device("cpu"), True, None, False)
    stages = ["stage1", "stage2", "stage3"]
    for batch in recording.batches:
        assert isinstance(batch.inputs, Tensor)
        _, maps = teacher.compute_with_maps(batch.inputs, stages)
        assert list(batch.teacher_maps) == list(batch.student_maps) == stages
        for name in stages:
            # the cache holds float16
            torch.testing.assert_close(batch.teacher_maps[name], maps[name], rtol=2e-3, atol=2e-3)
            assert not batch.teacher_maps[name].requires_grad
            assert batch.student_maps[name].requires_grad
    (task,) = recording.tasks
    assert task.teacher_maps == {name: MapShape(*maps[name].shape[1:]) for name in stages} and (
        task.student_features,
        task.teacher_features,
    ) == (16, 24)


@pytest.mark.parametrize(
    ("pairs", "kind"),
    [
        (("data.augmentation=none",), CachedTeacher),
        (("data.augmentation=crop",), OnlineTeacher),
        (("data.augmentation=none", "teacher.cache_gib=0.00005"), OnlineTeacher),
        (("data.augmentation=none", "teacher.mode=online"), OnlineTeacher),
    ],
)
def test_maps_are_cached_for_the_clean_view_if_they_fit(
    pairs: tuple[str, ...], kind: type, distil_maps: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[type] = set()
    for source in (CachedTeacher, OnlineTeacher):
        monkeypatch.setattr(source, "answer", _watched(source, used))
    records_of(distil_maps("method.name=fitnet", *pairs))
    assert used == {kind}


def _watched(source: Any, used: set[type]) -> Callable[..., Any]:
    answer = source.answer

    def answered(self: Any, batch: Any) -> Any:
        used.add(source)
        return answer(self, batch)

    return answered


@pytest.mark.parametrize("method", ["fitnet", "attention_transfer", "crd", "review_kd"])
@pytest.mark.parametrize("augmentation", ["none", "crop"])
def test_resumed_trial_is_bit_identical(method: str, augmentation: str, distil_maps: Make) -> None:
    pairs = (f"method.name={method}", f"data.augmentation={augmentation}", "method.alpha=0.5")
    whole, broken = distil_maps(*pairs), distil_maps(*pairs, folder="broken")
    expected = records_of(whole)
    records_of(broken, dies_after=1)
    found = records_of(broken)
    assert found[-1].metrics["test/last/nll"] == expected[-1].metrics["test/last/nll"]
    states: list[Mapping[str, Tensor]] = [
        saved(each).student | saved(each).method for each in (whole, broken)
    ]
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


def test_students_of_different_depth_share_one_teacher(distil_maps: Make) -> None:
    peers = ("peers.b.network.name=mlp", "peers.b.network.width=8", "peers.b.network.depth=3")
    records = records_of(distil_maps("method.name=fitnet", *peers))
    assert {"a/train/features", "b/train/features"} <= set(records[-1].metrics)


class FeatureMatching(CrossEntropy):
    """Cross entropy that requests the teacher's features without a bank, and records them."""

    needs = Needs(features=True)
    found: list[tuple[Knowledge, Task]] = []  # noqa: RUF012

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        assert knowledge is not None
        FeatureMatching.found.append((knowledge(), task))

    def forward(self, batch: Batch) -> Objective:
        assert batch.teacher is not None and batch.teacher.features.shape[1] == 24
        return super().forward(batch)


def test_features_without_a_bank_are_known_and_sized(
    distil_maps: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "cross_entropy", FeatureMatching)
    FeatureMatching.found = []
    spec = distil_maps("method.name=cross_entropy", "data.augmentation=none")
    records_of(spec)
    ((knowledge, task),) = FeatureMatching.found
    assert knowledge.features is not None
    assert knowledge.features.shape == (len(Dataset.open(spec.data).train), 24)
    assert (task.student_features, task.teacher_features) == (16, 24)
