"""Convert metrics, params and configurations to the points, params and tags of MLflow runs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import apply
from orchestrator.config.uris import database_uri
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.store import Store
from orchestrator.tracking._writes import Point

PARENT = "parent"  # key of the run of a sweep
SETTING = "setting/"  # prefix of metrics and tags for settings that a weight transfer changes


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def split_by_run(
    number: int, metrics: Mapping[str, float], letters: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the metrics of a trial by the key of their run.

    Metrics of a student lose the letter of the student.
    """
    split: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        first, _, rest = name.partition("/")
        key, plain = (f"{number}/{first}", rest) if first in letters else (str(number), name)
        split.setdefault(key, {})[plain] = value
    return split


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values under dotted names, as text; teachers of a list have their numbers."""
    pairs: dict[str, str] = {}
    for name, value in values.items():
        if name == "teachers":
            value = {str(number): each for number, each in enumerate(value)}
        if isinstance(value, dict):
            inner = flatten(value, f"{prefix}{name}.")
        else:
            inner = {f"{prefix}{name}": str(value)}
        pairs |= inner
    return pairs


def setting_points(parameters: Mapping[str, Any], epoch: int) -> list[Point]:
    """Return the continuous parameters as metric points at step `epoch`."""
    return [
        (f"{SETTING}{name}", value, now_ms(), epoch)
        for name, value in parameters.items()
        if isinstance(value, float)
    ]


def setting_tags(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters that are not continuous as tags."""
    return {
        f"{SETTING}{name}": str(value)
        for name, value in parameters.items()
        if not isinstance(value, float)
    }


def apply_or_base(configuration: Configuration, parameters: Mapping[str, Any]) -> Configuration:
    """Return the configuration of a trial, or the sweep's if the trial's cannot be built.

    Such a trial fails.
    """
    try:
        return apply(configuration, parameters)
    except ConfigurationError:
        return configuration


def tracking_uri(store: Store, configuration: Configuration) -> str:
    """Return the URI that runs are written to: the configured server, or SQLite in the store.

    Use a server for many concurrent writers, which would get "database is locked" from SQLite.
    """
    return configuration.tracking.uri or database_uri(store.database)
