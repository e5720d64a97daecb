"""Cache arrays that are computed once: one sealed, memory-mapped file each, within a size limit.

A file is in NumPy's format, followed by a seal: the SHA-256 of its folder name, its file name and
its bytes. A truncated or changed file, or a copy from elsewhere, has no valid seal and is computed
again.
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
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from orchestrator.core import disk
from orchestrator.core.errors import PreflightError
from orchestrator.store.store import write_json

FORMAT = 2  # increase it when the file content changes, so that older files are not read
NAME_LENGTH, ABOUT = 16, "about.json"  # of a folder: hexadecimal digits, and its description
SEAL_BYTES = hashlib.sha256().digest_size
BLOCK_BYTES = 2**22
POLL_S = 1.0
LIMIT_S = 60.0  # the owner of this lock only removes a few files
ACCOUNT_CHARACTERS = 64
LISTING_S = 60.0  # between two listings of all files
SPARE_SHARE = 64  # of a full cache, this part is emptied at once
Array = NDArray[Any]
_checked: set[tuple[Path, bytes]] = set()


def list_folders(root: Path) -> list[Path]:
    """Return the folders of a cache.

    Other content of `root`, which a user may have chosen, is neither counted nor removed.
    """
    return [folder for folder in root.glob("[0-9a-f]" * NAME_LENGTH) if (folder / ABOUT).is_file()]


class CachedFile(NamedTuple):
    """A file of a cache, complete (`.npy`) or not, its size, and the time of its last use."""

    path: Path
    size: int
    used_ns: int


def list_files(root: Path) -> list[CachedFile]:
    """Return the files of a cache, without descriptions and locks."""
    files = []
    for folder in list_folders(root):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if ".npy" in entry.name and not entry.name.endswith(".lock"):
                    with contextlib.suppress(FileNotFoundError):  # removed concurrently
                        status = entry.stat()
                        files.append(
                            CachedFile(Path(entry.path), status.st_size, status.st_mtime_ns)
                        )
    return files


class Account:
    """Bytes of a cache, as all its writers account for them since the files were last listed.

    The caller holds `limit.lock`. After a listing each writer adds its file before it writes, so
    that a crash makes the number too large, never too small. A number that reaches the limit is
    checked by a listing. Files that other programs add count from the next listing on, which is at
    most `LISTING_S` later.
    """

    def __init__(self, root: Path) -> None:
        self.file, self.listed_s = root / "limit.json", 0.0

    def read(self) -> int | None:
        """Return the bytes; None if the files must be listed."""
        try:
            self.listed_s, held_bytes = json.loads(self.file.read_text())
            recent = 0 <= time.time() - self.listed_s < LISTING_S
            return int(held_bytes) if recent else None
        except (OSError, ValueError, TypeError):  # missing, or its writer was killed
            return None

    def begin(self) -> None:
        """Begin with a new listing."""
        self.listed_s = time.time()

    def write(self, held_bytes: int) -> None:
        """Write the bytes of all files, in place: some file systems flush a truncated file."""
        text = json.dumps([self.listed_s, held_bytes]).ljust(ACCOUNT_CHARACTERS)
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(descriptor, text.encode(), 0)
        finally:
            os.close(descriptor)


class Cache:
    """A cache in a folder of limited size.

    Attributes:
        root: The folder.
        limit_bytes: The largest size of all files together.
        notes: Messages for users, until `take_notes` is called.
        about: The description of each folder.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root, self.limit_bytes = root, limit_bytes
        self.notes: list[str] = []
        self.about: dict[Path, str] = {}

    def folder(self, about: dict[str, Any]) -> Path:
        """Return the folder for arrays that the JSON values `about` determine.

        `make` creates the folder, and writes `about` to a file in it.
        """
        text = json.dumps({"format": FORMAT, **about}, sort_keys=True)
        folder = self.root / hashlib.sha256(text.encode()).hexdigest()[:NAME_LENGTH]
        self.about[folder] = text
        return folder

    def make(self, folder: Path) -> None:
        """Create a folder if it does not exist."""
        if not (folder / ABOUT).exists():
            with convert_os_errors(folder):
                write_json(folder / ABOUT, json.loads(self.about[folder]))

    def read_all(self, files: dict[str, Path]) -> dict[str, Array]:
        """Return the arrays of the files that exist and carry a valid seal."""
        return {
            part: array for part, file in files.items() if (array := self.read(file)) is not None
        }

    def read(self, file: Path) -> Array | None:
        """Return the memory-mapped array and mark it as used; None without a valid seal."""
        with convert_os_errors(file):
            try:
                if not _is_sealed(file):
                    self._note(
                        f"{file} is damaged or belongs to another cache, and is computed again"
                    )
                    return None
                array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
            except FileNotFoundError:
                return None
        with contextlib.suppress(OSError):  # the cache may be read-only
            os.utime(file)
        return array

    def writer(self, file: Path, rows: int, columns: int, dtype: str) -> "Writer":
        """Return a writer that writes an array row by row.

        The caller holds the lock of the file.

        Args:
            file: The file in a folder of the cache.
            rows: Number of rows.
            columns: Number of columns.
            dtype: The NumPy type of the array.

        Raises:
            PreflightError: The file system refuses the file, or the disk is full.
        """
        header = _header(rows, columns, dtype)
        size = len(header) + rows * columns * np.dtype(dtype).itemsize + SEAL_BYTES
        with convert_os_errors(file), FileLock(self.root / "limit.lock", timeout=LIMIT_S):
            self._make_room(size)
            disk.require_space(self.root, size)
            return Writer(file, header, size)

    def _make_room(self, needed: int) -> None:
        """Account for `needed` bytes; list the files and remove some only if it is necessary."""
        account, missing_bytes = Account(self.root), needed + disk.RESERVE_BYTES
        held_bytes = account.read()
        missing_bytes -= disk.free_bytes(self.root)
        if held_bytes is None or max(held_bytes + needed - self.limit_bytes, missing_bytes) > 0:
            held_bytes = self._remove_files(needed, missing_bytes)
            account.begin()
        account.write(held_bytes + needed)

    def _remove_files(self, needed: int, missing_bytes: int) -> int:
        """Remove files of dead writers, then the least recently used; return the bytes that stay.

        If the cache is full, room is also made for the next files, so that few of them list all.
        """
        files = list_files(self.root)
        for file in [file for file in files if file.path.suffix != ".npy"]:
            if _remove_if_dead(file.path):
                files.remove(file)
        held_bytes = sum(file.size for file in files)
        excess_bytes = max(held_bytes + needed - self.limit_bytes, missing_bytes)
        spare_bytes = self.limit_bytes // SPARE_SHARE if excess_bytes > 0 else 0
        removed = 0
        for file in sorted(files, key=lambda file: file.used_ns):
            if file.path.suffix == ".npy" and (
                excess_bytes > 0 or excess_bytes + spare_bytes >= file.size
            ):
                file.path.unlink(missing_ok=True)
                held_bytes, removed = held_bytes - file.size, removed + 1
                excess_bytes -= file.size
        if removed:
            self._note(
                f"the cache in {self.root} is full: the {removed} least recently used files were "
                f"removed"
            )
        if excess_bytes > 0:
            self._note(
                f"the cache in {self.root} exceeds teacher.cache_gib, and no file is left to "
                f"remove: raise teacher.cache_gib"
            )
        return held_bytes

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def take_notes(self) -> list[str]:
        """Return the notes since the last call."""
        notes, self.notes = self.notes, []
        return notes


