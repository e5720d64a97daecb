"""Send the writes of a run from a thread instead of a process, which starts in milliseconds."""

import contextlib
import os
import socket
import threading
from multiprocessing import Pipe

from orchestrator.tracking._writer_process import Build, serve


class WriterThread:
    """Stand-in for `WriterProcess` that runs the same program in this process.

    Args:
        build: Builds the sender; None for one that writes to MLflow.
    """

    def __init__(self, build: Build | None = None) -> None:
        self.connection, self.other_end = Pipe()
        self.failure = ""
        self.thread = threading.Thread(target=self._serve, args=(build,), daemon=True)
        self.thread.start()

    def _serve(self, build: Build | None) -> None:
        try:
            serve(self.other_end, os.getppid(), lambda: None, build)
        except SystemExit:  # raised by a test in place of SIGKILL
            self.failure = "signal 9"
        finally:
            self._close_pipe()

    def _close_pipe(self) -> None:
        duplicate = socket.socket(fileno=os.dup(self.other_end.fileno()))
        with duplicate, contextlib.suppress(OSError):  # the driver has closed it
            duplicate.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """Close the pipe: the thread ends before its next write."""
        self.failure = "signal 9"
        self._close_pipe()

    def wait(self) -> str:
        """Wait until the thread has ended; return "signal 9" if it was killed."""
        self.thread.join(1.0)
        self.connection.close()
        return self.failure
