"""Keep the writes to MLflow in order in a file that survives the process.

Line 1 holds the byte up to which everything is sent. Each further line is a write in plain JSON. A
partial write, left by a killed process, is dropped. Writes are held in memory only while the disk
is full.

The driver appends and compacts (`Outbox`); the process that sends moves the mark in line 1
(`OutboxReader`). The driver compacts only a file of which everything is sent.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections import deque
from pathlib import Path

from orchestrator.store.store import make_temporary_path
from orchestrator.tracking._writes import CompactedWrites, RunProgress, Write, parse_line

Line = Write | CompactedWrites | None  # None: damaged
OUTBOX, FILES = "outbox.jsonl", "outbox-files.jsonl"  # in the folder of the sweep
CHUNK = 32 * 1024  # bytes per read
LARGE = 4 * 2**20  # bytes of sent writes from which the file is compacted
HEAD = 32  # bytes of line 1


class _OutboxFile:
    """An open file of writes."""

    def __init__(self, file: Path) -> None:
        self.file, self.descriptor = file, -1

    def _read_mark(self, size: int) -> int:
        """Return the byte up to which everything is sent.

        After damage to line 1 everything is sent again: writes are idempotent.
        """
        mark = HEAD
        with contextlib.suppress(ValueError, KeyError, TypeError):
            mark = int(json.loads(os.pread(self.descriptor, HEAD, 0))["sent"])
        return mark if HEAD <= mark <= size else HEAD

    def _lines(self, start: int, size: int) -> list[tuple[int, Line]]:
        """Return the next complete lines, each with the offset of the byte after it."""
        length, chunk = CHUNK, b""
        while start + len(chunk) < size and b"\n" not in chunk:
            chunk = os.pread(self.descriptor, min(length, size - start), start)
            if len(chunk) < length and b"\n" not in chunk:
                return []
            length *= 2
        lines: list[tuple[int, Line]] = []
        for line in chunk[: chunk.rfind(b"\n") + 1].splitlines(keepends=True):
            start += len(line)
            lines.append((start, parse_line(line)))
        return lines

    def _put(self, content: bytes, offset: int) -> None:
        """Write all bytes at an offset. Raise OSError if only a part could be written."""
        if os.pwrite(self.descriptor, content, offset) < len(content):
            raise OSError(f"{self.file} could only be written in part")


class Outbox(_OutboxFile):
    """End of the queue to which the driver appends; for any number of threads.

    `run_progress` is the progress of each run after all writes: that of each write, merged by its
    `run`. It survives the removal of sent writes. `recovered` is a byte offset: writes up to it
    were in the file before, and an earlier process may have tried to send them.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.lock, self.new = threading.Lock(), not file.exists()
        self.run_progress: dict[str, RunProgress] = {}
        self.held: deque[bytes] = deque()
        self.closed, self.left = False, 0
        self._open()
        self._read_all()
        self.recovered = self.size

    def _open(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600)
        self.size = os.fstat(self.descriptor).st_size
        if self.size < HEAD:
            self._put(_head(HEAD), 0)
            self.size = HEAD

    def _read_all(self) -> None:
        """Fold all lines, and drop a partial line."""
        end = HEAD
        while lines := self._lines(end, self.size):
            for _, write in lines:
                self._fold(write)
            end = lines[-1][0]
        os.ftruncate(self.descriptor, end)
        self.size = end

    @property
    def mark(self) -> int:
        """Return the byte up to which everything is sent."""
        with self.lock:
            return self.size if self.closed else self._read_mark(self.size)

    @property
    def unsent(self) -> int:
        """Return the number of writes that are not sent."""
        with self.lock:
            return self.left if self.closed else self._count_unsent()

    def _count_unsent(self) -> int:
        start, count = self._read_mark(self.size), len(self.held)
        while chunk := os.pread(self.descriptor, CHUNK, start):
            start, count = start + len(chunk), count + chunk.count(b"\n")
        return count

    def append(self, write: Write) -> None:
        """Append a write to the file, so that a kill does not lose it.

        While the disk is full, the write is held in memory.
        """
        line = json.dumps(write.plain(), separators=(",", ":")).encode() + b"\n"
        with self.lock:
            if self.closed:
                return
            self._fold(write)
            self.held.append(line)
            self._store_held()

    def flush(self) -> bool:
        """Store the writes that are held; return whether none is held any more."""
        with self.lock:
            if not self.closed:
                self._store_held()
            return not self.held

    def compact(self) -> None:
        """Compact the file if everything in it is sent."""
        with self.lock:
            if not self.closed and not self._count_unsent():
                self._compact()

    def close(self) -> int:
        """Close the file. Return the number of writes that stay in it for a resume.

        No process may be sending any more.
        """
        with self.lock:
            if not self.closed:
                self._store_held()
                self.left = self._count_unsent()
                if not self.left:
                    self._compact()
                self.closed = True
                os.close(self.descriptor)
            return self.left

    def _fold(self, line: Line) -> None:
        if isinstance(line, CompactedWrites):
            progress_by_run = line.progress
        else:
            progress_by_run = {line.run: line.progress} if line and line.progress else {}
        for run, progress in progress_by_run.items():
            self.run_progress[run] = self.run_progress.get(run, RunProgress()).merge(progress)

    def _store_held(self) -> None:
        while self.held:
            try:
                self._put(self.held[0], self.size)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self.descriptor, self.size)
                return
            self.size += len(self.held.popleft())

    def _compact(self) -> None:
        """Rewrite the file with the combined state of all writes in one line that counts as sent.

        The file stays as it is if the disk has no room.
        """
        compacted = CompactedWrites(progress=self.run_progress)
        if self.run_progress:
            line = json.dumps(compacted.plain(), separators=(",", ":")).encode() + b"\n"
        else:
            line = b""
        temporary = make_temporary_path(self.file)
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as new:
                new.write(_head(HEAD + len(line)) + line)
            os.replace(temporary, self.file)
        except OSError:
            temporary.unlink(missing_ok=True)
            return
        os.close(self.descriptor)
        self._open()


class OutboxReader(_OutboxFile):
    """End of the queue from which one process at a time sends.

    The file is locked: a second reader waits until the first one has ended.

    Args:
        file: The file of an `Outbox`.
        recovered: Writes up to this byte may have been tried by an earlier process.
    """

    def __init__(self, file: Path, recovered: int = 0) -> None:
        super().__init__(file)
        self._open()
        self.recovered = recovered

    def _open(self) -> None:
        self.descriptor = os.open(self.file, os.O_RDWR)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        status = os.fstat(self.descriptor)
        self.inode, self.position = status.st_ino, self._read_mark(status.st_size)
        self.recovered = 0

    def peek(self) -> list[tuple[int, Line]]:
        """Return the oldest unsent writes, each with the offset of the byte after it.

        None stands for a damaged line. After damage to line 1, compacted writes may be among them.
        """
        try:
            status = os.stat(self.file)
        except OSError:  # the folder was removed
            return []
        if status.st_ino != self.inode:  # the file was compacted
            self.close()
            self._open()
            return self._lines(self.position, os.fstat(self.descriptor).st_size)
        return self._lines(self.position, status.st_size)

    def sent(self, end: int) -> None:
        """Acknowledge the writes up to the byte `end`."""
        self.position = end
        with contextlib.suppress(OSError):  # after a kill they are sent twice: idempotent
            self._put(_head(end), 0)

    def close(self) -> None:
        """Close the file, and release its lock."""
        os.close(self.descriptor)


def _head(sent: int) -> bytes:
    return json.dumps({"sent": sent}).encode().ljust(HEAD - 1) + b"\n"
