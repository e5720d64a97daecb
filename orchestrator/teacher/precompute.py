"""Fill the cache before training: distribute the views over the worker groups.

This module runs in the driver; each group computes the views of its job.
"""

import queue
import threading
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config import sizes
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec
from orchestrator.core.errors import PreflightError, TrialError, UserError
from orchestrator.teacher.acquire import TrialDispatcher

Share = tuple[int | None, ...]


class PrecomputeProgress(Protocol):
    """Display of the progress of precomputation."""

    def begin(self, views: int, samples: int) -> None:
        """Report that `views` views of `samples` samples each will be precomputed."""

    def progress(self, job: int, views: int, samples: int) -> None:
        """Report that a job has computed `views` views and `samples` samples of the next one."""

    def view_precomputed(
        self, view: int | None, metrics: dict[str, float], notes: list[str]
    ) -> None:
        """Report that a view is in the cache."""


def views_to_precompute(configuration: Configuration, augmentation: str) -> list[int | None]:
    """Return the views to precompute: the clean one (None), then augmented ones if they differ.

    Some methods prepare with the clean view.
    """
    return [
        None,
        *(range(sizes.views(configuration)) if sizes.varies(configuration, augmentation) else []),
    ]


def distribute_views(views: list[int | None], groups: int, everywhere: bool) -> list[Share]:
    """Return the views of each group's job.

    Args:
        views: All views.
        groups: Number of worker groups.
        everywhere: Whether every node has its own cache. Each job then gets all views, and starts
            at a different one. Otherwise each job gets a part of them.
    """
    if not everywhere:
        return [tuple(views[number::groups]) for number in range(min(groups, len(views)))]
    starts = [number * len(views) // groups for number in range(groups)]
    return [(*views[start:], *views[:start]) for start in starts]


def precompute_views(
    configuration: Configuration,
    folders: dict[str, Path],
    shares: list[Share],
    features: bool,
    dispatcher_client: TrialDispatcher,
    show: PrecomputeProgress,
) -> None:
    """Precompute the views; return when all are cached. If one job fails, stop the others.

    Args:
        configuration: The configuration, with a teacher.
        folders: The paths of a specification: folder, data, teacher, knowledge.
        shares: The views of each job.
        features: Whether to cache features of the clean view.
        dispatcher_client: The backend that runs the jobs.
        show: Receives the progress.

    Raises:
        TrialError: A job failed or ended early; it has the job's message.
        PreflightError: No worker can run a job at present.
    """
    common: dict[str, Any] = {
        "role": "fill",
        "configuration": configuration,
        "features": features,
        **folders,
    }
    jobs = [
        TrialSpec(name=f"fill-{number}", views=share, **common)
        for number, share in enumerate(shares)
    ]
    records: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    for number, job in enumerate(jobs):
        dispatcher_client.submit(job.name, job.plain())
        follow = (
            number,
            job.name,
            configuration.resources.heartbeat_timeout_s,
            dispatcher_client,
            records,
        )
        threading.Thread(target=_follow, args=follow, name=job.name, daemon=True).start()
    try:
        _show(shares, records, show)
    finally:
        for job in jobs:
            dispatcher_client.stop(job.name)


def _follow(
    number: int,
    job: str,
    heartbeat_timeout_s: float,
    dispatcher_client: TrialDispatcher,
    records: queue.Queue[tuple[int, dict[str, Any]]],
) -> None:
    record: dict[str, Any] = {}
    while not (record.get("done") or record.get("failed")):
        try:
            record = dispatcher_client.next_report(job, heartbeat_timeout_s)
        except Exception as error:  # any error: the consumer of the queue must receive it
            record = {
                "failed": str(error)
                if isinstance(error, UserError)
                else f"{type(error).__name__}: {error}",
                "error": error,
            }
        records.put((number, record))


def _show(
    shares: list[Share], records: queue.Queue[tuple[int, dict[str, Any]]], show: PrecomputeProgress
) -> None:
    computed = [0] * len(shares)
    while computed != [len(share) for share in shares]:
        job, record = records.get()
        if record.get("failed"):
            raise _failure(record)
        if "epoch" in record:
            computed[job] = record["epoch"]
            show.view_precomputed(
                shares[job][computed[job] - 1], record["metrics"], record["notes"]
            )
        show.progress(job, computed[job], record.get("samples", 0))
        if record.get("done") and computed[job] < len(shares[job]):
            raise TrialError(
                f"the cache could not be precomputed: job {job} ended after {computed[job]} of "
                f"{len(shares[job])} views"
            ).with_details(f"fill-{job}", computed[job], len(shares[job]))


def _failure(record: dict[str, Any]) -> UserError:
    """Return the error of a failed job, with the field and the value of the original error."""
    message, error = f"the cache could not be precomputed: {record['failed']}", record.get("error")
    if isinstance(error, UserError):
        return (PreflightError if isinstance(error, PreflightError) else TrialError).from_error(
            error, message
        )
    return TrialError(message, field="teacher", value=record["failed"])
