"""Copies of a trial's checkpoint after an epoch, from which other trials may continue.

Files of a checkpoint are replaced and never changed in place. A copy is a folder of hard links
where the disk allows it.
"""

import os
import shutil
from pathlib import Path

from orchestrator.config.trial import CHECKPOINT, SNAPSHOTS
from orchestrator.core import disk
from orchestrator.store.store import replacing

# a trial may write its next snapshot while others need the last one, but never two further ones
KEPT = 2


def folder(trial: Path, epoch: int) -> Path:
    """Return the folder of the snapshot of the trial in `trial` after `epoch` epochs."""
    return trial / SNAPSHOTS / f"epoch-{epoch}"


def keep(trial: Path, epoch: int) -> Path:
    """Copy the checkpoint of the trial in `trial`, which has trained `epoch` epochs.

    Copies older than the last two are removed.
    """
    target = folder(trial, epoch)
    if not target.is_dir():
        _copy(trial / CHECKPOINT, target)
    for old in sorted(target.parent.glob("epoch-*"), key=epoch_of)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def epoch_of(snapshot: Path) -> int:
    """Return the number of epochs after which the snapshot was taken, from its name."""
    return int(snapshot.name.removeprefix("epoch-"))


def put_back(snapshot: Path, trial: Path) -> None:
    """Restore a snapshot, the trial's own or another's, as the checkpoint of the trial in `trial`.

    Raise OSError if the snapshot does not exist any more.
    """
    _copy(snapshot, trial / CHECKPOINT)


def remove(trial: Path) -> None:
    """Remove all snapshots of the trial in `trial`."""
    shutil.rmtree(trial / SNAPSHOTS, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    disk.retry_while_disk_full(lambda: _copy_now(source, target), target)


def _copy_now(source: Path, target: Path) -> None:
    with replacing(target) as aside:
        shutil.copytree(source, aside, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
