"""Call the function that `call_in_child` sends to this process."""

import contextlib
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from orchestrator.core.child_process import END_S, Failure, Note, Result
from orchestrator.core.errors import INTERRUPTED, OK
from orchestrator.core.privacy import keep_private


def main() -> int:
    """Call the function of the parent process; return the exit code.

    The arguments are the descriptor of the pipe to the parent, and the name of its program.
    """
    keep_private()
    # `_watch` interrupts it, also in a background job, whose children ignore the signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection = Connection(int(sys.argv[1]))
    sys.argv[:] = sys.argv[2:]  # messages name the program
    try:
        function = connection.recv()
        threading.Thread(target=_watch, args=(connection,), name="parent", daemon=True).start()
        try:
            message: Result | Failure = Result(function(lambda text: connection.send(Note(text))))
        except Exception as error:
            message = Failure.of(error)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes the pipe next
        connection.send(message)
    except (EOFError, ConnectionError, KeyboardInterrupt):  # the parent has closed the pipe
        return INTERRUPTED
    return OK


def _watch(connection: Connection) -> None:
    """Interrupt the function when the parent closes the pipe, and end the process soon after."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    time.sleep(END_S)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # without a teardown of torch
