"""Define the messages between a run and its local processes, which travel over pipes."""

from dataclasses import dataclass

from orchestrator.cluster._failures import Failure
from orchestrator.extensions.shipping import Shipment


@dataclass(frozen=True, slots=True)
class Started:
    """First message of a process: it has imported everything."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Answer to `Started`.

    Attributes:
        code: The user code of the run.
        heartbeat_interval_s: The time between two heartbeats (s).
    """

    code: Shipment
    heartbeat_interval_s: float


@dataclass(frozen=True, slots=True)
class Ready:
    """Answer to `Setup`: the process takes trials.

    Attributes:
        problem: Why the user code cannot be loaded; "" if it is loaded.
    """

    problem: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Request to end the training of the trial that was sent last."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sign of life of a training, with its current activity."""

    activity: str


@dataclass(frozen=True, slots=True)
class Note:
    """Message for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Released:
    """The process trains no trial any more; `failure` is the cause if the training failed."""

    failure: Failure | None
