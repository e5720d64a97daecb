"""Test a full disk: writers wait with one note, and files stay complete.

The tests use a small tmpfs, or injected errors.
"""

import contextlib
import errno
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages.journal import JournalFileBackend
from safetensors.torch import load_file

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import CHECKPOINT
from orchestrator.core import disk, signals
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.core.errors import PreflightError
from orchestrator.core.reports import EpochRecord
from orchestrator.store.progress import Progress
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import keep_json, read_json
from orchestrator.store.study_file import StudyFile
from orchestrator.sweep.events import Events
from orchestrator.training import checkpoint
from orchestrator.training._trainer import train
from tests.conftest import Specify
from tests.sweep_runs import Watch

LONG_S = 60.0
MIB = 2**20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "POLL_S", 0.001)
    monkeypatch.setattr(disk, "RESERVE_BYTES", 2**16)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 8 MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a disk of a known size cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def made(epoch: int, values: int = 1) -> checkpoint.Checkpoint:
    """Return a checkpoint with the given number of weights."""
    state = {"weight": torch.full((values,), float(epoch))}
    progress = Progress(EpochRecord(epoch, {}), best_value=0.5, best_epoch=epoch)
    return checkpoint.Checkpoint(
        state, {"weight": torch.ones(1)}, {}, {"state": torch.ones(1)}, progress
    )


def load(folder: Path) -> checkpoint.Checkpoint | None:
    loaded = checkpoint.load(folder, "a", torch.device("cpu"))
    return loaded["a"] if loaded else None


