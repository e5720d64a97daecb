"""Fills the cache beforehand: the views are dealt out to the worker groups, each of which fills its own. The driver's side."""

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


class Filling(Protocol):
    """What a person sees of it."""

    def begin(self, views: int, samples: int) -> None:
        """So many views of so many samples each are about to be filled."""

    def progress(self, job: int, views: int, samples: int) -> None:
        """A job has so many views behind it, and so many samples of the next one."""

    def view_filled(self, view: int | None, metrics: dict[str, float], notes: list[str]) -> None:
        """A view is there."""


def views_to_fill(configuration: Configuration, augmentation: str) -> list[int | None]:
    """The clean view (None), which some methods prepare with, and the augmented ones, if views differ."""
    return [None, *(range(sizes.views(configuration)) if sizes.varies(configuration, augmentation) else [])]


def distribute_views(views: list[int | None], groups: int, everywhere: bool) -> list[Share]:
    """The views of each group's job: a part of them, or, where every node has a cache of its own, all, each beginning elsewhere."""
    if not everywhere:
        return [tuple(views[number::groups]) for number in range(min(groups, len(views)))]
    begins = [number * len(views) // groups for number in range(groups)]
    return [(*views[begin:], *views[:begin]) for begin in begins]


def precompute_views(
    configuration: Configuration,
    folders: dict[str, Path],
    shares: list[Share],
    features: bool,
    desk: TrialDispatcher,
    show: Filling,
) -> None:
    """Fill the views; returns when all are there. `folders` are those of a specification: folder, data, teacher, knowledge.

    The other jobs are stopped when one fails; TrialError with its message, PreflightError where nobody can do it for now.
    """
    common: dict[str, Any] = {"role": "fill", "configuration": configuration, "features": features, **folders}
    jobs = [TrialSpec(name=f"fill-{number}", views=share, **common) for number, share in enumerate(shares)]
    records: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
    for number, job in enumerate(jobs):
        desk.submit(job.name, job.plain())
        follow = (number, job.name, configuration.resources.heartbeat_timeout_s, desk, records)
        threading.Thread(target=_follow, args=follow, name=job.name, daemon=True).start()
    try:
        _show(shares, records, show)
    finally:
        for job in jobs:
            desk.stop(job.name)


def _follow(
    number: int, job: str, silence_s: float, desk: TrialDispatcher, records: queue.Queue[tuple[int, dict[str, Any]]]
) -> None:
    record: dict[str, Any] = {}
    while not (record.get("done") or record.get("failed")):
        try:
            record = desk.next_report(job, silence_s)
        except Exception as error:  # whatever it is: the one who waits for the queue has to hear of it
            record = {"failed": str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}", "error": error}
        records.put((number, record))


def _show(shares: list[Share], records: queue.Queue[tuple[int, dict[str, Any]]], show: Filling) -> None:
    filled = [0] * len(shares)
    while filled != [len(share) for share in shares]:
        job, record = records.get()
        if record.get("failed"):
            raise _failure(record)
        if "epoch" in record:
            filled[job] = record["epoch"]
            show.view_filled(shares[job][filled[job] - 1], record["metrics"], record["notes"])
        show.progress(job, filled[job], record.get("samples", 0))
        if record.get("done") and filled[job] < len(shares[job]):
            raise TrialError(
                f"the cache could not be filled: job {job} ended after {filled[job]} of {len(shares[job])} views",
                field=f"fill-{job}",
                value=filled[job],
                allowed=len(shares[job]),
            )


def _failure(record: dict[str, Any]) -> UserError:
    """Return the error of a job that failed, about the same value as the one that it met."""
    message, error = f"the cache could not be filled: {record['failed']}", record.get("error")
    if isinstance(error, UserError):
        return (PreflightError if isinstance(error, PreflightError) else TrialError).from_error(error, message)
    return TrialError(message, field="teacher", value=record["failed"])