class Writer:
    """An array that is being written to the cache, in a temporary file.

    `finish` renames the file to its final name. Without `finish`, no file remains.
    """

    def __init__(self, file: Path, header: bytes, size: int) -> None:
        self.file, self.temporary = file, file.with_name(f".{file.name}.partial")
        self.hash = hashlib.sha256(_location(file))
        self.temporary.unlink(missing_ok=True)  # of a dead writer, as the caller holds the lock
        self.stream = self.temporary.open("xb")
        try:
            if hasattr(os, "posix_fallocate"):  # fail on a full disk here, not after a long pass
                os.posix_fallocate(self.stream.fileno(), 0, size)
            self._write(header)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # flushing the buffer fails on a full disk
            self.stream.close()
        self.temporary.unlink(missing_ok=True)

    def add(self, rows: Array) -> None:
        """Append rows (m, columns) of the array's type."""
        with convert_os_errors(self.file):
            self._write(rows.tobytes())

    def finish(self) -> None:
        """Seal the file and rename it to its final name."""
        with convert_os_errors(self.file):
            self.stream.write(self.hash.digest())
            self.stream.close()
            os.replace(self.temporary, self.file)
        _checked.add((self.file, self.hash.digest()))

    def _write(self, data: bytes) -> None:
        self.hash.update(data)
        self.stream.write(data)


