"""Acquire the teacher: find it in the store, adopt and evaluate given weights, or fit it."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from filelock import FileLock, Timeout

from orchestrator.config.schema import Configuration
from orchestrator.config.teacher_keys import naming_teacher
from orchestrator.config.trial import TrialSpec
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.reports import EpochRecord, Report, TrialFailure
from orchestrator.store.checkpoint_storage import checkpoint_storage
from orchestrator.store.staging import publish
from orchestrator.store.store import Store, set_aside
from orchestrator.teacher import fit
from orchestrator.teacher.card import CARD, TeacherCard
from orchestrator.teacher.quality import ACCURACY

log = logging.getLogger(__name__)
NAMED_CAUSES = ("teacher.", "my/")  # a message names a setting, or code of the user
EpochCallback = Callable[[int, dict[str, float]], None]


class TrialDispatcher(Protocol):
    """Interface of a backend that trains: worker groups, or this process."""

    def submit(self, spec: TrialSpec) -> None:
        """Submit a trial."""

    def next_report(self, trial: str, heartbeat_timeout_s: float) -> Report:
        """Return the next report on a trial.

        Raises:
            PreflightError: No report or heartbeat arrived for `heartbeat_timeout_s` seconds.
        """

    def stop(self, trial: str) -> None:
        """Stop the trial early."""


def check_weights(store: Store, configuration: Configuration, data: Path) -> None:
    """Adopt given weights of all teachers before anything expensive starts.

    A damaged teacher in the store is set aside, and created again.

    Args:
        store: The store of the run.
        configuration: The configuration; without a teacher nothing happens.
        data: The folder of the prepared data.

    Raises:
        ConfigurationError: The weights do not fit the network or the data.
    """
    for key, single in configuration.of_each_teacher().items():
        with naming_teacher(key):
            _check_weights(store, single, data)


def _check_weights(store: Store, configuration: Configuration, data: Path) -> None:
    teacher = configuration.teacher
    assert teacher is not None
    folder = fit.teacher_folder(store, configuration, data)
    if damage := fit.damage(folder):
        log.warning(
            "%s: the damaged teacher is kept as %s, and the teacher is created again",
            damage,
            set_aside(folder),
        )
    if teacher.network.weights and not fit.card(folder):
        fit.adopt_weights(folder, teacher, data)


class AcquiredTeacher(NamedTuple):
    """A teacher that is ready.

    Attributes:
        folder: Its folder in the store.
        card: Its card.
        seconds: Seconds that its acquisition took.
    """

    folder: Path
    card: TeacherCard
    seconds: float


def acquire_teachers(
    store: Store,
    configuration: Configuration,
    data: Path,
    dispatcher_client: TrialDispatcher,
    on_epoch: EpochCallback,
    folders: Sequence[Path | None] = (),
) -> list[AcquiredTeacher]:
    """Return all teachers of a configuration in order, each as `acquire_teacher` does.

    Args:
        store: The store of the run.
        configuration: The configuration, with teachers.
        data: The folder of the prepared data.
        dispatcher_client: The backend that trains and evaluates.
        on_epoch: Called with the epoch and its metrics after every epoch of a fitting.
        folders: The `teacher_folder` of each teacher; empty: they are found here.

    Raises:
        ConfigurationError: As `acquire_teacher`; the error names the key of the teacher.
        PreflightError: As `acquire_teacher`.
    """
    acquired = []
    each = configuration.of_each_teacher()
    for (key, single), folder in zip(each.items(), folders or [None] * len(each), strict=True):
        with naming_teacher(key):
            acquired.append(
                acquire_teacher(store, single, data, dispatcher_client, on_epoch, folder)
            )
    return acquired


def acquire_teacher(
    store: Store,
    configuration: Configuration,
    data: Path,
    dispatcher_client: TrialDispatcher,
    on_epoch: EpochCallback,
    folder: Path | None = None,
) -> AcquiredTeacher:
    """Return the single teacher of a configuration; fit or evaluate it first if necessary.

    A teacher that was not fitted here is evaluated on the validation part once. Its card holds the
    metrics from then on.

    Args:
        store: The store of the run.
        configuration: The configuration, with a teacher.
        data: The folder of the prepared data.
        dispatcher_client: The backend that trains and evaluates.
        on_epoch: Called with the epoch and its metrics after every epoch of the fitting.
        folder: The `teacher_folder`; None: it is found here, which imports torch.

    Returns:
        The teacher.

    Raises:
        ConfigurationError: The teacher could not be fitted or evaluated, or its metrics are not
            finite.
        PreflightError: Another run holds the teacher's lock for `resources.heartbeat_timeout_s`.
    """
    start = time.monotonic()
    folder = folder or fit.teacher_folder(store, configuration, data)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not fit.card(folder):
        with _hold_lock(folder, configuration, "fit"):
            if not fit.card(folder):
                _fit(store, folder, configuration, data, dispatcher_client, on_epoch)
    publish(store, folder, CARD)
    if not _has_accuracy(folder):
        with _hold_lock(folder, configuration, "evaluate"):
            if not _has_accuracy(folder):
                fit.keep_evaluation(
                    folder, _evaluate(store, folder, configuration, data, dispatcher_client)
                )
    card = fit.card(folder)
    assert card is not None
    return AcquiredTeacher(folder, card, time.monotonic() - start)


def evaluate_on_test(
    store: Store, configuration: Configuration, data: Path, dispatcher_client: TrialDispatcher
) -> dict[str, float]:
    """Return the metrics of an acquired teacher on the test part: accuracy, nll, ece and others.

    Args:
        store: The store of the run.
        configuration: The configuration, with a teacher.
        data: The folder of the prepared data.
        dispatcher_client: The backend that evaluates.

    Raises:
        ConfigurationError: The evaluation fails or a metric is not finite.
    """
    folder = fit.teacher_folder(store, configuration, data)
    metrics = _evaluate(store, folder, configuration, data, dispatcher_client, "test")
    return {name.removeprefix("test/"): value for name, value in metrics.items()}


@contextlib.contextmanager
def _hold_lock(folder: Path, configuration: Configuration, purpose: str) -> Iterator[None]:
    """Hold the teacher's lock; raise PreflightError if another run does not release it in time."""
    heartbeat_timeout_s = configuration.resources.heartbeat_timeout_s
    try:
        with FileLock(f"{folder}.lock").acquire(timeout=heartbeat_timeout_s):
            yield
    except Timeout as error:
        raise PreflightError(
            f"waited {heartbeat_timeout_s:g} s for another run to {purpose} the teacher: find the "
            f"process that holds {folder}.lock, and end it or wait"
        ).with_details(
            f"{folder}.lock", heartbeat_timeout_s, "a lock that no other run holds"
        ) from error


