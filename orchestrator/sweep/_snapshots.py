"""Copies of a trial's checkpoint as it stood after an epoch, which others may take over. Knows folders alone.

Files of a checkpoint are replaced and never changed in place, so a copy is a folder of hard links where the disk allows it.
"""

import os
import shutil
from pathlib import Path

from orchestrator.config.trial import CHECKPOINT, SNAPSHOTS
from orchestrator.core import disk
from orchestrator.store.store import replacing

KEPT = 2  # a trial reaches its next snapshot while others still wait to take over the last one, and never the one after it


def folder(trial: Path, epoch: int) -> Path:
    """Where the snapshot of the trial in `trial` after `epoch` epochs lies."""
    return trial / SNAPSHOTS / f"epoch-{epoch}"


def keep(trial: Path, epoch: int) -> Path:
    """Copy the checkpoint of the trial in `trial`, which stands after `epoch` epochs; older copies than the last two go."""
    target = folder(trial, epoch)
    if not target.is_dir():
        _copy(trial / CHECKPOINT, target)
    for old in sorted(target.parent.glob("epoch-*"), key=epoch_of)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def epoch_of(snapshot: Path) -> int:
    """After how many epochs it was taken, as its name says."""
    return int(snapshot.name.removeprefix("epoch-"))


def put_back(snapshot: Path, trial: Path) -> None:
    """Let the trial in `trial` stand where the snapshot was taken, be it its own or another one's; OSError when it is gone."""
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
    except OSError:  # another file system, or one that knows no links
        shutil.copy2(source, target)
