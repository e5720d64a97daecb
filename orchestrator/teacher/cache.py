"""Arrays that are computed once and mapped by everybody: one file each, sealed, within a limit. Knows no teacher and no views.

A file is NumPy's format with a seal behind it: the SHA-256 of its place and its bytes. A file that is cut off, changed or
copied here from elsewhere does not carry its seal, and is computed again.
"""

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from orchestrator.core import disk
from orchestrator.core.errors import PreflightError
from orchestrator.store.store import aside_of, write_json

FORMAT = 2  # raised when what is written changes, so that older files are not read
NAME_LENGTH, ABOUT = 16, "about.json"  # of a folder: hexadecimal digits, and the file that says what it holds
SEAL_BYTES = hashlib.sha256().digest_size
BLOCK_BYTES = 2**22
POLL_S = 1.0
LIMIT_S = 60.0  # who holds this lock removes a few files, no more
Array = NDArray[Any]
_checked: set[tuple[Path, bytes]] = set()


def folders(root: Path) -> list[Path]:
    """The folders of a cache; what else lies in `root`, which a user may have named, is not ours to count or to remove."""
    return [folder for folder in root.glob("[0-9a-f]" * NAME_LENGTH) if (folder / ABOUT).is_file()]


class Cache:
    """The cache in a folder of at most `limit_bytes`; `notes` are what a person should hear, until they are taken."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root, self.limit_bytes = root, limit_bytes
        self.notes: list[str] = []
        self.about: dict[Path, str] = {}

    def folder(self, about: dict[str, Any]) -> Path:
        """The folder for everything that `about`, JSON values, decides; `make` makes it, and it says so in a file."""
        text = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        folder = self.root / hashlib.sha256(text.encode()).hexdigest()[:NAME_LENGTH]
        self.about[folder] = text
        return folder

    def make(self, folder: Path) -> None:
        """Make a folder that may not be there yet."""
        if not (folder / ABOUT).exists():
            with told(folder):
                write_json(folder / ABOUT, json.loads(self.about[folder]))

    def read_all(self, files: dict[str, Path]) -> dict[str, Array]:
        """Those of the arrays that are there."""
        return {part: array for part, file in files.items() if (array := self.read(file)) is not None}

    def read(self, file: Path) -> Array | None:
        """The array, mapped, and counted as used; None where there is none that carries its seal."""
        with told(file):
            try:
                if not _is_sealed(file):
                    self._note(f"{file} is damaged or not of this cache, and is computed again")
                    return None
                array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
            except FileNotFoundError:
                return None
        with contextlib.suppress(OSError):  # a cache that we may only read
            os.utime(file)
        return array

    def writer(self, file: Path, rows: int, columns: int, dtype: str) -> "Writer":
        """Write an array row by row; who calls holds the lock of the file."""
        header = _header(rows, columns, dtype)
        size = len(header) + rows * columns * np.dtype(dtype).itemsize + SEAL_BYTES
        with told(file), FileLock(self.root / "limit.lock", timeout=LIMIT_S):
            for left in file.parent.glob(f".{file.name}.*"):  # by one who held this lock before, and died
                left.unlink()
            self._make_room(size)
            disk.require_space(self.root, size)
            return Writer(file, header, size)

    def _make_room(self, needed: int) -> None:
        """Remove what was left by the dead, then what was not used for longest."""
        ours = folders(self.root)
        for aside in (aside for folder in ours for aside in folder.glob(".*.npy.*")):
            _remove_if_dead(aside)
        found = [(file, status) for folder in ours for file in folder.glob("*.npy*") if (status := _status(file))]
        held, short = sum(status.st_size for _, status in found), disk.RESERVE_BYTES - disk.free_bytes(self.root)
        over = needed + max(held - self.limit_bytes, short)
        removed = 0
        for file, status in sorted(found, key=lambda pair: pair[1].st_mtime_ns):
            if over > 0 and file.suffix == ".npy":
                file.unlink(missing_ok=True)
                over, removed = over - status.st_size, removed + 1
        if removed:
            self._note(f"the cache in {self.root} is full: {removed} of its files, the longest unused, were removed")
        if over > 0:
            self._note(f"the cache in {self.root} is larger than teacher.cache_gib, with nothing left to remove: raise it")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def take_notes(self) -> list[str]:
        """What was noted since the last call."""
        notes, self.notes = self.notes, []
        return notes


class Writer:
    """An array on its way into the cache, written aside. It takes its place with `finish`, and leaves nothing without."""

    def __init__(self, file: Path, header: bytes, size: int) -> None:
        self.file, self.aside = file, aside_of(file)
        self.hash = hashlib.sha256(_place(file))
        self.stream = self.aside.open("xb")
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is met here, and not after a long pass
                os.posix_fallocate(self.stream.fileno(), 0, size)
            self._write(header)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # the buffer of a stream whose disk is full
            self.stream.close()
        self.aside.unlink(missing_ok=True)

    def add(self, rows: Array) -> None:
        """The next rows (m, columns), of the array's type."""
        with told(self.file):
            self._write(rows.tobytes())

    def finish(self) -> None:
        """Seal the file and put it in its place."""
        with told(self.file):
            self.stream.write(self.hash.digest())
            self.stream.close()
            os.replace(self.aside, self.file)
        _checked.add((self.file, self.hash.digest()))

    def _write(self, data: bytes) -> None:
        self.hash.update(data)
        self.stream.write(data)


