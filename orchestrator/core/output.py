"""Keep a command alive, or end it quietly, when its output cannot be written: `... --json | head -1`, or a full disk."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from orchestrator.core.errors import OK, UNFIT_ENVIRONMENT


class _Output:
    """A text stream that drops what nobody reads any more; with `ends` the command ends then, with exit code 0.

    `lost` is the error of a write that failed in another way, as on a full disk.
    """

    def __init__(self, stream: TextIO, ends: bool) -> None:
        self._stream, self._ends = stream, ends
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as the stream does."""
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines as the stream does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush as the stream does."""
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
        """Send what is still to be written, and what is buffered, to nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def survive_lost_output(ends: bool = False) -> Iterator[None]:
    """Within the block no error comes of writing to the standard output or error; what is trained goes on.

    Where the output went to a file that could not be written to its end, exit code 0 becomes that of an unfit environment.

    Args:
        ends: Whether the command ends when nobody reads it, as one that only shows something; else it goes on without output.
    """
    out, err = (stream and _Output(stream, ends) for stream in (sys.stdout, sys.stderr))  # None where it was closed
    try:
        with contextlib.redirect_stdout(cast(TextIO, out)), contextlib.redirect_stderr(cast(TextIO, err)):
            yield
    except SystemExit as end:
        if end.code == OK and out and _is_lost(out):
            print(f"error: the output could not be written ({out.lost}): free space, or send it elsewhere", file=err)
            raise SystemExit(UNFIT_ENVIRONMENT) from end
        raise
    finally:
        if out:
            out.flush()


def _is_lost(out: _Output) -> bool:
    """Return whether something of the output is lost; then the rest is dropped, or Python would try it again at its end."""
    out.flush()
    if out.lost:
        out.drop()
    return out.lost is not None
