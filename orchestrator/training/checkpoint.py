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

import copy
import io
import logging
import os
import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from orchestrator.config.trial import CHECKPOINT, student_folder
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.store.checkpoint_storage import FIGURE_DATA, CheckpointStorage, LocalCheckpoint
from orchestrator.store.progress import PROGRESS, PROGRESS_FILE, Progress, read_progress
from orchestrator.store.record_file import DamagedRecordError

State = dict[str, Tensor]
WEIGHTS = ("student", "best", "method")
BEST, OPTIMIZER = "best.safetensors", "optimizer.pt"
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

    def snapshot(self) -> "Checkpoint":
        """Return a copy on the CPU, which further training does not change.

        The tensors of `best` and of the figures are on the CPU. Training replaces them and never
        changes them, so that they are not copied.
        """
        return replace(
            self,
            student=_copy_tensors(self.student),
            method=_copy_tensors(self.method),
            optimizer=_copy_tensors(self.optimizer),
            trace=dict(self.trace),
            shown=dict(self.shown),
            components={
                name: ComponentState(_copy_tensors(state.tensors), copy.deepcopy(state.values))
                for name, state in self.components.items()
            },
        )


class BestFile(NamedTuple):
    """File of the best weights in the last checkpoint, to which the next checkpoint may link.

    Attributes:
        state: The weights.
        identity: The inode, the size and the time of the file.
        checksum: The CRC-32 of the file.
    """

    state: State
    identity: tuple[int, int, int]
    checksum: str

    def link(self, state: State, source: Path, target: Path) -> bool:
        """Link `target` to the file at `source`.

        Return False if the file has other weights than `state`, or was replaced.
        """
        if self.state.keys() != state.keys() or any(
            value is not self.state[key] for key, value in state.items()
        ):
            return False
        try:
            if _identify(source) != self.identity:  # another process has taken over the trial
                return False
            os.link(source, target)
        except OSError:  # the file is gone, or the disk has no links
            return False
        return True


def save(
    location: Path | CheckpointStorage,
    parts: Mapping[str, Checkpoint],
    context: TrialContext,
    best_files: dict[str, BestFile] | None = None,
) -> None:
    """Replace the checkpoint of a trial.

    All ranks of the trial call this together; on a full disk all of them wait.

    Args:
        location: The folder of the trial, or the storage of its checkpoint.
        parts: Snapshots of the students that this rank writes, by letter.
        context: The context of all ranks of the trial.
        best_files: The files of the best weights in the last checkpoint, by student; they are
            replaced. None if every file is written.

    Raises:
        Stopped: A stop of the trial was requested meanwhile.
    """
    storage = _storage_of(location)
    epoch = next((part.progress.record.epoch for part in parts.values()), 0)
    previous = {} if best_files is None else best_files
    with storage.writing(context, epoch) as temporary:
        # afterwards all parts are written, and rank 0 may rename the folder
        written = disk.raise_on_all_ranks(
            context,
            lambda: _write_all(temporary, parts, storage.trial / CHECKPOINT, previous),
            storage.trial,
        )
    previous.update(written)


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


def _write_all(
    temporary: Path,
    parts: Mapping[str, Checkpoint],
    replaced: Path,
    previous: Mapping[str, BestFile],
) -> dict[str, BestFile]:
    disk.require_space(temporary, sum(_bytes(vars(part)) for part in parts.values()))
    try:
        return {
            letter: _write(
                temporary / student_folder(letter),
                part,
                replaced / student_folder(letter) / BEST,
                previous.get(letter),
            )
            for letter, part in parts.items()
        }
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


def _copy_tensors(value: Any) -> Any:
    """Return a nested value with copies of its tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy_tensors(inner) for key, inner in value.items()}
    return [_copy_tensors(inner) for inner in value] if isinstance(value, list) else value


def _write(
    path: Path, checkpoint: Checkpoint, replaced_best: Path, previous: BestFile | None
) -> BestFile:
    """Write the files of a student; return that of the best weights."""
    path.mkdir(parents=True, exist_ok=True)
    states = {name: getattr(checkpoint, name) for name in (*WEIGHTS, *FIGURE_DATA)}
    states |= {name: state.tensors for name, state in checkpoint.components.items()}
    best, checksums = path / BEST, dict[str, str]()
    if previous and previous.link(checkpoint.best, replaced_best, best):
        checksums[BEST] = previous.checksum
        del states["best"]
    for name, state in states.items():
        if state:
            file = path / f"{name}.safetensors"
            content = serialize({key: value.contiguous() for key, value in state.items()})
            checksums[file.name] = _write_file(file, content)
    with io.BytesIO() as stream:
        torch.save(checkpoint.optimizer, stream)
        checksums[OPTIMIZER] = _write_file(path / OPTIMIZER, stream.getbuffer())
    values = {
        name: dict(state.values) for name, state in checkpoint.components.items() if state.values
    }
    progress = replace(checkpoint.progress, components=values, files=checksums)
    (path / PROGRESS_FILE).write_text(PROGRESS.text(progress.plain()))
    return BestFile(checkpoint.best, _identify(best), checksums[BEST])


def _write_file(file: Path, content: bytes | memoryview) -> str:
    """Write a file; return its checksum."""
    file.write_bytes(content)
    return f"{zlib.crc32(content):08x}"


def _identify(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


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
    optimizer = torch.load(path / OPTIMIZER, map_location=device, weights_only=True)
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
