"""Writes to MLflow from a thread of its own: a call returns at once, an outage costs a warning and never a trial.

What could not be sent is kept in order and tried again; nothing else of the program waits for MLflow.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

RETRY_S = 2.0
DRAIN_S = 60.0
log = logging.getLogger(__name__)
Write = Callable[[Any], None]


class Writer:
    """One thread that owns the MLflow client. Writes are done in the order in which they were given.

    It begins with `begin`: importing MLflow and making its database take four CPU seconds, which the start of the worker
    groups needs more.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.writes: queue.Queue[Write | None] = queue.Queue()
        self.warned: set[str] = set()
        self.given_up = threading.Event()
        self.thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self.started = False

    def begin(self) -> None:
        """Write from now on; what was queued before comes first."""
        if not self.started:
            self.started = True
            self.thread.start()

    def add(self, write: Write) -> None:
        """Queue a function of the client."""
        self.writes.put(write)

    def close(self, timeout: float | None = None) -> bool:
        """Wait, for a bounded time (s), until everything is written; False when something could not be."""
        self.begin()
        self.writes.put(None)
        self.thread.join(DRAIN_S if timeout is None else timeout)
        self.given_up.set()
        unsent = max(self.writes.qsize() - 1, 0) + self.thread.is_alive()
        if unsent:
            log.warning("MLflow at %s did not answer: %d writes were not sent", self.uri, unsent)
        return not unsent

    def _run(self) -> None:
        client = None
        while (write := self.writes.get()) is not None:
            while not self.given_up.is_set():
                try:
                    client = client or connect(self.uri)
                    write(client)
                    break
                except Exception as error:  # MLflow raises what its store, its server or the network raise
                    passing = client is None or _may_pass(error)
                    self._warn(error, "writing is tried again" if passing else "this write is left out")
                    if not passing:
                        break
                    time.sleep(RETRY_S)

    def _warn(self, error: Exception, consequence: str) -> None:
        """Once per consequence: an outage of an hour is one line."""
        if consequence not in self.warned:
            log.warning("MLflow at %s: %s; training goes on, and %s", self.uri, error, consequence)
        self.warned.add(consequence)


def _may_pass(error: Exception) -> bool:
    """Whether the same write can succeed later: the server is away or busy. What it refuses, it refuses again."""
    status = getattr(error, "get_http_status_code", None)
    return isinstance(error, ConnectionError | TimeoutError) or (status is not None and status() >= 500)


def connect(uri: str) -> Any:
    """A client of MLflow that says only what went wrong."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)
