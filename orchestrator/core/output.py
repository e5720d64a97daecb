"""Handle failed writes to the standard output and error of a command.

Such writes fail in `... --json | head -1`, or on a full disk.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from orchestrator.core.errors import OK, UNFIT_ENVIRONMENT


class _Output:
    """Text stream that drops output after its reader has closed the pipe.

    With `ends` the command then exits with code 0. `lost` is the error of any other failed write,
    as on a full disk.
    """

    def __init__(self, stream: TextIO, ends: bool) -> None:
        self._stream, self._ends = stream, ends
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text to the stream."""
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines to the stream."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        with self._guarded():
            self._stream.flush()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.drop()
            if self._ends:
                raise SystemExit(OK) from None
        except OSError as error:
            self.lost = error

    def drop(self) -> None:
        """Redirect pending and buffered output to the null device."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def survive_lost_output(ends: bool = False) -> Iterator[None]:
    """Ignore failed writes to the standard output and error within the block; training continues.

    Exit code 0 becomes that of an unfit environment if output was lost for a reason other than a
    closed pipe.

    Args:
        ends: Whether the command exits when its reader closes the pipe, as a command that only
            displays something does; otherwise it continues without output.
    """
    # A stream that was closed is None.
    out, err = (stream and _Output(stream, ends) for stream in (sys.stdout, sys.stderr))
    try:
        with (
            contextlib.redirect_stdout(cast(TextIO, out)),
            contextlib.redirect_stderr(cast(TextIO, err)),
        ):
            yield
    except SystemExit as end:
        if end.code == OK and out and _is_lost(out):
            print(
                f"error: the output could not be written ({out.lost}): free some disk space, or "
                f"redirect the output",
                file=err,
            )
            raise SystemExit(UNFIT_ENVIRONMENT) from end
        raise
    finally:
        if out:
            out.flush()


def _is_lost(out: _Output) -> bool:
    """Return whether output was lost, and drop the rest if so.

    Python would otherwise try to write the rest when it exits.
    """
    out.flush()
    if out.lost:
        out.drop()
    return out.lost is not None
