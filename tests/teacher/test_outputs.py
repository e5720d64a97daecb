"""Test that cached outputs are the teacher's, computed once, under a unique name."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.memory import SMALL_BYTES
from orchestrator.data.views import Views
from orchestrator.teacher import outputs
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher
from orchestrator.training._trainer import train
from orchestrator.training.process_cache import (
    compute_clean_knowledge,
    compute_validation_predictions,
)
from tests.refusal import refused

CPU = torch.device("cpu")
LIMIT_BYTES = 2**24
SMALL = (
    "data.limit.train=128",
    "data.limit.validation=40",
    "data.limit.test=40",
    "data.augmentation=crop",
)

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


class Counting(FrozenTeacher):
    """A teacher that counts its evaluated samples."""

    samples_seen = 0

    def compute_with_maps(self, inputs: torch.Tensor, stages: Sequence[str]) -> Any:
        """Return the teacher's output and feature maps."""
        self.samples_seen += len(inputs)
        return super().compute_with_maps(inputs, stages)


@pytest.fixture
def spec(specify: Specify) -> TrialSpec:
    return specify(*SMALL)


@pytest.fixture
def teacher(spec: TrialSpec, make_teacher: MakeTeacher) -> Counting:
    opened = Counting.open(make_teacher(spec.data, width=16), CPU)
    assert isinstance(opened, Counting)
    return opened


def batches_of(
    spec: TrialSpec, seed: int = 0, policy: str = "crop", pad: int = 1, size: int = 32
) -> Batches:
    dataset = Dataset.open(spec.data)
    return Batches(dataset, Views(policy, seed, len(dataset.train), pad), size, seed)


def cached(
    teacher: FrozenTeacher, batches: Batches, root: Path, dtype: str = "float32", wait_s: float = 5
) -> CachedTeacher:
    return CachedTeacher(teacher, batches, Cache(root, LIMIT_BYTES), dtype, TrialContext(), wait_s)


def folder_of(source: CachedTeacher) -> Path:
    """Return the folder of the augmented views."""
    return source.files(0)["logits"].parent


def test_training_from_the_cache_is_training_online(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    weights = []
    for mode in ("online", "cached"):
        pairs = (
            "training.epochs=3",
            "training.batch_size=32",
            "method.name=wttm",
            f"teacher.mode={mode}",
            "teacher.dtype=float32",
        )
        spec = specify(*SMALL, *pairs, folder=mode)
        spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=16)})
        train(spec, TrialContext())
        weights.append(load_file(spec.folder / "checkpoint" / "student.safetensors"))
        assert spec.knowledge is not None
        files = sorted(file.name for file in spec.knowledge.glob("*/*.npy"))
        assert files == (
            []
            if mode == "online"
            else ["clean.npy", *(f"view-{view:05d}.npy" for view in range(3))]
        )
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


@pytest.mark.parametrize("view", [None, 0, 7])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.0), ("float16", 2.0**-11)])
def test_cached_outputs_are_those_of_the_teacher(
    spec: TrialSpec, teacher: Counting, tmp_path: Path, dtype: str, bound: float, view: int | None
) -> None:
    batches = batches_of(spec)
    source = cached(teacher, batches, tmp_path, dtype)
    source.open_view(view)
    for batch in batches.train(epoch=3, view=view):
        expected = teacher(batch.inputs).logits
        answer = source.answer(batch).logits
        assert answer.dtype == torch.float32
        assert ((answer - expected).abs() <= bound * expected.abs() + bound * 2.0**-13).all()


def test_views_have_different_outputs(spec: TrialSpec, teacher: Counting, tmp_path: Path) -> None:
    source = cached(teacher, batches_of(spec), tmp_path)
    seen = []
    for view in (None, 0, 1):
        source.open_view(view)
        seen.append(np.array(source.arrays["logits"]))
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], seen[2])


def test_a_second_user_finds_the_file_and_runs_no_teacher(
    spec: TrialSpec, teacher: Counting, tmp_path: Path
) -> None:
    batches = batches_of(spec)
    for user in range(3):
        source = cached(teacher, batches, tmp_path)
        source.open_view(0)
        assert teacher.samples_seen == 128, f"user {user}"
    cached(teacher, batches_of(spec, size=16), tmp_path).open_view(0)
    assert teacher.samples_seen == 128, "the batch size does not change the teacher's outputs"
    source.open_view(1)
    assert teacher.samples_seen == 256


