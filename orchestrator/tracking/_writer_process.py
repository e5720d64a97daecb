"""Send the writes of a run to MLflow: the program that `WriterProcess` starts.

It ends when the driver has ended, also by SIGKILL. What it was sending is then sent by a resume.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import ConfigurationError, short_reason
from orchestrator.core.privacy import keep_private
from orchestrator.extensions.shipping import Shipment, unpack_code
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import SWEEP, TRIAL, TRIAL_FILE, Sweep
from orchestrator.store.store import Store
from orchestrator.tracking._sender import Sender
from orchestrator.tracking._writer_messages import Close, Message, Note, Setup, decode, encode

if TYPE_CHECKING:
    from orchestrator.export.settings import ExportSettings

NICENESS = 10  # trials come first, until the last one has ended
PARENT_CHECK_S = 1.0
Build = Callable[[Setup, Any, Callable[[Message], None]], Sender]


def main() -> None:
    """Send writes until the driver closes the queues or ends.

    The arguments are the descriptor of the pipe to the driver, and the driver's process id.
    """
    keep_private()
    sys.breakpointhook = lambda *_, **__: None  # this process has no terminal
    for number in (signal.SIGINT, signal.SIGTERM):  # the driver ends this process
        signal.signal(number, signal.SIG_IGN)
    connection, driver = Connection(int(sys.argv[1])), int(sys.argv[2])
    serve(connection, driver, lambda: os._exit(1), niceness=NICENESS)
    os._exit(0)  # without the teardown of libraries, which takes half a second


def serve(
    connection: Connection,
    driver: int,
    abandon: Callable[[], None] = lambda: None,
    build: Build | None = None,
    niceness: int = 0,
) -> None:
    """Send the writes of a run.

    Args:
        connection: The pipe to the driver.
        driver: The process id of the driver, which is the parent of this process.
        abandon: Called when the driver has ended.
        build: Builds the sender from the setup, the objects of a notebook and the function that
            sends messages; None for one that writes to MLflow.
        niceness: Added to the niceness of this process until the driver waits for it. Only
            threads are changed (on Linux), because a process may not take it back.
    """
    try:
        setup = decode(connection.recv_bytes())
        assert isinstance(setup, Setup)
        objects = _receive_objects(connection) if setup.has_objects else ()
    except (EOFError, OSError):
        abandon()
        return

    def report(message: Message) -> None:
        with contextlib.suppress(OSError):  # the driver has ended, which `receive` notices
            connection.send_bytes(encode(message))

    with ThreadPoolExecutor(1, "sender", os.nice, (niceness,)) as thread:
        building = thread.submit(build or build_sender, setup, objects, report)
        receiver = threading.Thread(
            target=_receive,
            args=(connection, driver, building, abandon),
            name="driver",
            daemon=True,
        )
        receiver.start()
        sender = building.result()
        try:
            thread.submit(sender.run).result()
            sender.finish()
        finally:
            sender.release()


def build_sender(setup: Setup, objects: Any, report: Callable[[Message], None]) -> Sender:
    """Return the sender for the runs of a sweep.

    Args:
        setup: The first message of the driver.
        objects: The objects of a notebook, or the error that occurred when they were received.
        report: Receives the messages for the driver.
    """
    # torch and the figures, which take a second
    from orchestrator.tracking._runs import Runs
    from orchestrator.tracking.model_registry import import_compiler

    sys.argv[:] = [setup.program]
    folder = Path(setup.folder)
    record, _ = SWEEP.parse(setup.record.encode(), folder)
    store, sweep = Store(Path(setup.root), setup.store_uri), Sweep(**vars(record), folder=folder)
    runs = Runs(
        store,
        sweep,
        setup.classes,
        partial(_export_program, store, sweep.name, setup, objects),
        notify=lambda text: report(Note(text=text, pending=False)),
        update_trials=TrialReader(sweep).update,
    )
    return Sender(
        setup.uri,
        folder,
        runs.perform,
        report,
        runs.is_open,
        setup.resume,
        import_compiler if setup.registers_model else lambda: None,
        setup.recovered,
    )


class TrialReader:
    """Reader of the trials' records that have changed since the last time."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.versions: dict[Path, tuple[int, int]] = {}

    def update(self) -> None:
        """Update the trials of the sweep from their records; damaged ones are left out."""
        for file in self.sweep.folder.glob(f"trials/*/{TRIAL_FILE}"):
            with contextlib.suppress(DamagedRecordError, OSError):
                status = file.stat()
                version = (status.st_ino, status.st_mtime_ns)
                if self.versions.get(file) != version:
                    trial = TRIAL.read(file)
                    self.sweep.trials[trial.number], self.versions[file] = trial, version


def _receive(
    connection: Connection, driver: int, building: Future[Sender], abandon: Callable[[], None]
) -> None:
    """Receive the driver's last message, or its end.

    Its end closes the pipe, unless a process that it has forked keeps it open.
    """
    with contextlib.suppress(EOFError, OSError):
        while os.getppid() == driver:
            if connection.poll(PARENT_CHECK_S) and isinstance(
                decode(connection.recv_bytes()), Close
            ):
                building.result().close()
    abandon()
    building.result().give_up()


def _receive_objects(connection: Connection) -> Any:
    """Return the objects of a notebook, or the error if this process cannot load them."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        raise
    except Exception as error:  # code of the user
        return error


def _export_program(
    store: Store, name: str, setup: Setup, objects: Any, trial: int, letter: str, to: Path
) -> "ExportSettings":
    """Load the user code, and export a student as a program."""
    from orchestrator.export.export import export_program

    if isinstance(objects, Exception):
        raise ConfigurationError(
            f"the objects of the notebook cannot be sent to another process "
            f"({short_reason(objects)}): put their code into a file"
        ).with_details("--code", str(objects), "a file") from objects
    unpack_code(Shipment(setup.sources, tuple(setup.plugins), objects))
    return export_program(store, name, trial, letter, to)


if __name__ == "__main__":
    main()
