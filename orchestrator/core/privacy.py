"""What a process keeps to itself: its files are for their owner alone, and what it says names no secret. Knows no run."""

import contextlib
import logging
import os
import traceback
from collections.abc import Iterator
from typing import Any

from orchestrator.core.redact import redact

OWNER_ONLY = 0o077


def sanitize(text: str) -> str:
    """The text as a person may see it: without secrets, and without characters that a terminal would obey."""
    return "".join(mark if mark.isprintable() or mark in "\n\t" else repr(mark)[1:-1] for mark in redact(text))


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Within the block, whatever this process writes is for its owner alone and its log is redacted."""
    mask, factory = os.umask(OWNER_ONLY), logging.getLogRecordFactory()
    logging.setLogRecordFactory(_Redacting(factory))
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        os.umask(mask)


def keep_private() -> None:
    """The same from now on, for a process that Ray has started."""
    os.umask(OWNER_ONLY)
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _Redacting):  # a process takes part in one group after another
        logging.setLogRecordFactory(_Redacting(factory))


class _Redacting:
    """Makes log records whose text is redacted already, whatever handler writes them."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, *arguments: Any, **words: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.make(*arguments, **words)
        with contextlib.suppress(TypeError, ValueError):  # arguments that do not fit: `logging` says so itself
            text = record.getMessage()
            if sanitize(text) != text:  # else it stays as it is: some formatters want its arguments
                record.msg, record.args = sanitize(text), None
        if record.exc_info and record.exc_info[0]:
            record.exc_text = sanitize("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
        return record
