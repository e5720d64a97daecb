"""Where the checkpoint of a trial lies: in the trial's folder, or as objects below a URI. Knows files, no tensors.

As objects it is `checkpoint-EPOCH-TOKEN/` with all its files, named by `latest.json`, which is replaced when they are there. The
one before stays until the next one: whoever finds the newest damaged reads that.
"""

import contextlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from orchestrator.config.trial import CHECKPOINT, KNOWLEDGE, SNAPSHOTS, TrialSpec
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.store.remote import Alive, Remote, of_names
from orchestrator.store.store import Store, replacing

LIGHT = ("trace.safetensors", "shown.safetensors", "progress.json")  # pictures are drawn from these, possibly much later
BEFORE = f"{CHECKPOINT}.old"  # the one before, while its successor takes its place, or after a death in that moment
LATEST = "latest.json"
KEPT = 2  # checkpoints of a trial among the objects
T = TypeVar("T")


class LocalCheckpoint:
    """The checkpoint of a trial in the trial's folder."""

    def __init__(self, trial: Path) -> None:
        self.trial = trial

    @property
    def found(self) -> list[Path]:
        """The folders that may hold a checkpoint, the newest first."""
        return [path for path in (self.trial / CHECKPOINT, self.trial / BEFORE) if path.is_dir()]

    def together(self, context: TrialContext, action: Callable[[], T]) -> T:
        """What the action gives on this rank; all ranks call this together."""
        return action()

    def newest_first(self, alive: Alive) -> Iterator[Path]:
        """The folders that may hold a checkpoint; what a dead writer left is removed."""
        self.remove_asides()
        yield from self.found

    @contextlib.contextmanager
    def writing(self, context: TrialContext, epoch: int) -> Iterator[Path]:
        """A folder for the parts of this rank; it is the checkpoint when all ranks, who enter together, have left the block."""
        with contextlib.ExitStack() as stack:
            yield context.share(stack.enter_context(replacing(self.trial / CHECKPOINT)) if context.leads else None)

    def bring(self, names: Collection[str] | None = None) -> None:
        """Have the newest checkpoint, or its files of these names, in the trial's folder: it is there."""

    def remove(self) -> None:
        """Remove what lies elsewhere."""

    def remove_asides(self) -> None:
        """Remove what a dead writer left."""
        for left in self.trial.glob(f".{CHECKPOINT}.*"):
            shutil.rmtree(left, ignore_errors=True)

    def strip(self) -> None:
        """Remove all that is heavy: weights, optimiser, snapshots, the trial's own cache. Who reads just now may miss a file."""
        self.remove_asides()
        for checkpoint in self.found[:1]:
            for file in checkpoint.rglob("*"):
                if file.name not in LIGHT and not file.is_dir():
                    file.unlink(missing_ok=True)
        for other in (*self.found[1:], self.trial / SNAPSHOTS, self.trial / KNOWLEDGE):
            shutil.rmtree(other, ignore_errors=True)


class RemoteCheckpoint(LocalCheckpoint):
    """The checkpoint of a trial as objects named after the trial's folder below `root`, this node's for them."""

    def __init__(self, trial: Path, root: Path, uri: str) -> None:
        super().__init__(trial)
        self.uri, self.name, self.remote = uri, trial.relative_to(root).as_posix(), Remote(uri)

    def together(self, context: TrialContext, action: Callable[[], T]) -> T:
        """What the action gives on this rank; while the store does not answer all ranks wait, who call this together."""
        return disk.raise_on_all_ranks(context, action, self.trial, away=self.uri)

    def newest_first(self, alive: Alive) -> Iterator[Path]:
        """Copies of the checkpoints in this node's folder, each fetched when it is asked for."""
        self.remove_asides()
        for name in self._names():
            with self._aside() as folder:
                if self._got(name, folder, alive=alive):
                    yield folder

    @contextlib.contextmanager
    def writing(self, context: TrialContext, epoch: int) -> Iterator[Path]:
        """A folder for the parts of this rank; what all ranks have put there is the checkpoint when they have left the block."""
        name = context.share(f"{CHECKPOINT}-{epoch}-{uuid.uuid4().hex[:8]}" if context.leads else None)
        with self._aside() as folder:
            yield folder
            self.together(context, lambda: self.remote.put(folder, f"{self.name}/{name}", alive=context.alive))
        self.together(context, lambda: self._name_newest(name) if context.leads else None)

    def bring(self, names: Collection[str] | None = None) -> None:
        """Have the newest checkpoint, or its files of these names, in the trial's folder of this node; OSError when that fails."""
        for name in self._names()[:1]:
            with self._aside() as folder:
                if self._got(name, folder, of_names(names) if names else lambda _: True):
                    with replacing(self.trial / CHECKPOINT) as aside:
                        shutil.copytree(folder, aside)

    def remove(self) -> None:
        """Remove all objects of the trial."""
        self.remote.remove(self.name)

    def strip(self) -> None:
        """Remove all that is heavy, here and among the objects."""
        super().strip()
        newest, light = self._names()[:1], of_names(LIGHT)
        for name in self.remote.names(self.name):
            checkpoint = name.partition("/")[0]
            if _epoch(checkpoint) and not (checkpoint in newest and light(name)):
                self.remote.remove_file(f"{self.name}/{name}")

    def _got(self, name: str, folder: Path, wanted: Callable[[str], bool] = lambda _: True, alive: Alive = lambda: None) -> bool:
        """Whether there is anything of a checkpoint; it is in the folder then."""
        try:
            self.remote.get(f"{self.name}/{name}", folder, wanted, alive)
        except FileNotFoundError:
            return False
        return True

    def _names(self) -> list[str]:
        """The checkpoints, the newest first; where nothing names them, as they are numbered."""
        named = self.remote.read_json(f"{self.name}/{LATEST}")
        if isinstance(named, list) and all(isinstance(name, str) and _epoch(name) for name in named):
            return named
        there = {name.partition("/")[0] for name in self.remote.names(self.name)}
        return sorted(filter(_epoch, there), key=_epoch, reverse=True)

    def _name_newest(self, name: str) -> None:
        there = {each.partition("/")[0] for each in self.remote.names(self.name)}
        before = [each for each in self._names() if each in there and each != name]
        kept = [name, *before][:KEPT]
        self.remote.write_json(f"{self.name}/{LATEST}", kept)
        for old in there - set(kept):
            if 0 < _epoch(old) <= _epoch(name):  # of later ones another group may be the writer: it has taken this trial over
                self.remote.remove(f"{self.name}/{old}")

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        self.trial.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{CHECKPOINT}.", dir=self.trial) as folder:
            yield Path(folder)


Place = LocalCheckpoint | RemoteCheckpoint


def checkpoint_storage(store: Store, trial: Path) -> Place:
    """Where the checkpoint of the trial in a folder of the store lies."""
    return RemoteCheckpoint(trial, store.root, store.uri) if store.uri else LocalCheckpoint(trial)


def checkpoint_storage_of(spec: TrialSpec) -> Place:
    """Where the checkpoint of a trial lies, on the node that trains it."""
    return RemoteCheckpoint(spec.folder, spec.root, spec.uri) if spec.uri and spec.root else LocalCheckpoint(spec.folder)


def _epoch(name: str) -> int:
    """The number of a checkpoint among the objects, 0 of anything else."""
    match = re.fullmatch(rf"{CHECKPOINT}-(\d+)-[0-9a-f]+", name)
    return int(match[1]) if match else 0
