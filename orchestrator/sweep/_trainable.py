"""Tune Trainable that trains nothing, holds no CPU and waits for a worker group's reports."""

import contextlib
import threading
import uuid
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import get_runtime_context, tune

from orchestrator.cluster.dispatcher_client import DispatcherClient
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec, trial_name
from orchestrator.core.errors import PreflightError, UserError
from orchestrator.core.reports import EpochRecord, NoWorkers, Report, TrialFailure
from orchestrator.store.record_file import RecordSchema
from orchestrator.sweep import _snapshots as snapshots
from orchestrator.sweep._tune_messages import ProxyConfig, SharedSettings, Step, to_result

ALIVE_S, CLEANUP_S = 5.0, 2.0
INTERVAL_S = 0.3  # between two answers of the dispatcher on which no scheduler decides
# times `heartbeat_timeout_s`: replacing a group that does not release a trial takes a while
RELEASE_FACTOR = 3
POINTER = "pointer.json"  # Tune's checkpoint: a file with the folder of a snapshot
SNAPSHOT = RecordSchema[dict[str, str | None]](dict[str, str | None])


class ProxyTrainable(tune.Trainable):
    """Proxy of a trial in Tune, reused from trial to trial.

    Every record of a worker becomes one Tune result with our own `epoch`. Records that arrive
    within a short time are returned together. Tune's `config` is a `ProxyConfig`.
    """

    def setup(self, config: dict[str, Any], shared: SharedSettings) -> None:
        """Connect to the dispatcher, take the first trial and start the heartbeat.

        Args:
            config: See the class.
            shared: The values of all trials.
        """
        self.shared = shared
        self.dispatcher_client = DispatcherClient.find(shared.dispatcher)
        self.begin(config)
        self.must_wait_for_release = True  # a proxy that died: a group may still train its trial
        self.stopped = threading.Event()
        process = get_runtime_context().current_actor
        self.heartbeat = threading.Thread(
            target=self._send_heartbeats, args=(process,), daemon=True
        )
        self.heartbeat.start()

    def _send_heartbeats(self, process: Any) -> None:
        """Send heartbeats until cleanup, so that the watchdog can replace a stopped process.

        Tune itself would wait for it for ever.
        """
        reader, every_s = uuid.uuid4().hex, min(ALIVE_S, self.shared.heartbeat_timeout_s / 4)
        while not self.stopped.is_set():
            # Ray in trouble fails in many ways; the next heartbeat may arrive
            with contextlib.suppress(Exception):
                self.dispatcher_client.send_reader_heartbeat(reader, self.trial, process)
            self.stopped.wait(every_s)
        with contextlib.suppress(Exception):
            self.dispatcher_client.deregister(reader)

    def cleanup(self) -> None:
        """Stop the heartbeat."""
        self.stopped.set()
        self.heartbeat.join(CLEANUP_S)

    def begin(self, config: dict[str, Any]) -> None:
        """Take a trial; one that could not be built fails at its first step.

        Tune may load a checkpoint afterwards, from which the trial resumes.
        """
        assigned = ProxyConfig.from_tune(config)
        self.error, self.until, self.token = assigned.error, assigned.until, assigned.token
        self.trial = trial_name(assigned.number)
        self.submitted, self.known, self.must_wait_for_release = False, 0, False
        self.steps = deque[Step]()  # received, but not returned to Tune
        self.last_received_epoch, self.snapshot = assigned.known, assigned.snapshot_folder
        if not self.error:
            configuration = Configuration.model_validate_json(assigned.configuration)
            self.specification = TrialSpec.numbered(
                assigned.number, configuration, self.shared.folders, self.until
            )

    def step(self) -> dict[str, Any]:
        """Return the next epoch's record as a Tune result.

        A failure is the last result of its trial, and leaves the proxy usable. If no worker can
        train the trial any more, this is not a failure: the run ends, and a resume continues the
        trial.
        """
        if not self.steps:
            self.steps.extend([TrialFailure(self.error)] if self.error else self._next_steps())
        return to_result(self.steps.popleft(), self.shared.objective)

    def train_buffered(self, *_: Any) -> list[dict[str, Any]]:
        """Return the results of all epochs that were received together.

        Tune processes them in order, and ignores those after a stop.
        """
        results = [self.train()]
        while self.steps:
            results.append(self.train())
        return results

    def _next_steps(self) -> list[Step]:
        """Return the next steps of the trial, at least one."""
        try:
            if not self.submitted:
                self._submit()
            reports = self._receive()
            records = [report for report in reports if isinstance(report, EpochRecord)]
            steps: list[Step] = [*self._group(records)]
            if records:
                self._keep_snapshot(records[-1])
            return steps + [each for each in reports if isinstance(each, TrialFailure | NoWorkers)]
        except PreflightError as error:
            return [NoWorkers(str(error))]
        except UserError as error:  # raised here, it would appear only in a log of Ray
            return [TrialFailure(str(error))]
        except OSError as error:
            return [TrialFailure(f"the checkpoint could not be copied: {error}")]

    def _receive(self) -> list[Report | NoWorkers]:
        """Wait for the next reports, of which the last one is new."""
        until, reports = self.until, list[Report | NoWorkers]()
        decision_epochs = self.shared.decision_epochs if until is None else (until,)
        while True:
            for report in self.dispatcher_client.next_reports(
                self.trial, self.shared.heartbeat_timeout_s, INTERVAL_S, decision_epochs
            ):
                # a resumed training reports its last epoch again
                if not isinstance(report, EpochRecord) or report.epoch > self.known:
                    reports.append(report)
            last = reports[-1] if reports else None
            # synchronous trials are compared at the epoch that they have reached
            if last and not (until is not None and isinstance(last, EpochRecord) and last.behind):
                return reports

    def _group(self, records: list[EpochRecord]) -> list[Step]:
        """Return a step for each record, or one for all that are compared together."""
        if self.until is not None and records:
            return [tuple(records)]
        return [(replace(record, behind=record is not records[-1]),) for record in records]

    def _submit(self) -> None:
        """Submit the trial once no group uses its folder and its checkpoint is in place.

        The driver may have submitted it already, so that it trains while a new proxy starts.
        """
        token, self.token = self.token, ""
        if token and self.dispatcher_client.attach(self.specification, token):
            self.must_wait_for_release, self.submitted = False, True
            return
        if token:
            self.must_wait_for_release = True  # an earlier process of this proxy has attached
        if self.must_wait_for_release:
            self.dispatcher_client.stop(self.trial)
        if self.snapshot or self.must_wait_for_release:
            self.dispatcher_client.wait_until_released(
                self.trial, RELEASE_FACTOR * self.shared.heartbeat_timeout_s
            )
        self.must_wait_for_release = False
        if self.snapshot:
            snapshots.put_back(self.snapshot, self.specification.folder)
            self.snapshot = None
        known = max(self.last_received_epoch, self.known)
        self.dispatcher_client.submit(self.specification.model_copy(update={"known": known}))
        self.submitted = True

    def _keep_snapshot(self, record: EpochRecord) -> None:
        """Keep a snapshot where the worker stopped.

        If the scheduler continues the trial without a pause, it trains to its end.
        """
        if self.until is not None and record.epoch >= self.until and not record.done:
            self.known = record.epoch
            self.snapshot = snapshots.keep(self.specification.folder, self.known)
            self.until, self.submitted = None, False
            self.specification = self.specification.model_copy(update={"until": None})

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, or the same one with other settings; return True."""
        self.begin(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the folder of the trial's snapshot.

        Its weights stay where the workers wrote them.
        """
        SNAPSHOT.keep(
            Path(checkpoint_dir) / POINTER,
            {"snapshot": str(self.snapshot) if self.snapshot else None},
        )

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Resume the trial from a snapshot, its own or another trial's."""
        folder = SNAPSHOT.read(Path(checkpoint) / POINTER)["snapshot"]
        if folder:
            self.snapshot = Path(folder)
            self.known = snapshots.epoch_of(self.snapshot)
