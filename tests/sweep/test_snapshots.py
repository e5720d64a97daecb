"""Test copies of checkpoints: unchanged, only the last two are kept, another trial may use one."""

import os
from pathlib import Path

import pytest

from orchestrator.config.trial import CHECKPOINT, SNAPSHOTS
from orchestrator.store.store import replacing
from orchestrator.sweep import _snapshots as snapshots


def save(trial: Path, text: str) -> None:
    """Save as a worker does: under a temporary name, then renamed."""
    with replacing(trial / CHECKPOINT) as aside:
        aside.mkdir()
        (aside / "student.safetensors").write_text(text)
        (aside / "progress.json").write_text("{}")


def read(folder: Path) -> str:
    return (folder / "student.safetensors").read_text()


@pytest.mark.parametrize("linked", [True, False])
def test_snapshot_does_not_change(
    linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("this file system knows no links")

    if not linked:
        monkeypatch.setattr(os, "link", no_links)
    save(tmp_path / "a", "one")
    kept = snapshots.keep(tmp_path / "a", 1)
    assert os.stat(kept / "student.safetensors").st_nlink == (2 if linked else 1)
    save(tmp_path / "a", "two")
    assert read(kept) == "one" and read(tmp_path / "a" / CHECKPOINT) == "two"
    assert kept == snapshots.folder(tmp_path / "a", 1) and snapshots.epoch_of(kept) == 1


def test_only_the_last_two_snapshots_are_kept(tmp_path: Path) -> None:
    for epoch in (2, 9, 10, 100):
        save(tmp_path / "a", str(epoch))
        snapshots.keep(tmp_path / "a", epoch)
    assert sorted(path.name for path in (tmp_path / "a" / SNAPSHOTS).iterdir()) == [
        "epoch-10",
        "epoch-100",
    ]
    snapshots.remove(tmp_path / "a")
    snapshots.remove(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == [CHECKPOINT]


def test_copying_a_snapshot_leaves_the_donor_intact(tmp_path: Path) -> None:
    save(tmp_path / "good", "good")
    save(tmp_path / "poor", "poor")
    kept = snapshots.keep(tmp_path / "good", 5)
    snapshots.put_back(kept, tmp_path / "poor")
    assert read(tmp_path / "poor" / CHECKPOINT) == "good"
    save(tmp_path / "poor", "poor continues")
    assert read(kept) == read(tmp_path / "good" / CHECKPOINT) == "good"
    assert sorted(path.name for path in (tmp_path / "poor").iterdir()) == [CHECKPOINT], (
        "no temporary folder is left"
    )


def test_missing_snapshot_replaces_nothing(tmp_path: Path) -> None:
    save(tmp_path / "poor", "poor")
    with pytest.raises(OSError):
        snapshots.put_back(tmp_path / "good" / "epoch-5", tmp_path / "poor")
    assert read(tmp_path / "poor" / CHECKPOINT) == "poor"


def test_snapshot_of_several_students_is_copied_as_a_whole(tmp_path: Path) -> None:
    for trial in ("good", "poor"):
        save(tmp_path / trial, trial)
        peer = tmp_path / trial / CHECKPOINT / "b"
        peer.mkdir()
        (peer / "student.safetensors").write_text(f"{trial} b")
    snapshots.put_back(snapshots.keep(tmp_path / "good", 5), tmp_path / "poor")
    assert (
        read(tmp_path / "poor" / CHECKPOINT) == "good"
        and read(tmp_path / "poor" / CHECKPOINT / "b") == "good b"
    )