def fill_up(folder: Path, left: int = 0) -> Path:
    """Write a file that takes all space but `left` bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, disk.free_bytes(folder) - left)
    return ballast


@contextlib.contextmanager
def freed_when(notes: list[str], ballast: Path) -> Iterator[None]:
    """Free the space after the first note."""

    def free() -> None:
        until = time.monotonic() + LONG_S
        while not notes and time.monotonic() < until:
            time.sleep(0.001)
        ballast.unlink()

    thread = threading.Thread(target=free)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("left", [0, 4096, 2**16 + 4096])
def test_a_checkpoint_waits_for_space_and_is_complete(tiny: Path, left: int) -> None:
    large = made(2, MIB // 4)
    checkpoint.save(tiny, {"a": made(1)}, TrialContext())
    notes: list[str] = []
    signs: list[int] = []
    context = TrialContext(note=notes.append, heartbeat=lambda: signs.append(1))
    with freed_when(notes, fill_up(tiny, left)):
        checkpoint.save(tiny, {"a": large}, context)
    loaded = load(tiny)
    assert loaded is not None and loaded.progress.record.epoch == 2
    assert sorted(path.name for path in tiny.iterdir()) == [CHECKPOINT]
    assert (
        len(notes) == 2
        and f"the disk of {tiny} is full" in notes[0]
        and "free space again" in notes[1]
        and signs
    )
    assert all("\n" not in text for text in notes)


def test_an_incomplete_checkpoint_keeps_the_old_one_and_frees_its_space(tiny: Path) -> None:
    """Another process may take free space; a partial file is removed during the wait."""
    checkpoint.save(tiny, {"a": made(1)}, TrialContext())
    fill_up(tiny, MIB)
    large = made(2, MIB)  # 4 MiB
    rounds: list[int] = []
    stopping = TrialContext(
        stop_requested=lambda: len(rounds) > 2,
        heartbeat=lambda: rounds.append(disk.free_bytes(tiny)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "require_space", lambda *_: None)
        with pytest.raises(Stopped):
            checkpoint.save(tiny, {"a": large}, stopping)
    assert min(rounds) > MIB // 2
    loaded = load(tiny)
    assert loaded is not None and loaded.progress.record.epoch == 1


def test_records_are_written_into_the_reserve(tiny: Path) -> None:
    fill_up(tiny, 2**15)
    with pytest.raises(OSError, match="No space left"):
        disk.require_space(tiny, 0)
    keep_json(tiny / "record.json", {"a": 1})
    assert read_json(tiny / "record.json") == {"a": 1}


def test_the_record_of_a_sweep_waits_on_a_disk_without_any_room(tiny: Path) -> None:
    sweep = Sweep.create(tiny / "mine", Configuration(), "sweep")
    watch = Watch()
    events = Events(sweep, [watch])
    with disk.report_waits(events.note), freed_when(watch.notes, fill_up(tiny)):
        events.start(Trial(0, {"alpha": 0.5}))
    assert read_json(sweep.trial_folder(0) / "trial.json")["state"] == "running"
    texts = [note["text"] for note in read_json(sweep.folder / "sweep.json")["notes"]]
    assert (
        watch.notes == texts
        and len(texts) == 2
        and "is full" in texts[0]
        and "free space again" in texts[1]
    )


def test_a_line_of_the_study_is_written_completely_or_not_at_all(tiny: Path) -> None:
    file, notes = tiny / "study.log", []  # type: ignore[var-annotated]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(StudyFile(str(file))), study_name="mine"
    )
    study.set_user_attr("first", 1)
    before = file.read_bytes()
    ballast = fill_up(tiny, 4096 - len(before) % 4096 if len(before) % 4096 else 0)

    def look(text: str) -> None:
        if "is full" in text:
            assert file.read_bytes() == before, "nothing of a line that did not fit"
        notes.append(text)

    with disk.report_waits(look), freed_when(notes, ballast):
        study.set_user_attr("second", "x" * 10_000)
    assert len(notes) == 2
    again = optuna.load_study(
        study_name="mine", storage=optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    )
    assert again.user_attrs == {"first": 1, "second": "x" * 10_000}


def test_after_a_signal_writes_do_not_wait_and_the_old_record_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_json(tmp_path / "record.json", {"a": 1})
    monkeypatch.setattr(disk, "remaining_timeout", lambda most_s: min(most_s, 3.0))
    monkeypatch.setattr(
        os,
        "replace",
        lambda *_: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Disk quota exceeded")),
    )
    keep_json(tmp_path / "record.json", {"a": 2})
    assert read_json(tmp_path / "record.json") == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_a_signal_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []

    def signalled(text: str) -> None:
        notes.append(text)
        os.kill(os.getpid(), 15)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(KeyboardInterrupt), signals.stoppable(), disk.report_waits(signalled):
        disk.retry_while_disk_full(full, tmp_path)
    assert len(notes) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_counts_as_a_full_disk_where_space_is_shown(tmp_path: Path, code: int) -> None:
    refusals, notes = iter(range(3)), []  # type: ignore[var-annotated]

    def write() -> str:
        if next(refusals, None) is not None:
            raise OSError(code, os.strerror(code))
        return "written"

    with disk.report_waits(notes.append):
        assert disk.retry_while_disk_full(write, tmp_path / "not" / "there") == "written"
    assert len(notes) == 2 and "a quota is exceeded" in notes[0]


def test_other_errors_are_raised_immediately(tmp_path: Path) -> None:
    for error in (OSError(errno.EIO, "Input/output error"), ValueError("no"), PreflightError("no")):

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            disk.retry_while_disk_full(fail, tmp_path)
        with pytest.raises(type(error)):
            disk.raise_on_all_ranks(TrialContext(), fail, tmp_path)


def test_a_stopped_trial_does_not_wait(tmp_path: Path) -> None:
    stop_answers = iter([False, False, True])
    context = TrialContext(stop_requested=lambda: next(stop_answers))

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Stopped):
        disk.raise_on_all_ranks(context, full, tmp_path)
    assert next(stop_answers, None) is None


@pytest.mark.parametrize("write", ["torch", "safetensors", "numpy"])
def test_a_full_disk_is_recognised_in_wrapped_errors(tiny: Path, write: str) -> None:
    import numpy as np
    from safetensors.torch import save_file

    values = torch.zeros(4 * MIB)
    with pytest.raises(Exception) as raised:
        if write == "torch":
            with (tiny / "file").open("wb") as stream:
                torch.save(values, stream)
        elif write == "safetensors":
            save_file({"values": values}, tiny / "file")
        else:
            np.save(tiny / "file.npy", values.numpy())
    assert disk.is_full(raised.value)


def test_a_paused_training_equals_an_unpaused_one(tiny: Path, specify: Specify) -> None:
    spec = specify(
        "training.epochs=3",
        "method.name=cross_entropy",
        "student.name=mlp",
        "teacher=null",
        "data.limit.train=128",
    )
    train(spec, TrialContext())
    notes: list[str] = []
    records: list[Any] = []
    ballast: list[Path] = []

    def report(record: Any) -> None:
        records.append(record)
        if record.epoch == 1:
            ballast.append(fill_up(tiny, 2**16))

    def note(text: str) -> None:
        notes.append(text)
        if "is full" in text:
            ballast[0].unlink()

    train(
        spec.model_copy(update={"folder": tiny / "trial"}), TrialContext(report=report, note=note)
    )
    assert [record.epoch for record in records] == [1, 2, 3] and len(notes) == 2
    paused, other = (
        load_file(folder / CHECKPOINT / "student.safetensors")
        for folder in (tiny / "trial", spec.folder)
    )
    assert all(torch.equal(paused[name], other[name]) for name in other)
