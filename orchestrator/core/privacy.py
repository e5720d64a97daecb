"""Create files for their owner alone, and redact log records and messages."""

import contextlib
import logging
import os
import traceback
from collections.abc import Iterator
from typing import Any

from orchestrator.core.redact import redact

OWNER_ONLY = 0o077


def sanitize(text: str) -> str:
    """Return text for display, without secrets and without terminal control characters."""
    return "".join(
        mark if mark.isprintable() or mark in "\n\t" else repr(mark)[1:-1] for mark in redact(text)
    )


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Create files for their owner alone and redact the log within the block."""
    mask, factory = os.umask(OWNER_ONLY), logging.getLogRecordFactory()
    logging.setLogRecordFactory(_Redacting(factory))
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        os.umask(mask)


def keep_private() -> None:
    """Apply `private_files` from now on, for a process that Ray has started."""
    os.umask(OWNER_ONLY)
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _Redacting):  # a process joins several groups in succession
        logging.setLogRecordFactory(_Redacting(factory))


class _Redacting:
    """Factory of log records whose text is redacted before any handler writes it."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, *arguments: Any, **words: Any) -> logging.LogRecord:
        record: logging.LogRecord = self.make(*arguments, **words)
        # `logging` itself reports arguments that do not fit.
        with contextlib.suppress(TypeError, ValueError):
            text = record.getMessage()
            # Other records stay unchanged, because some formatters need their arguments.
            if sanitize(text) != text:
                record.msg, record.args = sanitize(text), None
        if record.exc_info and record.exc_info[0]:
            record.exc_text = sanitize(
                "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            )
        return record
