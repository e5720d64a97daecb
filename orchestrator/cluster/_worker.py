"""Run one worker of a group: take a trial, train it, report, take the next.

Only this module trains trials under Ray.
"""

import contextlib
import logging
import time
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from methods import SettingsError
from orchestrator.cluster._dispatcher import CLOSE, Record
from orchestrator.cluster._failures import classify_failure
from orchestrator.cluster._influence_actor import influence_clients
from orchestrator.cluster._pair import Pair
from orchestrator.cluster.dispatcher_client import REPLY_S, wait_for_answer
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import DispatcherTimeoutError, UserError
from orchestrator.core.privacy import keep_private
from orchestrator.training.execute import execute

TAKE_S = 10.0  # limit of a request: no collective waits longer than this for rank 0
ALIVE_S = 5.0  # heartbeat interval; less where heartbeat_warning_s is short
log = logging.getLogger(__name__)


def serve(settings: dict[str, Any]) -> None:
    """Run the loop of a Ray Train worker, until the dispatcher closes.

    Args:
        settings: `group`, the group's number; `name` and `namespace` of the dispatcher.
    """
    keep_private()
    place = ray.train.get_context()
    idle = TrialContext(place.get_world_rank(), place.get_world_size(), _device())
    line = _Line(
        ray.get_actor(settings["name"], namespace=settings["namespace"]),
        settings["group"],
        place.get_world_rank(),
    )
    while True:
        job = idle.broadcast_object(line.take() if idle.is_main_process else None)
        if job == CLOSE:
            return
        if job is not None:
            _train(job[0], job[1], line, idle)


def _device() -> torch.device:
    if not ray.get_gpu_ids():
        # Ray Train exposes the GPUs of the node's other workers, and would return the first
        return torch.device("cpu")
    device = ray.train.torch.get_device()
    device = device if isinstance(device, torch.device) else device[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)  # objects are gathered through the current device
    return device


def _train(name: str, specification: dict[str, Any], line: "_Line", idle: TrialContext) -> None:
    """Train one trial.

    Its own failure is reported. Other failures are retried from the checkpoint. The group is reused
    if it is safe.
    """
    line.open(name, specification)
    context = replace(
        idle,
        report=line.report,
        stop_requested=line.stop_requested,
        heartbeat=line.alive,
        note=line.note,
        phase=line.phase,
        pair=Pair,
    )
    try:
        spec = TrialSpec.model_validate(specification)
        with influence_clients(spec) as aide:
            execute(spec, replace(context, influence_client=aide))
    except Exception as error:
        fault = classify_failure(error, specification, idle.device)
        if not isinstance(error, UserError | SettingsError):
            log.exception("trial %s failed", name)
        with contextlib.suppress(DispatcherTimeoutError):
            if fault.own:
                line.report({"failed": fault.message})
            else:
                line.excuse(fault.message)
        if not fault.clean or (idle.world_size > 1 and not fault.together):
            # other ranks wait in a collective, or the process is unusable: Ray Train restarts it
            raise
        if not fault.own:
            return  # the group requests the trial again
    if idle.is_main_process and not line.broken():
        line.give_back()


class _Line:
    """Connection of a worker to the dispatcher, for one trial at a time."""

    def __init__(self, dispatcher: Any, group: int, rank: int) -> None:
        self.dispatcher, self.group, self.rank = dispatcher, group, rank
        self.trial = self.doing = ""
        self.stopped: Any = None
        self.signed, self.every_s = 0.0, ALIVE_S

    def take(self) -> Any:
        return wait_for_answer(
            lambda: self.dispatcher.take.remote(self.group, TAKE_S), TAKE_S + REPLY_S
        )

    def open(self, trial: str, specification: dict[str, Any]) -> None:
        self.trial, self.doing = trial, ""
        self.every_s = min(
            ALIVE_S, specification["configuration"]["resources"]["heartbeat_warning_s"] / 4
        )
        self.stopped = self.dispatcher.until_stopped.remote(trial) if self.rank == 0 else None
        self.dispatcher.enlist.remote(
            self.group, self.rank, ray.get_runtime_context().current_actor
        )

    def report(self, record: Record) -> None:
        wait_for_answer(lambda: self.dispatcher.report.remote(self.trial, record, self.group))

    def excuse(self, fault: str) -> None:
        wait_for_answer(lambda: self.dispatcher.excuse.remote(self.trial, fault, self.group))

    def stop_requested(self) -> bool:
        self.alive()
        return self.stopped is not None and bool(ray.wait([self.stopped], timeout=0)[0])

    def broken(self) -> bool:
        """Return whether the dispatcher's death stopped the trial.

        The worker's next request then reports that its group holds nothing.
        """
        if not self.stop_requested():
            return False
        try:
            ray.get(self.stopped)
        except ray.exceptions.RayError:
            return True
        return False

    def alive(self) -> None:
        if time.monotonic() - self.signed > self.every_s:
            self.signed = time.monotonic()
            self.dispatcher.alive.remote(self.trial, self.group, self.doing)

    def phase(self, doing: str) -> None:
        if self.rank == 0:
            self.doing, self.signed = doing, 0.0
            self.alive()

    def note(self, text: str) -> None:
        self.dispatcher.say.remote(f"{self.trial}: {text}")

    def give_back(self) -> None:
        wait_for_answer(lambda: self.dispatcher.give_back.remote(self.group, self.trial))