class Lock:
    """A lock on a file of the cache, that of the kernel: it falls when its owner dies. The owner shows that it goes on."""

    def __init__(self, file: Path) -> None:
        self.file, self.path = file, Path(f"{file}.lock")
        self.lock = FileLock(self.path)

    def wait(self, wait_s: float) -> Callable[[], bool | None]:
        """A step of waiting: True when the lock is ours, None to go on, False when its owner did nothing for `wait_s`."""
        last, since = self._sign(), time.monotonic()

        def step() -> bool | None:
            nonlocal last, since
            if self._acquired(min(POLL_S, wait_s)):
                return True
            sign, now = self._sign(), time.monotonic()
            if sign != last:
                last, since = sign, now
            return None if now - since < wait_s else False

        return step

    def show_life(self) -> None:
        """Whoever waits sees that the work goes on."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Let the next one in."""
        self.lock.release()

    def _acquired(self, timeout_s: float) -> bool:
        with told(self.path):
            try:
                self.lock.acquire(timeout=timeout_s)
            except Timeout:
                return False
        return True

    def _sign(self) -> int:
        status = _status(self.path)
        return status.st_mtime_ns if status else 0


def _header(rows: int, columns: int, dtype: str) -> bytes:
    stream = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows, columns)}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _place(file: Path) -> bytes:
    return f"{file.parent.name}/{file.name}".encode()


def _is_sealed(file: Path) -> bool:
    """Whether the file carries the seal of its place and content; what was checked once is not read again."""
    with file.open("rb") as stream:
        left = os.fstat(stream.fileno()).st_size - SEAL_BYTES
        if left < 0:
            return False
        stream.seek(left)
        seal = stream.read()
        if (file, seal) in _checked:
            return True
        stream.seek(0)
        digest = hashlib.sha256(_place(file))
        while left:
            block = stream.read(min(left, BLOCK_BYTES))
            if not block:
                return False
            digest.update(block)
            left -= len(block)
    if digest.digest() != seal:
        return False
    _checked.add((file, seal))
    return True


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # removed in this moment
        return None


def _remove_if_dead(aside: Path) -> None:
    """What was written aside stays when its writer is killed; it is dead when nobody holds the lock of its file."""
    file = aside.with_name(aside.name[1:].partition(".npy.")[0] + ".npy")
    with contextlib.suppress(Timeout), FileLock(f"{file}.lock", timeout=0):
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """PreflightError with a sentence for what the file system refuses."""
    try:
        yield
    except OSError as error:  # a Timeout is one too
        reason = error.strerror or str(error)
        raise PreflightError(
            f"the cache cannot be used at {path} ({reason}): free some space, name another folder with teacher.cache, "
            "or set teacher.mode=online",
            field=str(path),
            value=reason,
            allowed="a folder with free space that can be written",
        ) from error
