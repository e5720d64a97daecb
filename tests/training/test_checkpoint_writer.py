"""Test that epochs are reported after their checkpoints, which are written beside the training."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.core.reports import EpochRecord
from orchestrator.store.progress import Progress
from orchestrator.training import _checkpoint_writer as writers
from orchestrator.training import _trainer as trainer
from orchestrator.training import checkpoint
from orchestrator.training._trainer import train
from orchestrator.training.checkpoint import BestFile, Checkpoint, ComponentState

CPU = torch.device("cpu")
EPOCHS = 4
PLAIN = (
    "data.limit.train=128",
    "data.limit.validation=40",
    "data.limit.test=40",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "student.name=mlp",
    "student.width=8",
    "method.name=cross_entropy",
    "teacher=null",
)
LONG_S = 60.0  # never reached: the awaited event happens

Specify = Callable[..., TrialSpec]
Save = Callable[..., None]


def saved_epoch(spec: TrialSpec) -> int:
    """Return the epoch of the checkpoint on disk, 0 without one."""
    loaded = checkpoint.load(spec.folder, "a", CPU)
    return loaded["a"].progress.record.epoch if loaded else 0


@pytest.fixture
def on_save(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Return a function that sets an action before each write, which receives the epoch."""

    def use(action: Callable[[int], None]) -> None:
        save: Save = checkpoint.save

        def acting(location: Any, parts: dict[str, Checkpoint], *rest: Any) -> None:
            action(parts["a"].progress.record.epoch)
            save(location, parts, *rest)

        monkeypatch.setattr(checkpoint, "save", acting)

    return use


def test_an_epoch_is_reported_when_its_checkpoint_can_be_loaded(specify: Specify) -> None:
    spec, epochs = specify(*PLAIN), list[tuple[int, int]]()

    def report(record: Any) -> None:
        epochs.append((record.epoch, saved_epoch(spec)))

    train(spec, TrialContext(report=report))
    assert epochs == [(epoch, epoch) for epoch in range(1, EPOCHS + 1)]


@pytest.mark.parametrize("failing", [1, 2, EPOCHS])
def test_a_failed_write_fails_the_trial_and_its_epoch_is_not_reported(
    failing: int, specify: Specify, on_save: Callable[..., None]
) -> None:
    spec, reported = specify(*PLAIN), list[int]()

    def fail(epoch: int) -> None:
        if epoch == failing:
            raise RuntimeError(f"epoch {epoch} cannot be written")

    on_save(fail)
    with pytest.raises(RuntimeError, match=f"^epoch {failing} cannot be written$"):
        train(spec, TrialContext(report=lambda record: reported.append(record.epoch)))  # type: ignore[union-attr]
    assert reported == list(range(1, failing)) and saved_epoch(spec) == failing - 1


def test_the_next_epoch_starts_during_a_write(
    specify: Specify, on_save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    second_epoch = threading.Event()
    train_epoch = trainer._Trainer._train_epoch

    def recording(self: Any, epoch: int) -> bool:
        if epoch == 1:
            second_epoch.set()
        return train_epoch(self, epoch)

    waited = list[bool]()
    monkeypatch.setattr(trainer._Trainer, "_train_epoch", recording)
    on_save(lambda epoch: waited.append(second_epoch.wait(LONG_S)))
    train(specify(*PLAIN), TrialContext())
    assert waited == [True] * EPOCHS


def test_a_trial_that_diverges_reports_the_epoch_before(
    specify: Specify, on_save: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the last good epoch ends before the failure is reported."""
    spec, reported = specify(*PLAIN), list[int]()
    diverged = threading.Event()

    def diverge(epoch: int, *_: Any) -> None:
        if epoch == 1:
            diverged.set()
            raise TrialError("diverged")

    monkeypatch.setattr(trainer, "require_finite", diverge)
    on_save(lambda epoch: diverged.wait(LONG_S))
    with pytest.raises(TrialError, match="diverged"):
        train(spec, TrialContext(report=lambda record: reported.append(record.epoch)))  # type: ignore[union-attr]
    assert reported == [1] and saved_epoch(spec) == 1


def test_a_stop_ends_a_write_that_waits_for_a_full_disk(
    specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, notes, reported = specify(*PLAIN), list[str](), list[Any]()

    def full(where: Path, needed_bytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))

    monkeypatch.setattr(disk, "require_space", full)
    monkeypatch.setattr(disk, "POLL_S", 0.01)
    context = TrialContext(
        report=reported.append, note=notes.append, stop_requested=lambda: bool(notes)
    )
    train(spec, context)
    assert not reported and saved_epoch(spec) == 0
    assert "is full" in notes[0]
    assert not [each for each in threading.enumerate() if each.name == writers.THREAD]


def state(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), value)}


def part(epoch: int, best: dict[str, torch.Tensor]) -> Checkpoint:
    optimizer = {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 3)}}}}
    progress = Progress(EpochRecord(epoch, {}), best_value=0.5, best_epoch=1)
    components = {"bank": ComponentState(state(3.0), {"counts": [1, 2]})}
    return Checkpoint(state(1.0), best, state(2.0), optimizer, progress, components=components)


def test_a_snapshot_keeps_the_values_that_training_changes() -> None:
    original = part(1, state(0.0))
    original.trace = {"steps/epoch": torch.zeros(1)}
    copied = original.snapshot()
    with torch.no_grad():
        for tensors in (original.student, original.method, original.components["bank"].tensors):
            tensors["weight"].zero_()
        original.optimizer["optimizer"]["state"][0]["momentum_buffer"].zero_()
    original.components["bank"].values["counts"].append(3)
    original.trace["more"] = torch.zeros(1)
    assert torch.equal(copied.student["weight"], state(1.0)["weight"])
    assert torch.equal(copied.method["weight"], state(2.0)["weight"])
    assert torch.equal(copied.components["bank"].tensors["weight"], state(3.0)["weight"])
    assert copied.components["bank"].values == {"counts": [1, 2]}
    buffer = copied.optimizer["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(buffer, torch.ones(2, 3))
    assert list(copied.trace) == ["steps/epoch"]


def test_unchanged_best_weights_are_written_once(tmp_path: Path) -> None:
    file, best_files = tmp_path / CHECKPOINT / checkpoint.BEST, dict[str, BestFile]()

    def save(epoch: int, best: dict[str, torch.Tensor]) -> int:
        checkpoint.save(tmp_path, {"a": part(epoch, best)}, TrialContext(), best_files)
        loaded = checkpoint.load(tmp_path, "a", CPU)
        assert loaded and torch.equal(loaded["a"].best["weight"], best["weight"])
        return file.stat().st_ino

    first, better = state(0.5), state(0.7)
    numbers = [save(1, first), save(2, dict(first)), save(3, better), save(4, better)]
    assert numbers[0] == numbers[1] and numbers[2] == numbers[3]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(b"of another process")
    save(5, better)
    assert file.read_bytes() == content
