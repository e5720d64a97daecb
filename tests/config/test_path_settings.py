"""Test paths of a configuration: recorded as absolute, and corrected at a resume."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import sweep as sweep_command
from orchestrator.config.loader import load
from orchestrator.config.path_settings import move_paths, resolve_paths
from orchestrator.data.dataset import read_summary
from orchestrator.data.prepare import prepare
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, write_json
from orchestrator.sweep.changed_configuration import change_configuration, require_same
from orchestrator.sweep.provenance import keep
from orchestrator.sweep.space_snapshot import described_data
from orchestrator.teacher import fit
from orchestrator.teacher.card import CARD
from orchestrator.teacher.frozen import WEIGHTS
from orchestrator.teacher.moved import carry_teacher_over
from tests.refusal import refused

PAIRS = [
    "data.path=sub/../d.npz",
    "teacher.cache=cache",
    "teacher.network.weights=t.safetensors",
    "student.weights=~/s.safetensors",
    "peers={b: {network: {name: mlp, weights: b.safetensors}}}",
    "tracking.uri=sqlite:///my%20runs.db",
]


def test_paths_are_resolved_before_they_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    found = resolve_paths(load(None, PAIRS))
    assert (
        found.teacher
        and found.data.path == tmp_path / "d.npz"
        and found.teacher.cache == tmp_path / "cache"
    )
    assert found.teacher.network.weights == str(tmp_path / "t.safetensors")
    assert found.student.weights == "/home/ann/s.safetensors"
    assert found.peers["b"].network.weights == str(tmp_path / "b.safetensors")
    assert found.tracking.uri == f"sqlite:///{tmp_path}/my runs.db", "as SQLAlchemy reads it"
    monkeypatch.chdir("/")
    assert resolve_paths(found) == found


def test_names_of_torchvision_and_the_cache_of_a_cluster_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = load(
        None,
        [
            "student.weights=IMAGENET1K_V1",
            "teacher.cache=~/cache",
            "resources.address=10.0.0.1:6379",
        ],
    )
    assert resolve_paths(given) == given, "each node has a home of its own"
    here = resolve_paths(given, local=True).teacher
    assert here and here.cache == Path("~/cache").expanduser()


@pytest.mark.parametrize(
    "pair",
    [
        "method.temperature=3",
        "data.path=x.npz",
        "data.seed=1",
        "student.weights=x",
        "nonsense",
        "data.path",
    ],
)
def test_a_resume_changes_paths_only(pair: str) -> None:
    with refused(pair.partition("=")[0], pair.partition("=")[2], ("teacher.cache",)):
        move_paths(load(None, []), [pair])


def test_a_path_can_be_changed_but_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = resolve_paths(load(None, PAIRS))
    found = move_paths(
        before, ["data.path=there/e.npz", "peers.b.network.weights=c.safetensors", "teacher.cache="]
    )
    assert (
        found.data.path == tmp_path / "there" / "e.npz"
        and found.teacher
        and found.teacher.cache is None
    )
    assert found.peers["b"].network.weights == str(tmp_path / "c.safetensors")
    with refused("data.path", None, Path):
        move_paths(before, ["data.path="])


def write_npz(file: Path, first: int = 0) -> Path:
    images = np.arange(40 * 64, dtype=np.uint64).reshape(40, 8, 8).astype(np.uint8)
    images[0, 0, 0] = first
    labels = np.arange(40) % 2
    np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return file


def write_folder(root: Path, first: int = 0) -> Path:
    from PIL import Image

    for number, (split, name) in enumerate(
        (split, name) for split in ("train", "val", "test") for name in "ab"
    ):
        (root / split / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (first if not number else 50 * number, 0, 0)).save(
            root / split / name / "1.png"
        )
    return root


@pytest.mark.parametrize(("name", "write"), [("npz", write_npz), ("folder", write_folder)])
def test_moved_data_are_compared_and_keep_their_teacher(
    tmp_path: Path, name: str, write: Any
) -> None:
    store, size = Store.open(tmp_path / "store"), ["data.size=8"] if name == "folder" else []
    old, same, other = tmp_path / "old.npz", tmp_path / "same.npz", tmp_path / "other.npz"
    write(old)
    configuration = load(None, [f"data.name={name}", f"data.path={old}", *size])
    data = prepare(configuration.data, store.root, 0)
    sweep = Sweep.create(
        store.sweep("mine"), configuration, "train", described_data(configuration, data)
    )
    keep(sweep.folder, data)
    teacher = fit.teacher_folder(store, configuration, data)
    teacher.mkdir(parents=True)
    (teacher / WEIGHTS).write_bytes(b"weights")
    card = {
        "fingerprint": teacher.name,
        "weights": "7",
        "network": {"name": "mlp"},
        "classes": 2,
        "shape": [3, 8, 8],
    }
    write_json(teacher / CARD, card)
    shutil.move(old, same)
    for file in [same, *same.rglob("*")]:
        os.utime(file, (1, 1))  # a copy has its own times
    write(other, first=9)

    with refused("data.path", str(old)):
        change_configuration(sweep, None, None, None)
    with refused("--resume") as refusal:
        moved = change_configuration(sweep, None, None, None, pairs=[f"data.path={other}"])
        require_same(sweep, described_data(moved, prepare(moved.data, store.root, 0)))
    assert "other.npz" in str(refusal.value.value)
    moved = change_configuration(sweep, None, None, None, pairs=[f"data.path={same}"])
    there = prepare(moved.data, store.root, 0)
    require_same(sweep, described_data(moved, there))
    assert read_summary(there).fingerprint != read_summary(data).fingerprint
    carry_teacher_over(store, sweep.folder, moved, there)
    kept = fit.teacher_folder(store, moved, there)
    assert kept != teacher and (kept / WEIGHTS).read_bytes() == b"weights"
    assert fit.card(kept) == {"data": "", "metrics": {}, **card, "fingerprint": kept.name}


def test_initial_weights_of_students_are_compared(tmp_path: Path, digits_store: Path) -> None:
    weights = tmp_path / "s.safetensors"
    weights.write_bytes(b"one")
    given = load(None, [f"student.weights={weights}", "teacher=null", "method.name=cross_entropy"])
    data = prepare(given.data, digits_store, 0)
    sweep = Sweep.create(
        Store.open(tmp_path / "store").sweep("mine"), given, "train", described_data(given, data)
    )
    for name, content in (("t", b"one"), ("u", b"two")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        moved = change_configuration(
            sweep, None, None, None, pairs=[f"student.weights={tmp_path / name}.safetensors"]
        )
        now = described_data(moved, data)
        if content == b"one":
            require_same(sweep, now)
        else:
            with refused("--resume") as refusal:
                require_same(sweep, now)
            assert "u.safetensors" in str(refusal.value.value)


def test_the_command_line_takes_them(tmp_path: Path) -> None:
    sweep = Sweep.create(Store.open(tmp_path).sweep("mine"), load(None, []), "sweep")
    with refused("method.temperature", "3", ("teacher.cache",)):
        sweep_command.sweep(
            None,
            ["method.temperature=3"],
            tmp_path,
            None,
            None,
            False,
            None,
            None,
            resume=sweep.name,
        )
