"""One worker of a group: take a trial, train it, report, take the next. The only place where training meets Ray."""

import logging
import time
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from methods import SettingsError
from orchestrator.actors.dispatcher import CLOSE, Record
from orchestrator.actors.influence import aides
from orchestrator.actors.pair import Pair
from orchestrator.context import TrialContext
from orchestrator.errors import EnvironmentUnfitError, TrialError, UserError
from orchestrator.private import keep_private
from orchestrator.training.job import work
from orchestrator.trial import TrialSpec

TAKE_S = 10.0  # a worker asks anew so often, so that no collective waits longer than this for rank 0
ALIVE_S = 5.0
REPLY_S = 120.0  # the dispatcher answers within milliseconds; longer means that it or the driver is gone
# Raised by all ranks or by none: a divergence is seen in sums over the ranks, and they wait for the knowledge together.
TOGETHER = (TrialError, SettingsError, EnvironmentUnfitError)
log = logging.getLogger(__name__)


def serve(settings: dict[str, Any]) -> None:
    """The loop of a Ray Train worker; ends when the dispatcher closes. `settings`: group; name and namespace of the dispatcher."""
    keep_private()
    place = ray.train.get_context()
    idle = TrialContext(place.get_world_rank(), place.get_world_size(), _device())
    line = _Line(ray.get_actor(settings["name"], namespace=settings["namespace"]), settings["group"])
    while True:
        job = idle.share(line.take() if idle.leads else None)
        if job == CLOSE:
            return
        if job is not None:
            _train(job[0], job[1], line, idle)


def _device() -> torch.device:
    if not ray.get_gpu_ids():
        return torch.device("cpu")  # Ray Train shows it the GPUs of the other workers of its node, and would name the first
    device = ray.train.torch.get_device()
    device = device if isinstance(device, torch.device) else device[0]
    if device.type == "cuda":
        torch.cuda.set_device(device)  # objects are gathered through the current device
    return device


def _train(name: str, specification: dict[str, Any], line: "_Line", idle: TrialContext) -> None:
    """Train one trial; whatever goes wrong in it is its own failure, and the group goes on where it can."""
    line.open(name, idle.leads)
    context = TrialContext(idle.rank, idle.world_size, idle.device, line.report, line.asked_to_stop, line.alive, pair=Pair)
    try:
        spec = TrialSpec.model_validate(specification)
        with aides(spec) as aide:
            work(spec, replace(context, aide=aide))
    except (UserError, SettingsError) as error:
        line.report({"failed": str(error)})
        if idle.world_size > 1 and not isinstance(error, TOGETHER):
            raise  # one rank alone may have met it (a damaged image), while the others wait in a collective
    except Exception as error:
        log.exception("trial %s failed", name)
        if idle.world_size > 1 and _peer_is_gone(error):
            raise  # not the trial's fault: it goes on from its checkpoint when Ray Train has restarted the group
        line.report({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"})
        if idle.world_size > 1 or idle.device.type == "cuda":
            raise  # the other ranks wait in a collective, or the device is poisoned: Ray Train restarts the group
    if idle.leads:
        line.give_back()


def _peer_is_gone(error: Exception) -> bool:
    """Whether a collective broke; gloo says so in a RuntimeError of its own words."""
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or "gloo" in text or "nccl" in text


class _Line:
    """The worker's line to the dispatcher, for one trial at a time."""

    def __init__(self, dispatcher: Any, group: int) -> None:
        self.dispatcher, self.group = dispatcher, group
        self.trial = ""
        self.stopped: Any = None
        self.signed = 0.0

    def take(self) -> Any:
        return ray.get(self.dispatcher.take.remote(self.group, TAKE_S), timeout=TAKE_S + REPLY_S)

    def open(self, trial: str, leads: bool) -> None:
        self.trial = trial
        self.stopped = self.dispatcher.until_stopped.remote(trial) if leads else None

    def report(self, record: Record) -> None:
        ray.get(self.dispatcher.report.remote(self.trial, record), timeout=REPLY_S)

    def asked_to_stop(self) -> bool:
        self.alive()
        return bool(ray.wait([self.stopped], timeout=0)[0])

    def alive(self) -> None:
        if time.monotonic() - self.signed > ALIVE_S:
            self.signed = time.monotonic()
            self.dispatcher.alive.remote(self.trial)

    def give_back(self) -> None:
        ray.get(self.dispatcher.give_back.remote(self.group, self.trial), timeout=REPLY_S)
