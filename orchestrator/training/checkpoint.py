"""The state of a trial on disk: a folder written aside and renamed. Nothing in it can run code.

student.safetensors  best.safetensors  method.safetensors (if it has parameters)  optimizer.pt  progress.json
Where samples are weighed weights.safetensors; bank.safetensors where a bank keeps more than the weights know; and
teacher.safetensors where the trial has changed its teacher: no other is in it.
progress.json has the CRC-32 of every other file: one that was damaged since is noticed, whatever can still be read in it.
For pictures: trace.safetensors, and with the last epoch shown.safetensors. The first student's lie at the top, those of a peer in a
folder that is named by its letter.
"""

import logging
import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.config.trial import student_folder
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.store.checkpoint_storage import LocalCheckpoint, Place
from orchestrator.store.progress import PROGRESS, PROGRESS_FILE, read_progress
from orchestrator.store.record_file import DamagedRecordError

State = dict[str, Tensor]
WEIGHTS = ("student", "best", "method", "weights", "bank", "teacher")
PICTURED = ("trace", "shown")
CHUNK_BYTES = 2**22
log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """Weights, optimiser and progress after `progress["epoch"]` finished epochs."""

    student: State
    best: State
    method: State
    optimizer: dict[str, Any]
    progress: dict[str, Any]
    trace: State = field(default_factory=dict)
    shown: State = field(default_factory=dict)
    weights: State = field(default_factory=dict)
    bank: State = field(default_factory=dict)
    teacher: State = field(default_factory=dict)


def save(where: Path | Place, parts: Mapping[str, Checkpoint], context: TrialContext) -> None:
    """Replace the checkpoint of a trial: one of all students, by letter, each written by who has it.

    All ranks of the trial call this together; on a full disk all of them wait. Stopped when somebody asks for the end meanwhile.
    """
    home = _place(where)
    epoch = next((int(part.progress["record"]["epoch"]) for part in parts.values()), 0)
    with home.writing(context, epoch) as aside:
        disk.raise_on_all_ranks(context, lambda: _write_all(aside, parts), home.trial)  # all of it is there: rank 0 may rename it


def load(
    where: Path | Place,
    letters: Sequence[str],
    device: torch.device,
    alive: Callable[[], None] = lambda: None,
    passed_over: list[str] | None = None,
) -> dict[str, Checkpoint] | None:
    """Return the newest readable checkpoint of a trial, by student, or None; what a dead writer left is removed.

    `passed_over` says why newer ones cannot be used, a sentence each: as many are left out from the start.
    """
    passed_over = [] if passed_over is None else passed_over
    for number, path in enumerate(_place(where).newest_first(alive)):
        if number < len(passed_over):
            continue
        try:
            return {letter: _read(path / student_folder(letter), device) for letter in letters}
        except (OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, pickle.UnpicklingError) as error:
            passed_over.append(" ".join(str(error).split()))
        except (DamagedRecordError, SafetensorError) as error:
            passed_over.append(" ".join(str(error).split()))
    return None


def _place(where: Path | Place) -> Place:
    return LocalCheckpoint(where) if isinstance(where, Path) else where


def _write_all(aside: Path, parts: Mapping[str, Checkpoint]) -> None:
    disk.require_space(aside, sum(_bytes(vars(part)) for part in parts.values()))
    try:
        for letter, part in parts.items():
            _write(aside / student_folder(letter), part)
    except Exception as error:
        if disk.is_full(error):  # what is half there takes the room that others need meanwhile
            for letter in parts:
                _empty(aside / student_folder(letter))
        raise


def _empty(path: Path) -> None:
    for file in path.glob("*.*"):
        file.unlink(missing_ok=True)


def _bytes(value: Any) -> int:
    """Those of all tensors within."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def _write(path: Path, checkpoint: Checkpoint) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name in (*WEIGHTS, *PICTURED):
        state = getattr(checkpoint, name)
        if state:
            save_file(
                {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, path / f"{name}.safetensors"
            )
    with (path / "optimizer.pt").open("wb") as stream:  # opened here: torch alone would not say that the disk is full
        torch.save(checkpoint.optimizer, stream)
    files = {file.name: _sum(file) for file in sorted(path.iterdir()) if file.is_file()}
    (path / PROGRESS_FILE).write_text(PROGRESS.text({**checkpoint.progress, "files": files}))


def _sum(file: Path) -> str:
    found = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"


def _read(path: Path, device: torch.device) -> Checkpoint:
    progress, states = read_progress(path), {}
    for name, expected in progress.get("files", {}).items():  # older checkpoints have none
        if not (path / Path(name).name).is_file() or _sum(path / Path(name).name) != expected:
            raise DamagedRecordError(path / name, f"it is not the file of which {PROGRESS_FILE} has the sum")
    for name in (*WEIGHTS, *PICTURED):
        file = path / f"{name}.safetensors"
        required = name in ("student", "best")
        states[name] = load_file(file, device=str(device if name in WEIGHTS else "cpu")) if required or file.exists() else {}
    for name in ("student", "best"):
        for key, value in states[name].items():
            if not bool(torch.isfinite(value).all()):
                raise DamagedRecordError(path / f"{name}.safetensors", f"{key} is not finite")
    optimizer = torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
    return Checkpoint(**states, optimizer=optimizer, progress=dict(progress))
