"""Test the checkpoint on disk: complete or skipped, never partial."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config.trial import CHECKPOINT
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.store.progress import Progress, read_progress
from orchestrator.store.store import read_json
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import Checkpoint

CPU = torch.device("cpu")
FILES = (
    "student.safetensors",
    "best.safetensors",
    "method.safetensors",
    "optimizer.pt",
    "progress.json",
)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "text": lambda content: b"not what it was" * len(content),
    "zeros": lambda content: bytes(len(content)),
}


def progress(epoch: int, **files: str) -> Progress:
    return Progress(EpochRecord(epoch, {}), best_value=0.5, best_epoch=epoch, files=files)


def made(epoch: int) -> Checkpoint:
    state = {"weight": torch.full((3, 4), float(epoch)), "steps": torch.tensor(epoch)}
    optimizer = {
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.ones(3, 4)}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        }
    }
    return Checkpoint(state, dict(state), {"alpha": torch.tensor(0.5)}, optimizer, progress(epoch))


def save(folder: Path, part: Checkpoint) -> None:
    checkpoint.save(folder, {"a": part}, TrialContext())


def load(folder: Path) -> Checkpoint | None:
    loaded = checkpoint.load(folder, "a", CPU)
    return loaded["a"] if loaded else None


def test_load_returns_the_saved_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, made(3))
    loaded = load(tmp_path)
    assert loaded is not None
    for name in ("student", "best", "method"):
        expected = getattr(made(3), name)
        assert set(getattr(loaded, name)) == set(expected)
        assert all(
            torch.equal(value, expected[key]) for key, value in getattr(loaded, name).items()
        )
    assert torch.equal(
        loaded.optimizer["optimizer"]["state"][0]["momentum_buffer"], torch.ones(3, 4)
    )
    files = loaded.progress.files
    assert loaded.progress == progress(3, **files) and sorted(files) == sorted(
        set(FILES) - {"progress.json"}
    )


def test_load_returns_none_without_a_checkpoint(tmp_path: Path) -> None:
    assert load(tmp_path) is None


def test_a_method_without_parameters_has_no_file(tmp_path: Path) -> None:
    without = made(1)
    without.method = {}
    save(tmp_path, without)
    loaded = load(tmp_path)
    assert loaded is not None and loaded.method == {}
    assert not (tmp_path / CHECKPOINT / "method.safetensors").exists()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged_checkpoint_is_skipped_for_the_older_one(
    tmp_path: Path, name: str, damage: str
) -> None:
    save(tmp_path, made(1))
    shutil.copytree(tmp_path / CHECKPOINT, tmp_path / f"{CHECKPOINT}.old")
    save(tmp_path / "newer", made(2))
    shutil.rmtree(tmp_path / CHECKPOINT)
    shutil.copytree(tmp_path / "newer" / CHECKPOINT, tmp_path / CHECKPOINT)
    file = tmp_path / CHECKPOINT / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    loaded = load(tmp_path)
    assert loaded is not None
    assert loaded.progress.record.epoch == 1
    assert torch.equal(loaded.student["weight"], torch.ones(3, 4))


@pytest.mark.parametrize("name", [name for name in FILES if name != "method.safetensors"])
def test_incomplete_checkpoint_is_not_loaded(tmp_path: Path, name: str) -> None:
    save(tmp_path, made(1))
    (tmp_path / CHECKPOINT / name).unlink()
    assert load(tmp_path) is None


def test_older_checkpoint_is_loaded_after_a_crash_between_renames(tmp_path: Path) -> None:
    save(tmp_path, made(1))
    (tmp_path / CHECKPOINT).rename(tmp_path / f"{CHECKPOINT}.old")
    loaded = load(tmp_path)
    assert loaded is not None and loaded.progress.record.epoch == 1


def test_failed_save_leaves_only_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, made(1))

    def broken(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="Input/output"):
        save(tmp_path, made(2))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    loaded = load(tmp_path)
    assert loaded is not None and loaded.progress.record.epoch == 1


def test_optimizer_file_that_runs_code_is_skipped(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harm",)

    save(tmp_path, made(1))
    torch.save({"optimizer": Harm()}, tmp_path / CHECKPOINT / "optimizer.pt")
    assert load(tmp_path) is None
    assert not (tmp_path / "harm").exists()


def test_temporary_folder_of_a_dead_writer_is_removed(tmp_path: Path) -> None:
    save(tmp_path, made(1))
    shutil.copytree(tmp_path / CHECKPOINT, tmp_path / f".{CHECKPOINT}.4711.abcd")
    assert load(tmp_path) is not None and [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def pair(epoch: int) -> dict[str, Checkpoint]:
    return {"a": made(epoch), "b": made(epoch + 10)}


def test_checkpoint_of_a_pair_has_the_first_student_at_the_top(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, pair(1), TrialContext())
    loaded = checkpoint.load(tmp_path, "ab", CPU)
    assert loaded is not None
    assert {letter: part.progress.record.epoch for letter, part in loaded.items()} == {
        "a": 1,
        "b": 11,
    }
    assert load(tmp_path) is not None, "student a has the place of a single student"
    assert (tmp_path / CHECKPOINT / "b" / "student.safetensors").exists()


@pytest.mark.parametrize(
    "file", ["student.safetensors", "b/student.safetensors", "b/progress.json"]
)
def test_checkpoint_of_a_pair_is_skipped_if_one_student_is_damaged(
    tmp_path: Path, file: str
) -> None:
    checkpoint.save(tmp_path, pair(1), TrialContext())
    shutil.copytree(tmp_path / CHECKPOINT, tmp_path / "kept")
    checkpoint.save(tmp_path, pair(2), TrialContext())
    (tmp_path / "kept").rename(tmp_path / f"{CHECKPOINT}.old")
    (tmp_path / CHECKPOINT / file).write_bytes(b"")
    loaded = checkpoint.load(tmp_path, "ab", CPU)
    assert loaded is not None
    assert {letter: part.progress.record.epoch for letter, part in loaded.items()} == {
        "a": 1,
        "b": 11,
    }


def test_progress_keeps_its_stored_form(tmp_path: Path) -> None:
    records = [EpochRecord(1, {"a": 0.5}), EpochRecord(2, {"a": 1.0}, done=True, notes=("n",))]
    saved = Progress(records[1], best_value=0.5, best_epoch=1, records=records)
    save(tmp_path, replace(made(2), progress=saved))
    stored = read_json(tmp_path / CHECKPOINT / "progress.json")
    last = {"epoch": 2, "metrics": {"a": 1.0}, "done": True, "notes": ["n"]}
    assert stored["record"] == last
    assert stored["records"] == [{"epoch": 1, "metrics": {"a": 0.5}}, last]
    assert stored["components"] == {} and (stored["best_value"], stored["best_epoch"]) == (0.5, 1)


def test_progress_of_an_older_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(
        '{"record": {"epoch": 2, "metrics": {"a": NaN, "b": 1}, "notes": []}, "best_value": 0.5, '
        '"best_epoch": 1, "weights": {"noted": {}}}'
    )
    progress = read_progress(tmp_path)
    assert progress.record.epoch == 2 and not progress.record.done and progress.records == []
    assert progress.weights == {"noted": {}} and not progress.components and not progress.files
