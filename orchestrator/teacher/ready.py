"""Brings the teacher into the store: found there, taken over from given weights, or fitted by a worker group."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from orchestrator.checkpoint_place import place
from orchestrator.config import Configuration
from orchestrator.errors import ConfigurationError, EnvironmentUnfitError
from orchestrator.nodes import publish
from orchestrator.store import Store, set_aside
from orchestrator.teacher import fit
from orchestrator.teacher.frozen import CARD

log = logging.getLogger(__name__)
Told = Callable[[int, dict[str, float]], None]


class AnyDesk(Protocol):
    """Who trains: worker groups, or this process."""

    def submit(self, trial: str, specification: dict[str, Any]) -> None:
        """Hand over a trial."""

    def next_report(self, trial: str, silence_s: float) -> dict[str, Any]:
        """Its next record."""

    def stop(self, trial: str) -> None:
        """End it early."""


def check_weights(store: Store, configuration: Configuration, data: Path) -> None:
    """Take given weights over before anything expensive starts; ConfigurationError when they do not fit.

    A teacher in the store that is damaged is set aside, and made anew.
    """
    teacher = configuration.teacher
    if teacher is None:
        return
    folder = fit.place(store, configuration, data)
    if damage := fit.damage(folder):
        log.warning("%s: the teacher is kept in %s and made anew", damage, set_aside(folder))
    if teacher.network.weights and not fit.card(folder):
        fit.adopt_weights(folder, teacher, data)


def ready(store: Store, configuration: Configuration, data: Path, desk: AnyDesk, told: Told) -> tuple[Path, dict[str, Any], float]:
    """The teacher's folder, its card and the seconds that it cost; `told` hears of every epoch of the fitting."""
    start = time.monotonic()
    folder = fit.place(store, configuration, data)
    wait_s = configuration.resources.wait_s
    lock = FileLock(f"{folder}.lock")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not fit.card(folder):
        try:
            with lock.acquire(timeout=wait_s):
                if not fit.card(folder):
                    _fit(store, folder, configuration, data, desk, told)
        except Timeout as error:
            raise EnvironmentUnfitError(
                f"waited {wait_s:g} s for another run to fit the teacher: see what holds {folder}.lock"
            ) from error
    publish(store, folder, CARD)
    card = fit.card(folder)
    assert card is not None
    return folder, card, time.monotonic() - start


def _fit(store: Store, folder: Path, configuration: Configuration, data: Path, desk: AnyDesk, told: Told) -> None:
    specification = fit.specification(folder, configuration, data).model_copy(update=store.shared)
    home = place(store, specification.folder)
    desk.submit(specification.name, specification.plain())
    while True:
        record = desk.next_report(specification.name, configuration.resources.wait_s)
        if record.get("failed"):
            raise ConfigurationError(
                f"the teacher could not be fitted: {record['failed']}; change teacher.training or teacher.network"
            )
        told(record["epoch"], record["metrics"])
        if record.get("done"):
            home.bring()
            fit.adopt_fitted(folder, configuration, data, record["metrics"])
            home.remove()
            return
