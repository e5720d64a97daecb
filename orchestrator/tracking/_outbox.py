"""Keep the writes to MLflow in order in a file that survives the process.

Line 1 holds the byte up to which everything is sent. Each further line is a write in plain JSON. A
partial write, left by a killed process, is dropped. Writes are held in memory only while the disk
is full.
"""

import contextlib
import json
import os
import threading
from collections import deque
from pathlib import Path

from orchestrator.store.store import make_temporary_path
from orchestrator.tracking._writes import CompactedWrites, RunProgress, Write, parse_line

Line = Write | CompactedWrites | None  # None: damaged
CHUNK = 32 * 1024  # bytes per read
LARGE = 4 * 2**20  # bytes of sent writes from which the file is compacted
HEAD = 32  # bytes of line 1


class Outbox:
    """Ordered queue of writes in a file, for one process at a time and any number of threads.

    `run_progress` is the progress of each run after all writes: that of each write, merged by its
    `run`. It survives the removal of sent writes. `recovered` is a byte offset: writes up to it
    were in the file before, and an earlier process may have tried to send them.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.lock = file, threading.Lock()
        self.new = not file.exists()
        self.run_progress: dict[str, RunProgress] = {}
        self.held: deque[bytes] = deque()
        self.closed = False
        self._open()
        self.unsent = self._read_all()
        self.recovered = self.size

    def _open(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o600)
        self.size, self.position = os.fstat(self.descriptor).st_size, HEAD
        if self.size < HEAD:
            self._put(_head(HEAD), 0)
            self.size = HEAD

    def _read_all(self) -> int:
        """Fold all lines, drop a partial line, and return the number of unsent ones."""
        # After a damaged head everything is sent again; writes are idempotent
        with contextlib.suppress(ValueError, KeyError, TypeError):
            self.position = int(json.loads(os.pread(self.descriptor, HEAD, 0))["sent"])
        if not HEAD <= self.position <= self.size:
            self.position = HEAD
        unsent, start = 0, HEAD
        while lines := self._lines(start):
            for start, write in lines:
                unsent += start > self.position
                self._fold(write)
        os.ftruncate(self.descriptor, start)
        self.size, self.position = start, min(self.position, start)
        return unsent

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
            self.unsent += 1
            self._store_held()

    def peek(self) -> list[tuple[int, Line]]:
        """Return the oldest unsent writes, each with the offset of the byte after it.

        None stands for a damaged line. After damage to line 1, compacted writes may be among them.
        """
        with self.lock:
            self._store_held()
            return self._lines(self.position) if not self.closed else []

    def sent(self, end: int, writes: int) -> None:
        """Acknowledge `writes` writes up to the byte `end`.

        Compact the file if sent writes are many.
        """
        with self.lock:
            if self.closed:
                return
            self.position, self.unsent = end, self.unsent - writes
            with contextlib.suppress(OSError):  # after a kill they are sent twice: idempotent
                self._put(_head(end), 0)
            if not self.unsent and self.size > LARGE:
                self._compact()

    def close(self) -> int:
        """Close the file. Return the number of writes that stay in it for a resume."""
        with self.lock:
            if not self.closed:
                self._store_held()
                if not self.unsent:
                    self._compact()
                self.closed = True
                os.close(self.descriptor)
            return self.unsent

    def _fold(self, line: Line) -> None:
        if isinstance(line, CompactedWrites):
            progress_by_run = line.progress
        else:
            progress_by_run = {line.run: line.progress} if line and line.progress else {}
        for run, progress in progress_by_run.items():
            self.run_progress[run] = self.run_progress.get(run, RunProgress()).merge(progress)

    def _lines(self, start: int) -> list[tuple[int, Line]]:
        length, chunk = CHUNK, b""
        while start + len(chunk) < self.size and b"\n" not in chunk:
            chunk = os.pread(self.descriptor, min(length, self.size - start), start)
            if len(chunk) < length and b"\n" not in chunk:
                return []
            length *= 2
        lines: list[tuple[int, Line]] = []
        for line in chunk[: chunk.rfind(b"\n") + 1].splitlines(keepends=True):
            start += len(line)
            lines.append((start, parse_line(line)))
        return lines

    def _store_held(self) -> None:
        while self.held:
            try:
                self._put(self.held[0], self.size)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self.descriptor, self.size)
                return
            self.size += len(self.held.popleft())

    def _put(self, content: bytes, offset: int) -> None:
        """Write all bytes at an offset. Raise OSError if only a part could be written."""
        if os.pwrite(self.descriptor, content, offset) < len(content):
            raise OSError(f"{self.file} could only be written in part")

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
        self.position, self.recovered = self.size, 0


def _head(sent: int) -> bytes:
    return json.dumps({"sent": sent}).encode().ljust(HEAD - 1) + b"\n"
