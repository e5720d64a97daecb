"""The influence actor: a process beside a worker that finds what the samples are worth while the worker trains on.

Knows Ray; not how the weights are computed, nor when they come into force. A worker makes its actor when a trial first asks and
keeps it for its life; the actor ends with the worker, which owns it.
"""

import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from ray._private import state

from methods import SettingsError
from orchestrator.cluster.dispatcher_client import NAMESPACE
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Aide, Stopped
from orchestrator.core.errors import PreflightError, TrialError, UserError
from orchestrator.core.privacy import keep_private
from orchestrator.training.sample_weighting import SampleWeighting, Snapshot, compute_sample_weights

SLICE_S = 1.0  # whoever waits gives a sign of life so often
Compute = Callable[[Snapshot, torch.device, Callable[[], None]], SampleWeighting]
log = logging.getLogger(__name__)


class InfluenceActor:
    """Appraises one snapshot after another, on what Ray gave it; what it opened for one trial it has for the next."""

    def __init__(self, compute: Compute, threads: int) -> None:
        keep_private()
        torch.set_num_threads(threads)
        self.compute, self.device = compute, _device()

    def appraise(self, snapshot: Snapshot) -> SampleWeighting:
        """The answer; Stopped when nobody wants it any more."""
        return self.compute(snapshot, self.device, _require_wanted)


def _device() -> torch.device:
    """The GPU, or the part of one, that Ray gave this process, which sees no other; else the CPU, whatever it sees."""
    return torch.device("cuda", 0) if ray.get_gpu_ids() else torch.device("cpu")


def _require_wanted() -> None:
    if ray.get_runtime_context().is_canceled():
        raise Stopped


class InfluenceActorHandle:
    """The influence actor of this process: started when it is first needed, and anew when it is gone."""

    def __init__(self, cpus: float, gpus: float, compute: Compute) -> None:
        self.cpus, self.gpus, self.compute = cpus, gpus, compute
        self.handle: Any = None

    def actor(self) -> Any:
        """A handle of the actor; without waiting until Ray has found a place for it."""
        if self.handle is None:
            kind = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)(InfluenceActor)
            placed = kind.options(
                name=f"influence-{uuid.uuid4().hex[:8]}",
                namespace=NAMESPACE,
                scheduling_strategy="DEFAULT",  # not from the bundle of the worker
            )
            self.handle = placed.remote(self.compute, max(1, int(self.cpus)))
        return self.handle

    def end_late(self, handle: Any) -> None:
        """That one has not answered in time: it may be stopped, or hold what others need. One that still starts is left to it."""
        # by the cluster's table: a call that asks the actor itself would be one more that may be waited for
        if handle is self.handle and state.actors(actor_id=handle._actor_id.hex()).get("State") == "ALIVE":
            self.end(handle)

    def end(self, handle: Any) -> None:
        """That one is of no use any more; if another one has taken its place, that stays."""
        if handle is self.handle:
            self.handle = None
            ray.kill(handle)


class InfluenceClient:
    """One student's line to the influence actor of its worker, which several students may share."""

    def __init__(self, beside: InfluenceActorHandle, max_failures: int) -> None:
        self.beside, self.max_failures = beside, max_failures
        self.actor = beside.actor()  # it starts while the student has its first epochs
        self.snapshot: Any = None
        self.answer: Any = None
        self.epoch = self.deaths = 0
        self.said: list[str] = []

    def send(self, job: Snapshot) -> None:
        """Begin with this; what was sent before is broken off."""
        self.drop()
        self.epoch, self.snapshot, self.deaths = job.epoch, ray.put(job), 0
        self._begin()

    def receive(self, wait_s: float, alive: Callable[[], None]) -> SampleWeighting | None:
        """What came of the last job, None where it is not there within `wait_s` or its actor died once too often.

        An actor that had started and is late is ended: the next snapshot gets another one.
        TrialError when the computation failed; a sentence for a person is kept.
        """
        until = time.monotonic() + wait_s
        while self.answer is not None:
            alive()
            left = until - time.monotonic()
            if ray.wait([self.answer], timeout=min(max(left, 0.0), SLICE_S))[0]:
                appraised = self._collect()
                if appraised is not None:
                    return appraised
            elif left <= 0:
                self.beside.end_late(self.actor)
                self.drop()
        return None

    def notes(self) -> list[str]:
        """What became of the actor since the last call."""
        said, self.said = self.said, []
        return said

    def drop(self) -> None:
        """Nobody wants the answer any more: the actor is free for the next."""
        if self.answer is not None:
            ray.cancel(self.answer)
            self.answer = None

    def _begin(self) -> None:
        self.actor = self.beside.actor()
        self.answer = self.actor.appraise.remote(self.snapshot)

    def _collect(self) -> SampleWeighting | None:
        """The answer that is there; None when the actor died meanwhile."""
        answer, self.answer = self.answer, None
        try:
            appraised: SampleWeighting = ray.get(answer)
            return appraised
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, PreflightError | OSError):  # the fault of its place, as a death is
                self._died(cause)
                return None
            if isinstance(cause, UserError | SettingsError):
                raise TrialError.from_error(cause, str(cause)) from error
            self.beside.end(self.actor)  # its device may be poisoned, its memory full
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
            raise TrialError(
                f"the weights of the samples could not be computed ({reason})", field="resources.influence_backend", value=reason
            ) from error
        except ray.exceptions.RayError as error:
            self._died(error)
            return None

    def _died(self, error: Exception) -> None:
        """It is of no use any more: another one takes its place, and its work."""
        log.warning("the influence actor died: %s", error)
        self.beside.end(self.actor)
        self.deaths += 1
        if self.deaths > self.max_failures:
            self.said.append(
                f"the influence actor died {self.deaths} times (resources.max_failures = {self.max_failures}): the snapshot of "
                f"epoch {self.epoch} was not sent again"
            )
            return
        self.said.append(f"the influence actor died and was started again; the snapshot of epoch {self.epoch} was sent again")
        self._begin()


@functools.cache
def _beside(cpus: float, gpus: float) -> InfluenceActorHandle:
    """One in the life of a worker."""
    return InfluenceActorHandle(cpus, gpus, compute_sample_weights)


@contextlib.contextmanager
def influence_clients(spec: TrialSpec) -> Iterator[Callable[[], Aide] | None]:
    """Who computes beside this worker while it trains a trial, if anybody does; what is not answered at the end is dropped."""
    resources, made = spec.configuration.resources, []

    def aide() -> InfluenceClient:
        made.append(InfluenceClient(_beside(resources.influence_cpus, resources.influence_gpus), resources.max_failures))
        return made[-1]

    try:
        yield aide if spec.role == "student" and resources.influence_backend == "actor" else None
    finally:
        for each in made:
            each.drop()