def test_a_complete_cache_is_only_read(
    spec: TrialSpec, teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(teacher, batches_of(spec), tmp_path).open_view(0)
    monkeypatch.setattr(
        os, "utime", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    for writing in ("make", "writer"):
        monkeypatch.setattr(Cache, writing, lambda *_: pytest.fail("it was written to"))
    source = cached(teacher, batches_of(spec), tmp_path)
    source.open_view(0)
    assert source.counts() == {"hits": 1, "misses": 0}


def test_teacher_type_policy_and_seed_change_the_folder(
    spec: TrialSpec, teacher: Counting, tmp_path: Path
) -> None:
    other = Counting(teacher.network, "another fingerprint")
    elsewhere = batches_of(spec)
    changed = Dataset.open(spec.data)
    object.__setattr__(changed, "content", "other pictures")
    elsewhere.dataset = changed
    sources = [
        cached(teacher, batches_of(spec), tmp_path),
        cached(other, batches_of(spec), tmp_path),
        cached(teacher, batches_of(spec), tmp_path, dtype="float16"),
        cached(teacher, batches_of(spec, seed=1), tmp_path),
        cached(teacher, batches_of(spec, policy="crop_flip"), tmp_path),
        cached(teacher, batches_of(spec, pad=2), tmp_path),
        cached(teacher, elsewhere, tmp_path),
    ]
    assert len({folder_of(source) for source in sources}) == len(sources)
    assert folder_of(cached(teacher, batches_of(spec, size=8), tmp_path)) == folder_of(sources[0])


def test_waiting_too_long_for_the_lock_is_reported(
    spec: TrialSpec, teacher: Counting, tmp_path: Path
) -> None:
    source = cached(teacher, batches_of(spec), tmp_path, wait_s=0.01)
    folder_of(source).mkdir()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(f"{folder_of(source) / 'view-00000.npy'}.lock"):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        with refused(
            str(folder_of(source) / "view-00000.npy"), 0.01, error=PreflightError
        ) as raised:
            source.open_view(0)
    finally:
        done.set()
        holder.join()
    assert "\n" not in str(raised.value) and teacher.samples_seen == 0
    source.open_view(0)
    assert teacher.samples_seen == 128


def test_a_teacher_that_fails_leaves_no_file_and_no_lock(
    spec: TrialSpec, teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = cached(teacher, batches_of(spec), tmp_path, wait_s=0.01)
    with monkeypatch.context() as patch:
        patch.setattr(
            "os.posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error"))
        )
        with refused(
            str(folder_of(source) / "view-00000.npy"), "Input/output error", error=PreflightError
        ):
            source.open_view(0)
    assert {file.name for file in folder_of(source).iterdir()} == {
        "about.json",
        "view-00000.npy.lock",
    }
    source.open_view(0)
    assert source.read_all_outputs()[0].shape == (128, 10)


@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("online", [True, False])
def test_clean_outputs_are_in_the_order_of_the_training_part(
    spec: TrialSpec, teacher: Counting, tmp_path: Path, online: bool, features: bool
) -> None:
    batches = batches_of(spec, size=48)
    source = OnlineTeacher(teacher) if online else cached(teacher, batches, tmp_path)
    knowledge = compute_clean_knowledge(source, batches, TrialContext(), features)
    (whole,) = batches_of(spec, size=128).iterate_in_order("train")
    expected = teacher(whole.inputs)
    torch.testing.assert_close(knowledge.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(knowledge.labels, torch.as_tensor(batches.dataset.train.labels))
    if features:
        assert knowledge.features is not None
        torch.testing.assert_close(knowledge.features, expected.features, rtol=1e-5, atol=1e-5)
    else:
        assert knowledge.features is None


def test_clean_outputs_from_the_cache_read_no_images(
    spec: TrialSpec, teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of(spec)
    source = cached(teacher, batches, tmp_path)
    source.open_view(None)
    monkeypatch.setattr(
        Batches, "iterate_in_order", lambda *_: pytest.fail("the training part was read again")
    )
    knowledge = compute_clean_knowledge(source, batches, TrialContext(), features=False)
    assert knowledge.logits.shape == (128, 10) and knowledge.logits.dtype == torch.float32


def test_long_teacher_passes_send_heartbeats(spec: TrialSpec, teacher: Counting) -> None:
    signs: list[None] = []
    context, batches = TrialContext(heartbeat=lambda: signs.append(None)), batches_of(spec)
    compute_clean_knowledge(OnlineTeacher(teacher), batches, context, features=False)
    assert len(signs) == 4, "128 samples in batches of 32"
    teacher.fingerprint = "new fingerprint"
    compute_validation_predictions(teacher, batches, context)
    assert len(signs) == 4 + 2, "40 samples in batches of 32"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_small_and_mapped_outputs_are_the_same_bits(
    spec: TrialSpec, teacher: Counting, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, answers = batches_of(spec), []
    for limit in (SMALL_BYTES, 0):
        monkeypatch.setattr(outputs, "SMALL_BYTES", limit)
        source = cached(teacher, made, tmp_path, dtype)
        source.open_view(None, features=True)
        answers.append([source.answer(batch) for batch in made.train(0, None)])
        assert (source.tables["logits"].dtype == torch.float32) == (limit > 0 or dtype == "float32")
    for small, mapped in zip(*answers, strict=True):
        assert torch.equal(small.logits, mapped.logits) and small.logits.dtype == torch.float32
        assert torch.equal(small.features, mapped.features)


def test_outputs_in_memory_follow_the_open_view(
    spec: TrialSpec, teacher: Counting, tmp_path: Path
) -> None:
    made = batches_of(spec)
    source, online = cached(teacher, made, tmp_path), OnlineTeacher(teacher)
    for view in (0, 1, 1, 0):
        source.open_view(view)
        for batch in made.train(0, view):
            assert torch.equal(source.answer(batch).logits, online.answer(batch).logits)
