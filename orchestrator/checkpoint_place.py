"""Where the checkpoint of a trial lies, and what of it stays when its weights are not wanted any more. Knows files, no tensors."""

import shutil
from pathlib import Path

from orchestrator.trial import CHECKPOINT, KNOWLEDGE, SNAPSHOTS

LIGHT = ("trace.safetensors", "shown.safetensors", "progress.json")  # pictures are drawn from these, possibly much later
BEFORE = f"{CHECKPOINT}.old"  # the one before, while its successor takes its place, or after a death in that moment


class Folder:
    """The checkpoint of a trial in the trial's folder."""

    def __init__(self, trial: Path) -> None:
        self.trial = trial

    @property
    def found(self) -> list[Path]:
        """The folders that may hold a checkpoint, the newest first."""
        return [path for path in (self.trial / CHECKPOINT, self.trial / BEFORE) if path.is_dir()]

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
