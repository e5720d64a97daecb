"""Test cache files: sealed, limited, and usable after any death of a writer."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from orchestrator.teacher.cache import Cache, Lock

ABOUT = {"teacher": "a", "data": "b"}
ROWS, COLUMNS = 6, 3
FILE_BYTES = 128 + ROWS * COLUMNS * 4 + 32  # header, array, seal
VALUES = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)


def made(cache: Cache, about: dict[str, str] = ABOUT) -> Path:
    folder = cache.folder(about)
    cache.make(folder)
    return folder


def written(cache: Cache, name: str, about: dict[str, str] = ABOUT, plus: float = 0.0) -> Path:
    """Write a file of the cache in two parts."""
    file = made(cache, about) / f"{name}.npy"
    with cache.writer(file, ROWS, COLUMNS, "float32") as writer:
        writer.add(VALUES[:4] + np.float32(plus))
        writer.add(VALUES[4:] + np.float32(plus))
        writer.finish()
    return file


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path, 2**20)


def fresh(cache: Cache) -> Cache:
    """Return the same folder as another process opens it."""
    from orchestrator.teacher import cache as module

    module._checked.clear()
    return Cache(cache.root, cache.limit_bytes)


def test_a_written_array_is_read_memory_mapped(cache: Cache) -> None:
    file = written(cache, "view-00000")
    assert file.stat().st_size == FILE_BYTES
    read = fresh(cache).read(file)
    assert isinstance(read, np.memmap) and np.array_equal(read, VALUES)
    assert not cache.take_notes()


def test_numpy_alone_reads_a_file(cache: Cache) -> None:
    assert np.array_equal(np.load(written(cache, "view-00000")), VALUES)


def test_a_missing_file_is_none_without_a_note(cache: Cache) -> None:
    assert cache.read(made(cache) / "view-00000.npy") is None
    assert not cache.take_notes()


@pytest.mark.parametrize("left", [0, 1, 31, 32, 100, 128, FILE_BYTES - 33, FILE_BYTES - 1])
def test_a_truncated_file_is_none_with_a_note(cache: Cache, left: int) -> None:
    file = written(cache, "view-00000")
    os.truncate(file, left)
    other = fresh(cache)
    assert other.read(file) is None
    (note,) = other.take_notes()
    assert str(file) in note and "damaged" in note and not other.take_notes()


@pytest.mark.parametrize("place", [0, 60, 128, 150, FILE_BYTES - 32, FILE_BYTES - 1])
def test_one_changed_byte_is_detected(cache: Cache, place: int) -> None:
    file = written(cache, "view-00000")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    other = fresh(cache)
    assert other.read(file) is None and other.take_notes()


def test_appended_bytes_are_detected(cache: Cache) -> None:
    file = written(cache, "view-00000")
    file.write_bytes(file.read_bytes() + bytes(64))
    assert fresh(cache).read(file) is None


@pytest.mark.parametrize("about", [ABOUT, {"teacher": "another", "data": "b"}])
def test_a_file_from_another_path_is_detected(cache: Cache, about: dict[str, str]) -> None:
    foreign = written(cache, "view-00001", about)
    file = made(cache) / "view-00000.npy"
    file.write_bytes(foreign.read_bytes())
    other = fresh(cache)
    assert other.read(file) is None and other.take_notes()
    assert other.read(foreign) is not None


def test_a_replaced_file_is_verified_again(cache: Cache) -> None:
    file = written(cache, "view-00000")
    assert cache.read(file) is not None
    content = bytearray(written(cache, "view-00000", plus=1).read_bytes())
    content[200] ^= 1
    content[-1] ^= 1
    file.write_bytes(content)
    assert cache.read(file) is None


def test_a_plain_numpy_file_is_not_accepted(cache: Cache) -> None:
    file = made(cache) / "view-00000.npy"
    np.save(file, VALUES)
    assert cache.read(file) is None and cache.take_notes()


@pytest.mark.parametrize("name", ["photographs", "0123456789abcdef"])
def test_foreign_files_in_the_folder_are_neither_counted_nor_removed(
    tmp_path: Path, name: str
) -> None:
    theirs = tmp_path / name / "mine.npy"
    theirs.parent.mkdir()
    theirs.write_bytes(b"0" * 10 * FILE_BYTES)
    os.utime(theirs, (0, 0))  # least recently used
    small = Cache(tmp_path, FILE_BYTES)
    first, second = written(small, "view-00000"), written(small, "view-00001")
    assert theirs.exists() and second.exists() and not first.exists()
    assert not any("exceeds teacher.cache_gib" in note for note in small.take_notes())


def test_an_interrupted_writer_leaves_no_file(cache: Cache) -> None:
    file = made(cache) / "view-00000.npy"
    with pytest.raises(KeyboardInterrupt), cache.writer(file, ROWS, COLUMNS, "float32") as writer:
        writer.add(VALUES[:4])
        raise KeyboardInterrupt
    assert {path.name for path in file.parent.iterdir()} == {"about.json"}


def test_a_mapped_array_stays_valid_after_its_file_is_removed(cache: Cache) -> None:
    file = written(cache, "view-00000")
    read = cache.read(file)
    file.unlink()
    assert read is not None and np.array_equal(read, VALUES)


def names(cache: Cache) -> set[str]:
    return {file.stem for file in cache.root.glob("*/*.npy")}


def test_the_least_recently_used_file_is_removed_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * FILE_BYTES)
    files = [written(cache, name) for name in ("one", "two", "three")]
    for age, file in enumerate(files):
        os.utime(file, (1000 + age, 1000 + age))
    assert cache.read(files[0]) is not None, "reading makes it the most recently used"
    written(cache, "four")
    assert names(cache) == {"one", "three", "four"}
    assert any("1 least recently used" in note for note in cache.take_notes())
    written(cache, "five", {"teacher": "of another sweep"})
    assert len(names(cache)) == 3 and "five" in names(cache)


def test_nothing_is_removed_while_there_is_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * FILE_BYTES)
    for name in ("one", "two", "three"):
        written(cache, name)
    assert names(cache) == {"one", "two", "three"} and not cache.take_notes()


def test_files_that_another_process_writes_are_counted_and_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 2 * FILE_BYTES)
    written(cache, "old")
    file = made(cache) / "slow.npy"
    lock = Lock(file)
    assert lock.wait(1)()
    with cache.writer(file, ROWS, COLUMNS, "float32") as writer:
        written(Cache(tmp_path, 2 * FILE_BYTES), "quick")
        assert names(cache) == {"quick"}, "the old file was removed to make room for both"
        writer.add(VALUES)
        writer.finish()
    lock.release()
    assert names(cache) == {"quick", "slow"}


def test_temporary_files_of_dead_writers_are_removed(cache: Cache) -> None:
    folder = made(cache)
    left = folder / ".view-00000.npy.4711.abcdef01"
    left.write_bytes(bytes(1000))
    written(cache, "view-00001")
    assert not left.exists()


def test_a_folder_contains_its_description(cache: Cache) -> None:
    text = (made(cache) / "about.json").read_text()
    assert '"teacher": "a"' in text and '"data": "b"' in text


def test_waiting_ends_if_the_owner_of_the_lock_sends_no_heartbeat(cache: Cache) -> None:
    file = made(cache) / "view-00000.npy"
    owner = Lock(file)
    assert owner.wait(1)() is True
    answers: list[bool | None] = []

    def other() -> None:
        step = Lock(file).wait(0.02)
        while not answers or answers[-1] is None:
            answers.append(step())

    waiting = threading.Thread(target=other)
    waiting.start()
    waiting.join(30)
    owner.release()
    assert answers[-1] is False


def test_a_heartbeat_extends_the_wait_for_a_lock(cache: Cache) -> None:
    file = made(cache) / "view-00000.npy"
    owner, rounds = Lock(file), 5
    assert owner.wait(1)() is True
    answers: list[bool | None] = []

    def other() -> None:
        step = Lock(file).wait(1e-6)  # without a heartbeat the first step would give up
        for stamp in range(rounds):
            os.utime(file.with_name(f"{file.name}.lock"), (stamp + 1, stamp + 1))
            answers.append(step())
        answers.append(step())

    waiting = threading.Thread(target=other)
    waiting.start()
    waiting.join(30)
    owner.release()
    assert answers == [None] * rounds + [False]
