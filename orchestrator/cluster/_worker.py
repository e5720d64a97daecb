"""Run one worker of a group: request a trial, train it, report, and repeat.

Only this module trains trials under Ray.
"""

import contextlib
import logging
import threading
import time
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from methods import SettingsError
from orchestrator.cluster._dispatcher import CLOSE
from orchestrator.cluster._failures import classify_failure
from orchestrator.cluster._influence_actor import influence_clients
from orchestrator.cluster._pair import Pair
from orchestrator.cluster.dispatcher_client import REPLY_S, wait_for_answer
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import (
    ConfigurationError,
    DispatcherTimeoutError,
    TrialError,
    UserError,
)
from orchestrator.core.privacy import keep_private
from orchestrator.core.reports import Report, TrialFailure
from orchestrator.extensions.shipping import Shipment, unpack_code
from orchestrator.training.execute import execute

TAKE_S = 10.0  # limit of a request: no collective waits longer than this for rank 0
PHASE_S = 0.5  # shortest time between two heartbeats of changed phases
HEARTBEAT_S = 5.0  # heartbeat interval; less where heartbeat_warning_s is short
log = logging.getLogger(__name__)


def serve(settings: dict[str, Any]) -> None:
    """Run the loop of a Ray Train worker, until the dispatcher closes.

    Args:
        settings: `group`, the group's number; `name` and `namespace` of the dispatcher; `code`, the
            user code of the driver.
    """
    keep_private()
    train_context = ray.train.get_context()
    worker_context = TrialContext(
        train_context.get_world_rank(), train_context.get_world_size(), _device()
    )
    connection = _DispatcherConnection(
        ray.get_actor(settings["name"], namespace=settings["namespace"]),
        settings["group"],
        train_context.get_world_rank(),
    )
    if worker_context.is_main_process:
        threading.Thread(target=connection.send_phases, name="phases", daemon=True).start()
    code_problem = _load_code(settings["code"], worker_context)
    while True:
        assignment = worker_context.broadcast_object(
            connection.take_trial() if worker_context.is_main_process else None
        )
        if assignment == CLOSE:
            return
        if assignment is not None:
            _train(assignment, connection, worker_context, code_problem)


def _load_code(code: Shipment, worker_context: TrialContext) -> str:
    """Load the user code of the driver; return why a rank cannot load it, "" if all ranks can.

    A trial then fails with this reason. An error here would start the group again and again.
    """
    problem = ""
    try:
        unpack_code(code)
    except ConfigurationError as error:
        problem = str(error)
    return next(filter(None, worker_context.all_gather_object(problem)), "")


def _device() -> torch.device:
    if not ray.get_gpu_ids():
        # Ray Train exposes the GPUs of the node's other workers, and would return the first
        return torch.device("cpu")
    device = ray.train.torch.get_device()
    device = device if isinstance(device, torch.device) else device[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)  # objects are gathered through the current device
    return device


def _train(
    spec: TrialSpec,
    connection: "_DispatcherConnection",
    worker_context: TrialContext,
    code_problem: str = "",
) -> None:
    """Train one trial.

    Report a failure that the trial caused. Retry other failures from the checkpoint. Reuse the
    group if that is safe.

    Args:
        spec: The trial.
        connection: The connection to the dispatcher.
        worker_context: The context of the ranks.
        code_problem: Why the user code cannot be loaded on all ranks; "" if it is loaded.
    """
    connection.open_trial(spec)
    context = replace(
        worker_context,
        report=connection.report,
        stop_requested=connection.stop_requested,
        heartbeat=connection.heartbeat,
        note=connection.note,
        phase=connection.phase,
        pair=Pair,
    )
    try:
        if code_problem:
            raise TrialError(code_problem).with_details("--code", code_problem)
        with influence_clients(spec) as create_influence_client:
            execute(spec, replace(context, influence_client=create_influence_client))
    except Exception as error:
        failure = classify_failure(error, spec, worker_context.device)
        if not isinstance(error, UserError | SettingsError):
            log.exception("trial %s failed", spec.name)
        with contextlib.suppress(DispatcherTimeoutError):
            if failure.from_trial:
                connection.report(TrialFailure(failure.message))
            else:
                connection.report_infrastructure_failure(failure.message)
        if not failure.process_reusable or (
            worker_context.world_size > 1 and not failure.on_all_ranks
        ):
            # other ranks wait in a collective, or the process is unusable: Ray Train restarts it
            raise
        if not failure.from_trial:
            return  # the group requests the trial again
    if worker_context.is_main_process and not connection.has_lost_dispatcher():
        connection.release_trial()


class _DispatcherConnection:
    """Connection of a worker to the dispatcher, for one trial at a time."""

    def __init__(self, dispatcher: Any, group: int, rank: int) -> None:
        self.dispatcher, self.group, self.rank = dispatcher, group, rank
        self.trial = self.activity = ""
        self.stopped: Any = None
        self.last_heartbeat, self.heartbeat_interval_s = 0.0, HEARTBEAT_S
        self.phase_changed = threading.Event()

    def take_trial(self) -> Any:
        return wait_for_answer(
            lambda: self.dispatcher.take_trial.remote(self.group, TAKE_S), TAKE_S + REPLY_S
        )

    def open_trial(self, spec: TrialSpec) -> None:
        self.trial, self.activity = spec.name, ""
        self.heartbeat_interval_s = min(
            HEARTBEAT_S, spec.configuration.resources.heartbeat_warning_s / 4
        )
        self.stopped = self.dispatcher.wait_for_stop.remote(spec.name) if self.rank == 0 else None
        self.dispatcher.register_worker.remote(
            self.group, self.rank, ray.get_runtime_context().current_actor
        )

    def report(self, report: Report) -> None:
        wait_for_answer(lambda: self.dispatcher.report.remote(self.trial, report, self.group))

    def report_infrastructure_failure(self, message: str) -> None:
        wait_for_answer(
            lambda: self.dispatcher.report_infrastructure_failure.remote(
                self.trial, message, self.group
            )
        )

    def stop_requested(self) -> bool:
        self.heartbeat()
        return self.stopped is not None and bool(ray.wait([self.stopped], timeout=0)[0])

    def has_lost_dispatcher(self) -> bool:
        """Return whether the dispatcher's death stopped the trial.

        The worker's next request then reports that its group is free.
        """
        if not self.stop_requested():
            return False
        try:
            ray.get(self.stopped)
        except ray.exceptions.RayError:
            return True
        return False

    def heartbeat(self) -> None:
        if time.monotonic() - self.last_heartbeat > self.heartbeat_interval_s:
            self._send_heartbeat()

    def phase(self, activity: str) -> None:
        if self.rank == 0:
            self.activity = activity
            self.phase_changed.set()

    def _send_heartbeat(self) -> None:
        self.last_heartbeat = time.monotonic()
        self.dispatcher.record_heartbeat.remote(self.trial, self.group, self.activity)

    def send_phases(self) -> None:
        """Send a heartbeat soon after a change of the phase, which may be the last one for long."""
        while True:
            self.phase_changed.wait()
            self.phase_changed.clear()
            self._send_heartbeat()
            time.sleep(PHASE_S)

    def note(self, text: str) -> None:
        self.dispatcher.add_note.remote(f"{self.trial}: {text}")

    def release_trial(self) -> None:
        wait_for_answer(lambda: self.dispatcher.release_trial.remote(self.group, self.trial))
