"""Store the checkpoint of a trial in its folder, or as objects below a URI.

A remote checkpoint is the prefix `checkpoint-EPOCH-TOKEN/` with all its files. `latest.json` names
it and is replaced after all files are uploaded. The previous checkpoint stays until the next one is
complete: a reader that finds the newest one damaged reads the previous one.
"""

import contextlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from orchestrator.config.trial import CHECKPOINT, KNOWLEDGE, SNAPSHOTS, TrialSpec
from orchestrator.core import disk
from orchestrator.store.remote import Heartbeat, Remote, has_name_in
from orchestrator.store.store import Store, replacing

if TYPE_CHECKING:  # it imports torch
    from orchestrator.core.context import TrialContext

FIGURE_DATA = ("trace", "shown")  # figures are drawn from these, possibly much later
LIGHT = (*(f"{name}.safetensors" for name in FIGURE_DATA), "progress.json")
BEFORE = f"{CHECKPOINT}.old"  # the previous checkpoint, during a replacement or after a crash in it
LATEST = "latest.json"
NUM_KEPT = 2  # checkpoints of a trial in the remote store
T = TypeVar("T")


class LocalCheckpoint:
    """Checkpoint of a trial in the trial's folder."""

    def __init__(self, trial: Path) -> None:
        self.trial = trial

    @property
    def folders(self) -> list[Path]:
        """Return the folders that may hold a checkpoint, newest first."""
        return [path for path in (self.trial / CHECKPOINT, self.trial / BEFORE) if path.is_dir()]

    def run_on_all_ranks(self, context: "TrialContext", action: Callable[[], T]) -> T:
        """Return the result of `action` on this rank. All ranks must call this together."""
        return action()

    def iterate_newest_first(self, heartbeat: Heartbeat) -> Iterator[Path]:
        """Yield the folders that may hold a checkpoint, newest first.

        Remove the leftovers of dead writers before.
        """
        self.remove_temporary_folders()
        yield from self.folders

    @contextlib.contextmanager
    def writing(self, context: "TrialContext", epoch: int) -> Iterator[Path]:
        """Yield a folder for the files of this rank; it becomes the checkpoint.

        All ranks enter the block together. Rank 0 renames the folder when it leaves the block, so
        the files of all ranks must be complete by then.
        """
        with contextlib.ExitStack() as stack:
            yield context.broadcast_object(
                stack.enter_context(replacing(self.trial / CHECKPOINT))
                if context.is_main_process
                else None
            )

    def download(self, names: Collection[str] | None = None) -> None:
        """Ensure that the newest checkpoint is in the trial's folder, where it already is.

        Args:
            names: The file names that are needed; None stands for all.
        """

    def remove(self) -> None:
        """Remove the remote copies; a local checkpoint has none."""

    def remove_temporary_folders(self) -> None:
        """Remove the temporary folders of dead writers."""
        for left in self.trial.glob(f".{CHECKPOINT}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def remove_large_files(self) -> None:
        """Remove all large files: weights, optimizer state, snapshots, the trial's own cache.

        A concurrent reader may miss a file.
        """
        self.remove_temporary_folders()
        for checkpoint in self.folders[:1]:
            for file in checkpoint.rglob("*"):
                if file.name not in LIGHT and not file.is_dir():
                    file.unlink(missing_ok=True)
        for other in (*self.folders[1:], self.trial / SNAPSHOTS, self.trial / KNOWLEDGE):
            shutil.rmtree(other, ignore_errors=True)


class RemoteCheckpoint(LocalCheckpoint):
    """Checkpoint of a trial as objects, with a local copy in the trial's folder.

    The objects are named after the trial's folder below `root`, which is this node's folder of the
    store.
    """

    def __init__(self, trial: Path, root: Path, uri: str) -> None:
        super().__init__(trial)
        self.uri, self.name, self.remote = uri, trial.relative_to(root).as_posix(), Remote(uri)

    def run_on_all_ranks(self, context: "TrialContext", action: Callable[[], T]) -> T:
        """Return the result of `action` on this rank. All ranks must call this together.

        All ranks wait and retry while the store does not respond.
        """
        return disk.raise_on_all_ranks(context, action, self.trial, away=self.uri)

    def iterate_newest_first(self, heartbeat: Heartbeat) -> Iterator[Path]:
        """Yield local copies of the checkpoints, newest first.

        Each copy is downloaded when the iterator reaches it.
        """
        self.remove_temporary_folders()
        for name in self._names():
            with self._temporary_folder() as folder:
                if self._download(name, folder, heartbeat=heartbeat):
                    yield folder

    @contextlib.contextmanager
    def writing(self, context: "TrialContext", epoch: int) -> Iterator[Path]:
        """Yield a folder for the files of this rank; the uploaded files become the checkpoint.

        All ranks upload when they leave the block. Rank 0 then names the checkpoint as the newest.
        """
        name = context.broadcast_object(
            f"{CHECKPOINT}-{epoch}-{uuid.uuid4().hex[:8]}" if context.is_main_process else None
        )
        with self._temporary_folder() as folder:
            yield folder
            self.run_on_all_ranks(
                context,
                lambda: self.remote.put(folder, f"{self.name}/{name}", heartbeat=context.heartbeat),
            )
        self.run_on_all_ranks(
            context, lambda: self._name_newest(name) if context.is_main_process else None
        )

    def download(self, names: Collection[str] | None = None) -> None:
        """Download the newest checkpoint into the trial's folder of this node.

        Args:
            names: The file names to download; None stands for all.

        Raises:
            OSError: The download fails.
        """
        for name in self._names()[:1]:
            with self._temporary_folder() as folder:
                if self._download(name, folder, has_name_in(names) if names else lambda _: True):
                    with replacing(self.trial / CHECKPOINT) as aside:
                        shutil.copytree(folder, aside)

    def remove(self) -> None:
        """Remove all objects of the trial."""
        self.remote.remove(self.name)

    def remove_large_files(self) -> None:
        """Remove all large files, locally and in the remote store."""
        super().remove_large_files()
        newest, light = self._names()[:1], has_name_in(LIGHT)
        for name in self.remote.names(self.name):
            checkpoint = name.partition("/")[0]
            if _epoch(checkpoint) and not (checkpoint in newest and light(name)):
                self.remote.remove_file(f"{self.name}/{name}")

    def _download(
        self,
        name: str,
        folder: Path,
        wanted: Callable[[str], bool] = lambda _: True,
        heartbeat: Heartbeat = lambda: None,
    ) -> bool:
        """Download a checkpoint into the folder; return whether it has any such file."""
        try:
            self.remote.get(f"{self.name}/{name}", folder, wanted, heartbeat)
        except FileNotFoundError:
            return False
        return True

    def _names(self) -> list[str]:
        """Return the checkpoints, newest first.

        Without a valid `latest.json`, sort them by epoch.
        """
        named = self.remote.read_json(f"{self.name}/{LATEST}")
        if isinstance(named, list) and all(
            isinstance(name, str) and _epoch(name) for name in named
        ):
            return named
        there = {name.partition("/")[0] for name in self.remote.names(self.name)}
        return sorted(filter(_epoch, there), key=_epoch, reverse=True)

    def _name_newest(self, name: str) -> None:
        there = {each.partition("/")[0] for each in self.remote.names(self.name)}
        before = [each for each in self._names() if each in there and each != name]
        kept = [name, *before][:NUM_KEPT]
        self.remote.write_json(f"{self.name}/{LATEST}", kept)
        for old in there - set(kept):
            # a later one may belong to another group that has taken over this trial
            if 0 < _epoch(old) <= _epoch(name):
                self.remote.remove(f"{self.name}/{old}")

    @contextlib.contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        self.trial.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{CHECKPOINT}.", dir=self.trial) as folder:
            yield Path(folder)


CheckpointStorage = LocalCheckpoint | RemoteCheckpoint


def checkpoint_storage(store: Store, trial: Path) -> CheckpointStorage:
    """Return the checkpoint storage of the trial in a folder of the store."""
    return RemoteCheckpoint(trial, store.root, store.uri) if store.uri else LocalCheckpoint(trial)


def checkpoint_storage_for_spec(spec: TrialSpec) -> CheckpointStorage:
    """Return the checkpoint storage of a trial on the node that trains it."""
    if spec.uri and spec.root:
        return RemoteCheckpoint(spec.folder, spec.root, spec.uri)
    return LocalCheckpoint(spec.folder)


def _epoch(name: str) -> int:
    """Return the epoch in the name of a remote checkpoint, 0 for any other name."""
    match = re.fullmatch(rf"{CHECKPOINT}-(\d+)-[0-9a-f]+", name)
    return int(match[1]) if match else 0
