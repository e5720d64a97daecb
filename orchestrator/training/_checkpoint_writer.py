"""Write the checkpoint of each epoch and report the epoch, while the next one trains."""

import threading
from collections.abc import Mapping
from types import TracebackType

from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.store.checkpoint_storage import CheckpointStorage
from orchestrator.training import checkpoint as checkpoints
from orchestrator.training.checkpoint import BestFile, Checkpoint

THREAD = "checkpoint"  # name of the thread


class CheckpointWriter:
    """Writer of the checkpoints of a trial; an epoch is reported once its checkpoint is complete.

    A single rank writes and reports in a thread, one epoch at a time. Several ranks write together,
    before they continue: on a full disk all of them wait. Leaving the block waits for the last
    write.

    Args:
        storage: The storage of the checkpoint.
        context: The context of all ranks of the trial.
    """

    def __init__(self, storage: CheckpointStorage, context: TrialContext) -> None:
        self.storage, self.context = storage, context
        self.best_files: dict[str, BestFile] = {}
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wait()

    def write(self, parts: Mapping[str, Checkpoint], record: EpochRecord) -> None:
        """Write a checkpoint and report its record, after the previous one.

        All ranks call this together.

        Args:
            parts: The students that this rank writes, by letter.
            record: The record of the epoch.

        Raises:
            Stopped: A stop of the trial was requested during a write.
        """
        self.wait()
        snapshots = {letter: part.snapshot() for letter, part in parts.items()}
        if self.context.world_size > 1:
            self._write_and_report(snapshots, record)
            return
        self.thread = threading.Thread(
            target=self._run, args=(snapshots, record), name=THREAD, daemon=True
        )
        self.thread.start()

    def wait(self) -> None:
        """Wait until the last epoch is reported; raise the error of its write."""
        if self.thread:
            self.thread.join()
            self.thread = None
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise the error of a write, if it has failed."""
        failure, self.failure = self.failure, None
        if failure:
            raise failure

    def _run(self, parts: Mapping[str, Checkpoint], record: EpochRecord) -> None:
        try:
            self._write_and_report(parts, record)
        except BaseException as error:
            self.failure = error

    def _write_and_report(self, parts: Mapping[str, Checkpoint], record: EpochRecord) -> None:
        checkpoints.save(self.storage, parts, self.context, self.best_files)
        if self.context.is_main_process:
            self.context.report(record)
