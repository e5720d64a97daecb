"""Save and load the state of a trial: a folder that is replaced as a whole.

Nothing in the folder can execute code. Its files:

- student.safetensors, best.safetensors, optimizer.pt and progress.json: always
- method.safetensors: if the method has parameters
- NAME.safetensors: of each component of the training loop that has a state, such as weights, bank
  or teacher
- trace.safetensors, and with the last epoch shown.safetensors: for figures

progress.json has the CRC-32 of every other file, so that later damage is detected even in a
readable file. The first student's files are at the top, those of a peer in a folder named by its
letter.
"""

import logging
import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.config.trial import student_folder
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.store.checkpoint_storage import CheckpointStorage, LocalCheckpoint
from orchestrator.store.progress import PROGRESS, PROGRESS_FILE, Progress, read_progress
from orchestrator.store.record_file import DamagedRecordError

State = dict[str, Tensor]
WEIGHTS = ("student", "best", "method")
FIGURE_DATA = ("trace", "shown")
CHUNK_BYTES = 2**22
log = logging.getLogger(__name__)


class ComponentState(NamedTuple):
    """State of a component of the training loop for one student.

    Attributes:
        tensors: Tensors by name, in a file NAME.safetensors.
        values: JSON values, in progress.json.
    """

    tensors: State
    values: Mapping[str, Any] = {}


@dataclass
class Checkpoint:
    """Weights, optimizer and progress after `progress.record.epoch` finished epochs.

    `components` has the states of the components of the training loop by their names.
    """

    student: State
    best: State
    method: State
    optimizer: dict[str, Any]
    progress: Progress
    trace: State = field(default_factory=dict)
    shown: State = field(default_factory=dict)
    components: dict[str, ComponentState] = field(default_factory=dict)


def save(
    location: Path | CheckpointStorage, parts: Mapping[str, Checkpoint], context: TrialContext
) -> None:
    """Replace the checkpoint of a trial.

    All ranks of the trial call this together; on a full disk all of them wait.

    Args:
        location: The folder of the trial, or the storage of its checkpoint.
        parts: The students that this rank writes, by letter.
        context: The context of all ranks of the trial.

    Raises:
        Stopped: A stop of the trial was requested meanwhile.
    """
    storage = _storage_of(location)
    epoch = next((part.progress.record.epoch for part in parts.values()), 0)
    with storage.writing(context, epoch) as temporary:
        # afterwards all parts are written, and rank 0 may rename the folder
        disk.raise_on_all_ranks(context, lambda: _write_all(temporary, parts), storage.trial)


def load(
    location: Path | CheckpointStorage,
    letters: Sequence[str],
    device: torch.device,
    heartbeat: Callable[[], None] = lambda: None,
    skipped_reasons: list[str] | None = None,
) -> dict[str, Checkpoint] | None:
    """Return the newest readable checkpoint of a trial, by student, or None.

    Temporary files of dead writers are removed.

    Args:
        location: The folder of the trial, or the storage of its checkpoint.
        letters: The students.
        device: The device of the weights.
        heartbeat: Sends a heartbeat.
        skipped_reasons: The reasons why newer checkpoints are unusable, a sentence each. As many
            checkpoints are skipped from the start; new reasons are appended.
    """
    skipped_reasons = [] if skipped_reasons is None else skipped_reasons
    for number, path in enumerate(_storage_of(location).iterate_newest_first(heartbeat)):
        if number < len(skipped_reasons):
            continue
        try:
            return {letter: _read(path / student_folder(letter), device) for letter in letters}
        except (
            OSError,
            ValueError,
            RuntimeError,
            EOFError,
            LookupError,
            TypeError,
            pickle.UnpicklingError,
        ) as error:
            skipped_reasons.append(" ".join(str(error).split()))
        except (DamagedRecordError, SafetensorError) as error:
            skipped_reasons.append(" ".join(str(error).split()))
    return None


def _storage_of(location: Path | CheckpointStorage) -> CheckpointStorage:
    return LocalCheckpoint(location) if isinstance(location, Path) else location


def _write_all(temporary: Path, parts: Mapping[str, Checkpoint]) -> None:
    disk.require_space(temporary, sum(_bytes(vars(part)) for part in parts.values()))
    try:
        for letter, part in parts.items():
            _write(temporary / student_folder(letter), part)
    except Exception as error:
        if disk.is_full(error):  # partial files take space that other trials need
            for letter in parts:
                _remove_files(temporary / student_folder(letter))
        raise


def _remove_files(path: Path) -> None:
    for file in path.glob("*.*"):
        file.unlink(missing_ok=True)


def _bytes(value: Any) -> int:
    """Return the bytes of all tensors within a nested value."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def _write(path: Path, checkpoint: Checkpoint) -> None:
    path.mkdir(parents=True, exist_ok=True)
    states = {name: getattr(checkpoint, name) for name in (*WEIGHTS, *FIGURE_DATA)}
    states |= {name: state.tensors for name, state in checkpoint.components.items()}
    for name, state in states.items():
        if state:
            save_file(
                {key: value.detach().cpu().contiguous().clone() for key, value in state.items()},
                path / f"{name}.safetensors",
            )
    # opened here: torch alone would not report a full disk
    with (path / "optimizer.pt").open("wb") as stream:
        torch.save(checkpoint.optimizer, stream)
    files = {file.name: _checksum(file) for file in sorted(path.iterdir()) if file.is_file()}
    values = {
        name: dict(state.values) for name, state in checkpoint.components.items() if state.values
    }
    progress = replace(checkpoint.progress, components=values, files=files)
    (path / PROGRESS_FILE).write_text(PROGRESS.text(progress.plain()))


def _checksum(file: Path) -> str:
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"


def _read(path: Path, device: torch.device) -> Checkpoint:
    progress, states = read_progress(path), {}
    for name, expected in progress.files.items():  # older checkpoints have none
        if not (path / Path(name).name).is_file() or _checksum(path / Path(name).name) != expected:
            raise DamagedRecordError(
                path / name, f"its checksum differs from the one in {PROGRESS_FILE}"
            )
    for name in (*WEIGHTS, *FIGURE_DATA):
        file = path / f"{name}.safetensors"
        required = name in ("student", "best")
        states[name] = (
            load_file(file, device=str(device if name in WEIGHTS else "cpu"))
            if required or file.exists()
            else {}
        )
    for name in ("student", "best"):
        for key, value in states[name].items():
            if not bool(torch.isfinite(value).all()):
                raise DamagedRecordError(path / f"{name}.safetensors", f"{key} is not finite")
    optimizer = torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
    # older checkpoints have those of the sample weights at the top
    values = progress.components or ({"weights": progress.weights} if progress.weights else {})
    files = {file.stem for file in path.glob("*.safetensors")}.difference(states)
    components = {
        name: ComponentState(
            load_file(path / f"{name}.safetensors", device=str(device)) if name in files else {},
            values.get(name, {}),
        )
        for name in sorted(files.union(values))
    }
    return Checkpoint(**states, optimizer=optimizer, progress=progress, components=components)
