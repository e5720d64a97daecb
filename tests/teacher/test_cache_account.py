"""Test that writers of a cache account for its bytes, and rarely list its files."""

import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from orchestrator.core import disk
from orchestrator.teacher import cache as module
from orchestrator.teacher.cache import Cache, CachedFile, list_files

ROWS = np.zeros((6, 3), dtype=np.float32)
FILE_BYTES = 128 + ROWS.nbytes + 32  # header, array, seal


def write(cache: Cache, name: str) -> Path:
    folder = cache.folder({"teacher": "a"})
    cache.make(folder)
    file = folder / f"{name}.npy"
    with cache.writer(file, *ROWS.shape, "float32") as writer:
        writer.add(ROWS)
        writer.finish()
    return file


def accounted(cache: Cache) -> int:
    return int(json.loads((cache.root / "limit.json").read_text())[1])


def held(cache: Cache) -> int:
    return sum(file.size for file in list_files(cache.root))


def names(cache: Cache) -> list[str]:
    return sorted(file.stem for file in cache.root.glob("*/*.npy"))


def in_child(action: Callable[[], None]) -> int:
    """Start a process that runs an action, and return its id."""
    child = os.fork()
    if not child:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, 2**20)


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the folders whose files are listed during the test."""
    roots: list[Path] = []
    list_all = module.list_files

    def record_listing(root: Path) -> list[CachedFile]:
        roots.append(root)
        return list_all(root)

    monkeypatch.setattr(module, "list_files", record_listing)
    return roots


def test_files_are_listed_once_while_there_is_room(cache: Cache, listings: list[Path]) -> None:
    for number in range(30):
        write(Cache(cache.root, cache.limit_bytes), f"view-{number}")
    assert len(listings) == 1 and accounted(cache) == held(cache) == 30 * FILE_BYTES


def test_two_processes_share_an_account(cache: Cache) -> None:
    def write_twenty(name: str) -> None:
        for number in range(20):
            write(cache, f"{name}-{number}")

    children = [in_child(partial(write_twenty, name)) for name in ("one", "two")]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert accounted(cache) == held(cache) == 40 * FILE_BYTES


def test_a_full_cache_stays_within_its_limit_and_is_rarely_listed(
    tmp_path: Path, listings: list[Path]
) -> None:
    cache = Cache(tmp_path, 192 * FILE_BYTES)
    for number in range(300):
        write(cache, f"view-{number:03d}")
        assert len(names(cache)) <= 192
    assert "view-299" in names(cache) and len(names(cache)) >= 189
    assert len(listings) <= 1 + 108 / 3, "room for 192 / 64 = 3 files is made at once"


def test_room_for_later_files_is_made_in_the_order_of_use(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 128 * FILE_BYTES)
    for number in range(128):
        os.utime(write(cache, f"view-{number:03d}"), (1000 + number, 1000 + number))
    write(cache, "new")
    assert names(cache) == ["new", *(f"view-{number:03d}" for number in range(3, 128))]


def test_a_killed_writer_is_counted_until_a_listing_removes_its_file(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cache, "one")

    def end() -> None:
        with cache.writer(cache.folder({"teacher": "a"}) / "two.npy", *ROWS.shape, "float32"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(os.waitpid(in_child(end), 0)[1])
    assert accounted(cache) == held(cache) == 2 * FILE_BYTES
    monkeypatch.setattr(module, "LISTING_S", 0.0)
    write(cache, "three")
    assert names(cache) == ["one", "three"]
    assert accounted(cache) == held(cache) == 2 * FILE_BYTES


def test_a_file_of_a_killed_writer_is_replaced_without_a_listing(
    cache: Cache, listings: list[Path]
) -> None:
    write(cache, "one")
    partial = cache.folder({"teacher": "a"}) / ".two.npy.partial"
    partial.write_bytes(bytes(1000))
    write(cache, "two")
    assert not partial.exists() and names(cache) == ["one", "two"] and len(listings) == 1


@pytest.mark.parametrize("text", ["", "[17", '["a", "b"]', "{}", "[1e300, 5]"])
def test_an_unreadable_account_is_replaced(cache: Cache, text: str) -> None:
    write(cache, "one")
    (cache.root / "limit.json").write_text(text)
    write(cache, "two")
    assert accounted(cache) == 2 * FILE_BYTES


def test_files_that_others_removed_make_room_without_a_removal(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * FILE_BYTES)
    for name in ("one", "two", "three"):
        write(cache, name).unlink()
    kept = write(cache, "four")
    write(cache, "five")
    assert kept.exists() and names(cache) == ["five", "four"] and not cache.take_notes()


def test_files_that_others_add_count_from_the_next_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, 3 * FILE_BYTES)
    added = write(cache, "one").with_name("added.npy")
    added.write_bytes(bytes(2 * FILE_BYTES))
    write(cache, "two")
    assert held(cache) == 4 * FILE_BYTES, "within a minute of the last listing"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + module.LISTING_S)
    write(cache, "three")
    assert held(cache) <= 3 * FILE_BYTES and "three" in names(cache)


def test_a_nearly_full_disk_is_noticed_without_a_listing_before(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(cache, "one")
    reserve = disk.RESERVE_BYTES
    free = [reserve + FILE_BYTES - 1, reserve + FILE_BYTES]  # before and after the removal
    monkeypatch.setattr(disk, "free_bytes", lambda _: free.pop(0))
    write(cache, "two")
    assert names(cache) == ["two"]
