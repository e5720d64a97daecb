"""The checkpoint on disk: whole or passed over, never half. Knows no trainer."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.trial import CHECKPOINT

CPU = torch.device("cpu")
FILES = ("student.safetensors", "best.safetensors", "method.safetensors", "optimizer.pt", "progress.json")
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "text": lambda content: b"not what it was" * len(content),
    "zeros": lambda content: bytes(len(content)),
}


def made(epoch: int) -> Checkpoint:
    state = {"weight": torch.full((3, 4), float(epoch)), "steps": torch.tensor(epoch)}
    optimizer = {"optimizer": {"state": {0: {"momentum_buffer": torch.ones(3, 4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}}
    return Checkpoint(state, dict(state), {"alpha": torch.tensor(0.5)}, optimizer, {"record": {"epoch": epoch}})


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(3))
    loaded = checkpoint.load(tmp_path, CPU)
    assert loaded is not None
    for name in ("student", "best", "method"):
        expected = getattr(made(3), name)
        assert set(getattr(loaded, name)) == set(expected)
        assert all(torch.equal(value, expected[key]) for key, value in getattr(loaded, name).items())
    assert torch.equal(loaded.optimizer["optimizer"]["state"][0]["momentum_buffer"], torch.ones(3, 4))
    assert loaded.progress == {"record": {"epoch": 3}}


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, CPU) is None


def test_a_method_without_parameters_has_no_file(tmp_path: Path) -> None:
    without = made(1)
    without.method = {}
    checkpoint.save(tmp_path, without)
    loaded = checkpoint.load(tmp_path, CPU)
    assert loaded is not None and loaded.method == {}
    assert not (tmp_path / CHECKPOINT / "method.safetensors").exists()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_for_the_older_one(tmp_path: Path, name: str, damage: str) -> None:
    checkpoint.save(tmp_path, made(1))
    shutil.copytree(tmp_path / CHECKPOINT, tmp_path / f"{CHECKPOINT}.old")
    checkpoint.save(tmp_path / "newer", made(2))
    shutil.rmtree(tmp_path / CHECKPOINT)
    shutil.copytree(tmp_path / "newer" / CHECKPOINT, tmp_path / CHECKPOINT)
    file = tmp_path / CHECKPOINT / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    loaded = checkpoint.load(tmp_path, CPU)
    assert loaded is not None
    assert loaded.progress["record"]["epoch"] == 1
    assert torch.equal(loaded.student["weight"], torch.ones(3, 4))


@pytest.mark.parametrize("name", [name for name in FILES if name != "method.safetensors"])
def test_a_checkpoint_with_a_file_missing_is_none(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, made(1))
    (tmp_path / CHECKPOINT / name).unlink()
    assert checkpoint.load(tmp_path, CPU) is None


def test_the_older_one_is_read_when_the_end_came_between_two_renames(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, made(1))
    (tmp_path / CHECKPOINT).rename(tmp_path / f"{CHECKPOINT}.old")
    loaded = checkpoint.load(tmp_path, CPU)
    assert loaded is not None and loaded.progress["record"]["epoch"] == 1


def test_saving_that_breaks_off_leaves_the_old_one_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, made(1))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, made(2))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    loaded = checkpoint.load(tmp_path, CPU)
    assert loaded is not None and loaded.progress["record"]["epoch"] == 1


def test_an_optimizer_file_that_runs_code_is_passed_over(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harm",)

    checkpoint.save(tmp_path, made(1))
    torch.save({"optimizer": Harm()}, tmp_path / CHECKPOINT / "optimizer.pt")
    assert checkpoint.load(tmp_path, CPU) is None
    assert not (tmp_path / "harm").exists()