def _has_accuracy(folder: Path) -> bool:
    """Return whether the teacher's card has an accuracy.

    Cards of older versions have none if the weights were given.
    """
    card = fit.card(folder)
    return card is not None and ACCURACY in card["metrics"]


def _evaluate(
    store: Store,
    folder: Path,
    configuration: Configuration,
    data: Path,
    dispatcher_client: TrialDispatcher,
    part: fit.Part = "validation",
) -> dict[str, float]:
    """Return the teacher's metrics on a part of the data.

    Raise ConfigurationError if the evaluation fails or a metric is not finite.
    """
    specification = store.locate(fit.evaluation(folder, configuration, data, part))
    dispatcher_client.submit(specification)
    report: Report | None = None
    while not (isinstance(report, EpochRecord) and report.done):
        report = dispatcher_client.next_report(
            specification.name, configuration.resources.heartbeat_timeout_s
        )
        if isinstance(report, TrialFailure):
            raise ConfigurationError(
                f"the teacher could not be evaluated: {report.message}"
            ).with_details("teacher", report.message)
    if not all(map(math.isfinite, report.metrics.values())):
        raise ConfigurationError(
            f"the teacher's logits on the {part} part are not finite, although its weights "
            f"are: give other teacher.network.weights, or leave them out to fit a teacher here"
        ).with_details(
            "teacher.network.weights",
            configuration.teacher.network.weights if configuration.teacher else None,
            "weights with finite logits",
        )
    return report.metrics


def _fit(
    store: Store,
    folder: Path,
    configuration: Configuration,
    data: Path,
    dispatcher_client: TrialDispatcher,
    on_epoch: EpochCallback,
) -> None:
    specification = store.locate(fit.specification(folder, configuration, data))
    storage = checkpoint_storage(store, specification.folder)
    dispatcher_client.submit(specification)
    while True:
        report = dispatcher_client.next_report(
            specification.name, configuration.resources.heartbeat_timeout_s
        )
        if isinstance(report, TrialFailure):
            if any(mark in report.message for mark in NAMED_CAUSES):
                advice = ""
            else:
                advice = "; change teacher.training or teacher.network"
            raise ConfigurationError(
                f"the teacher could not be fitted: {report.message}{advice}"
            ).with_details("teacher", report.message)
        if not isinstance(report, EpochRecord):
            continue
        on_epoch(report.epoch, report.metrics)
        if report.done:
            storage.download()
            fit.adopt_fitted(folder, configuration, data, report.metrics)
            storage.remove()
            return
