"""Fill the cache before training: distribute the views over the worker groups.

This module runs in the driver; each group computes the views of its job.
"""

import queue
import threading
from typing import Protocol

from orchestrator.config import sizes
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import Folders, TrialSpec
from orchestrator.core.errors import PreflightError, TrialError, UserError
from orchestrator.core.reports import EpochRecord, Report, SampleProgress, TrialFailure
from orchestrator.teacher.acquire import TrialDispatcher

Share = tuple[int | None, ...]
_Reports = queue.Queue[tuple[int, Report | Exception]]  # each with the number of its job


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
    folders: Folders,
    shares: list[Share],
    features: bool,
    stages: tuple[str, ...],
    dispatcher_client: TrialDispatcher,
    show: PrecomputeProgress,
    first_job: int = 0,
) -> None:
    """Precompute the views; return when all are cached. If one job fails, stop the others.

    Args:
        configuration: The configuration, with a teacher.
        folders: The folders of the run; the jobs share the folder `trials`.
        shares: The views of each job.
        features: Whether to cache features of the clean view.
        stages: Stages whose feature maps of the clean view to cache.
        dispatcher_client: The backend that runs the jobs.
        show: Receives the progress.
        first_job: The number of the first job in the display: each teacher has its own jobs.

    Raises:
        TrialError: A job failed or ended early; it has the job's message.
        PreflightError: No worker can run a job at present.
    """
    jobs = [
        TrialSpec(
            name=f"fill-{number}",
            role="fill",
            configuration=configuration,
            folder=folders.trials,
            data=folders.data,
            teacher=folders.teacher,
            knowledge=folders.knowledge,
            views=share,
            features=features,
            stages=stages,
            uri=folders.uri,
            root=folders.root,
        )
        for number, share in enumerate(shares)
    ]
    reports: _Reports = queue.Queue()
    for number, job in enumerate(jobs):
        dispatcher_client.submit(job)
        follow = (
            number,
            job.name,
            configuration.resources.heartbeat_timeout_s,
            dispatcher_client,
            reports,
        )
        threading.Thread(target=_follow, args=follow, name=job.name, daemon=True).start()
    try:
        _show(shares, reports, show, first_job)
    finally:
        for job in jobs:
            dispatcher_client.stop(job.name)


def _follow(
    number: int,
    job: str,
    heartbeat_timeout_s: float,
    dispatcher_client: TrialDispatcher,
    reports: _Reports,
) -> None:
    report: Report | Exception | None = None
    while not (
        isinstance(report, TrialFailure | Exception)
        or (isinstance(report, EpochRecord) and report.done)
    ):
        try:
            report = dispatcher_client.next_report(job, heartbeat_timeout_s)
        except Exception as error:  # any error: the consumer of the queue must receive it
            report = error
        reports.put((number, report))


def _show(shares: list[Share], reports: _Reports, show: PrecomputeProgress, first_job: int) -> None:
    computed = [0] * len(shares)
    while computed != [len(share) for share in shares]:
        job, report = reports.get()
        if isinstance(report, TrialFailure | Exception):
            raise _failure(report)
        if isinstance(report, SampleProgress):
            show.progress(first_job + job, computed[job], report.samples)
            continue
        computed[job] = report.epoch
        view = shares[job][report.epoch - 1]
        show.view_precomputed(view, report.metrics, list(report.notes))
        show.progress(first_job + job, report.epoch, 0)
        if report.done and report.epoch < len(shares[job]):
            raise TrialError(
                f"the cache could not be precomputed: job {job} ended after {computed[job]} of "
                f"{len(shares[job])} views"
            ).with_details(f"fill-{job}", computed[job], len(shares[job]))


def _failure(cause: TrialFailure | Exception) -> UserError:
    """Return the error of a failed job, with the field and the value of the original error."""
    if isinstance(cause, TrialFailure):
        reason = cause.message
    else:
        reason = str(cause) if isinstance(cause, UserError) else f"{type(cause).__name__}: {cause}"
    message = f"the cache could not be precomputed: {reason}"
    if isinstance(cause, UserError):
        return (PreflightError if isinstance(cause, PreflightError) else TrialError).from_error(
            cause, message
        )
    return TrialError(message).with_details("teacher", reason)
