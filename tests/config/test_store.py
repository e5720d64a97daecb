"""Test the store: names stay inside, files are replaced atomically, refusals are sentences."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.store.store import (
    CONTENT,
    FORMAT,
    FORMAT_FILE,
    SPARE_BYTES,
    Store,
    read_json,
    replacing,
    write_json,
)
from tests.refusal import refused


class Usage(NamedTuple):
    """Result of `shutil.disk_usage`."""

    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "a/b",
        "../a",
        "/a",
        "a\\b",
        ".hidden",
        "-x",
        "a b",
        "a\n",
        "ä",
        "a" * 101,
        "a\0",
    ],
)
def test_a_name_that_could_leave_the_store_is_refused(tmp_path: Path, name: str) -> None:
    with refused("name", name) as raised:
        Store(tmp_path).sweep(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a", "kd-2024.1_b", "0", "a..b", "a" * 100])
def test_a_usable_name_is_a_folder_right_below_the_sweeps(tmp_path: Path, name: str) -> None:
    assert Store(tmp_path).sweep(name).resolve().parent == (tmp_path / "sweeps").resolve()


def test_paths_of_the_store_are_inside_and_distinct(tmp_path: Path) -> None:
    store = Store(tmp_path)
    places = [
        store.database,
        store.artifacts,
        store.teachers,
        store.knowledge,
        store.exports,
        store.sweep("a"),
    ]
    assert len(set(places)) == len(places) and all(
        place.is_relative_to(tmp_path) for place in places
    )


def test_a_store_is_made_with_its_parents_and_holds_its_format_alone(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "some" / "where")
    assert [file.name for file in store.root.iterdir()] == [FORMAT_FILE]
    assert read_json(store.root / FORMAT_FILE) == {"format": FORMAT}
    assert Store.open(store.root) == store == Store.existing(store.root)


OPENED = [Store.open, Store.existing]


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize("name", CONTENT)
def test_content_without_a_format_is_of_an_older_version(
    tmp_path: Path, name: str, opened: Callable[[Path], Store]
) -> None:
    (tmp_path / name).mkdir()
    with refused("--store", 0, FORMAT) as caught:
        opened(tmp_path)
    assert "older version" in str(caught.value) and not (tmp_path / FORMAT_FILE).exists()
    assert Store.existing(tmp_path, any_format=True).root == tmp_path


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize(
    ("number", "version"), [(FORMAT - 1, "older version"), (FORMAT + 1, "newer version")]
)
def test_another_format_is_refused(
    tmp_path: Path, number: int, version: str, opened: Callable[[Path], Store]
) -> None:
    write_json(tmp_path / FORMAT_FILE, {"format": number})
    with refused("--store", number, FORMAT) as caught:
        opened(tmp_path)
    assert version in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": true}', '{"format": "1"}'])
def test_a_damaged_format_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FORMAT_FILE).write_text(text)
    for opened in OPENED:
        with pytest.raises(ConfigurationError, match=FORMAT_FILE):
            opened(tmp_path)


def test_unknown_files_do_not_count_as_content(tmp_path: Path) -> None:
    (tmp_path / "images.npz").touch()
    (tmp_path / "data").mkdir()
    assert Store.existing(tmp_path) == Store.open(tmp_path)
    assert read_json(tmp_path / FORMAT_FILE) == {"format": FORMAT}


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_store_that_cannot_be_written_is_refused_in_a_sentence(
    tmp_path: Path, below: str
) -> None:
    (tmp_path / "file").touch()
    with refused("--store", str(tmp_path / below), error=PreflightError) as raised:
        Store.open(tmp_path / below)
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_refused_with_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, SPARE_BYTES - 1))
    with refused("--store", SPARE_BYTES - 1, (SPARE_BYTES, None), PreflightError):
        Store.open(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, SPARE_BYTES))
    store = Store.open(tmp_path)
    with refused("--store", SPARE_BYTES, (300 * 2**20, None), PreflightError):
        store.require_space(300 * 2**20)


def test_a_command_names_the_store_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store.open(Path("runs")).option == ""
    assert Store.open(Path("my runs")).option == f" --store '{tmp_path.resolve()}/my runs'"


def test_sweeps_are_those_with_a_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.sweeps() == []
    for name in ("b", "a"):
        write_json(store.sweep(name) / "sweep.json", {})
    store.sweep("unfinished").mkdir()
    assert store.sweeps() == ["a", "b"]


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    for text in ("one", "two"):
        with replacing(target) as aside:
            aside.write_text(text)
            assert aside.parent == target.parent, "a rename works within one file system alone"
            assert not target.exists() or target.read_text() == "one"
        assert target.read_text() == text
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="broken"), replacing(target) as aside:
        aside.write_text("half of the new")
        raise RuntimeError("broken")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("one", "two"):
        with replacing(target) as aside:
            aside.mkdir()
            (aside / name).touch()
        assert [path.name for path in target.iterdir()] == [name]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("exists", [True, False])
def test_a_block_that_raises_leaves_the_old_folder(tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "folder"
    if exists:
        target.mkdir()
        (target / "old").touch()
    with pytest.raises(RuntimeError, match="broken"), replacing(target) as aside:
        aside.mkdir()
        (aside / "new").touch()
        raise RuntimeError("broken")
    assert [path.name for path in tmp_path.rglob("*")] == (["folder", "old"] if exists else [])


def test_json_round_trip_and_damage(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    write_json(file, {"a": [1, None, 0.5]})
    assert read_json(file) == json.loads(file.read_text()) == {"a": [1, None, 0.5]}
    file.write_text(file.read_text()[:-3])
    with refused(str(file)):
        read_json(file)
    with refused(str(tmp_path / "nowhere.json")):
        read_json(tmp_path / "nowhere.json")


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert read_json(file) == {"a": 1} and list(tmp_path.iterdir()) == [file]