class Lock:
    """A kernel lock on a cache file; its owner updates a heartbeat, and its death releases it."""

    def __init__(self, file: Path) -> None:
        self.file, self.path = file, Path(f"{file}.lock")
        self.lock = FileLock(self.path)

    def acquire_now(self) -> bool:
        """Acquire the lock unless another process holds it; return whether it was acquired."""
        return self._acquired(0)

    def wait(self, wait_s: float) -> Callable[[], bool | None]:
        """Return a function that waits one step for the lock.

        It returns True when the lock is acquired, None to continue, and False when the owner's
        heartbeat has not changed for `wait_s` seconds.
        """
        last_beat, since = self._heartbeat_time(), time.monotonic()

        def step() -> bool | None:
            nonlocal last_beat, since
            if self._acquired(min(POLL_S, wait_s)):
                return True
            beat, now = self._heartbeat_time(), time.monotonic()
            if beat != last_beat:
                last_beat, since = beat, now
            return None if now - since < wait_s else False

        return step

    def update_heartbeat(self) -> None:
        """Update the heartbeat that waiting processes observe."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Release the lock."""
        self.lock.release()

    def _acquired(self, timeout_s: float) -> bool:
        with convert_os_errors(self.path):
            try:
                self.lock.acquire(timeout=timeout_s)
            except Timeout:
                return False
        return True

    def _heartbeat_time(self) -> int:
        status = _status(self.path)
        return status.st_mtime_ns if status else 0


def _header(rows: int, columns: int, dtype: str) -> bytes:
    stream = io.BytesIO()
    fields = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": (rows, columns),
    }
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def _location(file: Path) -> bytes:
    return f"{file.parent.name}/{file.name}".encode()


def _is_sealed(file: Path) -> bool:
    """Return whether the file's seal matches its path and content.

    A file that was verified once is not read again.
    """
    with file.open("rb") as stream:
        remaining = os.fstat(stream.fileno()).st_size - SEAL_BYTES
        if remaining < 0:
            return False
        stream.seek(remaining)
        seal = stream.read()
        if (file, seal) in _checked:
            return True
        stream.seek(0)
        digest = hashlib.sha256(_location(file))
        while remaining:
            block = stream.read(min(remaining, BLOCK_BYTES))
            if not block:
                return False
            digest.update(block)
            remaining -= len(block)
    if digest.digest() != seal:
        return False
    _checked.add((file, seal))
    return True


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # removed concurrently
        return None


def _remove_if_dead(temporary: Path) -> bool:
    """Remove a temporary file if its writer is dead: no process holds the lock of its file.

    A killed writer leaves its temporary file behind. Return whether the file was removed.
    """
    file = temporary.with_name(temporary.name[1:].partition(".npy.")[0] + ".npy")
    with contextlib.suppress(Timeout), FileLock(f"{file}.lock", timeout=0):
        temporary.unlink(missing_ok=True)
        return True
    return False


@contextlib.contextmanager
def convert_os_errors(path: Path) -> Iterator[None]:
    """Convert an OSError within the block to a PreflightError with a message for users."""
    try:
        yield
    except OSError as error:  # includes Timeout
        reason = error.strerror or str(error)
        raise PreflightError(
            f"the cache cannot be used at {path} ({reason}): free some space, name another folder "
            "with teacher.cache, or set teacher.mode=online"
        ).with_details(str(path), reason, "a folder with free space that can be written") from error
