"""Compute sample weights in a Ray actor while its worker continues to train.

A worker starts its influence actor when a trial first requests it, and keeps it until its own end.
The actor ends with the worker, which owns it.
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
from orchestrator.core.context import InfluenceClientProtocol, Stopped
from orchestrator.core.errors import PreflightError, TrialError, UserError
from orchestrator.core.privacy import keep_private
from orchestrator.extensions.shipping import Shipment, pack_code, unpack_code
from orchestrator.training.sample_weighting import SampleWeighting, Snapshot, compute_sample_weights

SLICE_S = 1.0  # heartbeat interval while waiting for an answer
Compute = Callable[[Snapshot, torch.device, Callable[[], None]], SampleWeighting]
log = logging.getLogger(__name__)


class InfluenceActor:
    """Actor that computes sample weights from one snapshot after another.

    It uses the resources that Ray assigned. It reuses opened data for the next trial.
    """

    def __init__(self, compute: Compute, threads: int, code: Shipment) -> None:
        keep_private()
        unpack_code(code)
        torch.set_num_threads(threads)
        self.compute, self.device = compute, _device()

    def compute_weights(self, snapshot: Snapshot) -> SampleWeighting:
        """Return the sample weights for a snapshot.

        Raises:
            Stopped: The request was cancelled.
        """
        return self.compute(snapshot, self.device, _raise_if_cancelled)


def _device() -> torch.device:
    """Return the GPU, or the part of one, that Ray assigned to this process; else the CPU.

    The process sees no other GPU. Without an assignment it uses the CPU, even if it sees GPUs.
    """
    return torch.device("cuda", 0) if ray.get_gpu_ids() else torch.device("cpu")


def _raise_if_cancelled() -> None:
    if ray.get_runtime_context().is_canceled():
        raise Stopped


class InfluenceActorHandle:
    """Handle of this process's influence actor, which starts on first use.

    A lost actor is replaced on the next use.
    """

    def __init__(self, cpus: float, gpus: float, compute: Compute) -> None:
        self.cpus, self.gpus, self.compute = cpus, gpus, compute
        self.handle: Any = None

    def actor(self) -> Any:
        """Return a handle of the actor, without waiting until Ray has placed it."""
        if self.handle is None:
            actor_class = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)(
                InfluenceActor
            )
            actor_options = actor_class.options(
                name=f"influence-{uuid.uuid4().hex[:8]}",
                namespace=NAMESPACE,
                scheduling_strategy="DEFAULT",  # not in the bundle of the worker
            )
            self.handle = actor_options.remote(self.compute, max(1, int(self.cpus)), pack_code())
        return self.handle

    def end_late(self, handle: Any) -> None:
        """End an actor that has not answered in time, unless it is still starting.

        It may be stopped, or hold resources that other trials need.
        """
        # read the cluster's table: a call to the actor itself might block as well
        if (
            handle is self.handle
            and state.actors(actor_id=handle._actor_id.hex()).get("State") == "ALIVE"
        ):
            self.end(handle)

    def end(self, handle: Any) -> None:
        """End an actor that is not needed any more; an actor that has replaced it stays."""
        if handle is self.handle:
            self.handle = None
            ray.kill(handle)


class InfluenceClient:
    """Connection of one student to the influence actor of its worker.

    Several students may share that actor.
    """

    def __init__(self, actor_handle: InfluenceActorHandle, max_failures: int) -> None:
        self.actor_handle, self.max_failures = actor_handle, max_failures
        self.actor = actor_handle.actor()  # it starts during the student's first epochs
        self.snapshot: Any = None
        self.answer: Any = None
        self.epoch = self.deaths = 0
        self.unread_notes: list[str] = []

    def send(self, snapshot: Snapshot) -> None:
        """Start a computation on this snapshot; cancel the previous one."""
        self.drop()
        self.epoch, self.snapshot, self.deaths = snapshot.epoch, ray.put(snapshot), 0
        self._send_snapshot()

    def receive(self, wait_s: float, heartbeat: Callable[[], None]) -> SampleWeighting | None:
        """Return the result of the last snapshot.

        An actor that has started and is late is ended; the next snapshot gets a new one.

        Args:
            wait_s: Time limit in seconds.
            heartbeat: Heartbeat, called while waiting.

        Returns:
            The sample weights. None if they are not ready within `wait_s`, or if the actor died
            more than `max_failures` times.

        Raises:
            TrialError: The computation failed. A message that was written for users is kept.
        """
        deadline = time.monotonic() + wait_s
        while self.answer is not None:
            heartbeat()
            remaining_s = deadline - time.monotonic()
            if ray.wait([self.answer], timeout=min(max(remaining_s, 0.0), SLICE_S))[0]:
                weighting = self._collect()
                if weighting is not None:
                    return weighting
            elif remaining_s <= 0:
                self.actor_handle.end_late(self.actor)
                self.drop()
        return None

    def notes(self) -> list[str]:
        """Return the notes on the actor since the last call."""
        notes, self.unread_notes = self.unread_notes, []
        return notes

    def drop(self) -> None:
        """Cancel the pending request, which frees the actor for the next one."""
        if self.answer is not None:
            ray.cancel(self.answer)
            self.answer = None

    def _send_snapshot(self) -> None:
        self.actor = self.actor_handle.actor()
        self.answer = self.actor.compute_weights.remote(self.snapshot)

    def _collect(self) -> SampleWeighting | None:
        """Return the answer that is ready; None if the actor died meanwhile."""
        answer, self.answer = self.answer, None
        try:
            weighting: SampleWeighting = ray.get(answer)
            return weighting
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(
                cause, PreflightError | OSError
            ):  # an environment error, handled like a death
                self._handle_death(cause)
                return None
            if isinstance(cause, UserError | SettingsError):
                raise TrialError.from_error(cause, str(cause)) from error
            self.actor_handle.end(self.actor)  # its device may be unusable, its memory full
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
            raise TrialError(f"the sample weights could not be computed ({reason})").with_details(
                "resources.influence_backend", reason
            ) from error
        except ray.exceptions.RayError as error:
            self._handle_death(error)
            return None

    def _handle_death(self, error: Exception) -> None:
        """Replace the dead actor, and resend the snapshot if its failures allow."""
        log.warning("the influence actor died: %s", error)
        self.actor_handle.end(self.actor)
        self.deaths += 1
        if self.deaths > self.max_failures:
            self.unread_notes.append(
                f"the influence actor died {self.deaths} times (resources.max_failures = "
                f"{self.max_failures}): the snapshot of epoch {self.epoch} was not resent"
            )
            return
        self.unread_notes.append(
            f"the influence actor died and was restarted; the snapshot of epoch "
            f"{self.epoch} was resent"
        )
        self._send_snapshot()


@functools.cache
def _shared_actor_handle(cpus: float, gpus: float) -> InfluenceActorHandle:
    """Return the handle of the influence actor, created once per worker process."""
    return InfluenceActorHandle(cpus, gpus, compute_sample_weights)


@contextlib.contextmanager
def influence_clients(spec: TrialSpec) -> Iterator[Callable[[], InfluenceClientProtocol] | None]:
    """Yield a function that creates influence clients for a trial.

    Yield None if the trial uses no influence actor. Cancel the pending requests at the end.
    """
    resources, clients = spec.configuration.resources, []

    def create_client() -> InfluenceClient:
        clients.append(
            InfluenceClient(
                _shared_actor_handle(resources.influence_cpus, resources.influence_gpus),
                resources.max_failures,
            )
        )
        return clients[-1]

    try:
        yield (
            create_client
            if spec.role == "student" and resources.influence_backend == "actor"
            else None
        )
    finally:
        for client in clients:
            client.drop()
