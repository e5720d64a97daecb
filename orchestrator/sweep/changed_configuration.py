"""Check a configuration against the sweep that is resumed; an error names each difference."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.fields import MOST_TRIALS
from orchestrator.config.loader import build, plain_values
from orchestrator.config.path_settings import move_paths, require_paths, resolve_paths
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import with_single_method
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import read_summary
from orchestrator.data.preprocessing import resolve_augmentation
from orchestrator.store import run_lock
from orchestrator.store.records import Sweep
from orchestrator.sweep.space_snapshot import Described, differences

GROWING = {"search": ("trials", "time_budget")}  # set by `--trials` and `--time-budget`
# `auto` is resolved when a sweep starts
SETTLED = re.compile(r"(teacher|teachers\.\d+)\.mode|data\.augmentation")
RESUME = "--resume"
NAMED = 5  # differences in one message


def change_configuration(
    sweep: Sweep,
    trials: int | None,
    time_budget_s: float | None,
    file: Path | None,
    address: str | None = None,
    pairs: Sequence[str] = (),
    subject: str = "",
) -> Configuration:
    """Return the configuration with which a sweep or training resumes.

    Args:
        sweep: The sweep.
        trials: Value of `--trials`; None keeps the number of trials.
        time_budget_s: Value of `--time-budget`; None keeps the budget.
        file: Value of `--config`; it must agree with the sweep.
        address: Address of the Ray cluster; None keeps it.
        pairs: `--set` pairs with the current paths of data, weights and cache.
        subject: The option or argument that names the sweep; "" for `--resume NAME`.

    Raises:
        ConfigurationError: The changes would make a different sweep, or another process runs it.
    """
    subject = subject or f"{RESUME} {sweep.name}"
    if sweep.alive:
        raise ConfigurationError(
            f"{subject}: {run_lock.describe_driver(sweep.folder)}"
        ).with_details(subject.split()[0], sweep.name, "a sweep that no process runs")
    if sweep.kind == "train" and (trials, time_budget_s) != (None, None):
        raise ConfigurationError(
            f"--resume {sweep.name} is a single training: leave out --trials and --time-budget"
        ).with_details("--resume", sweep.name, "without --trials and --time-budget")
    search = sweep.configuration.search
    if trials is not None:
        _require_growth(sweep, trials, "--" if subject.startswith("--") else "")
    if file is not None:
        _require_same_file(sweep, file)
    values = move_paths(sweep.configuration, list(pairs)).plain()
    values["search"]["trials"] = search.trials if trials is None else trials
    values["search"]["time_budget"] = search.time_budget if time_budget_s is None else time_budget_s
    unsettled = (
        sweep.configuration.data.augmentation == "auto" and (sweep.folder / "data.json").is_file()
    )
    summary = read_summary(sweep.folder) if unsettled else None
    values["data"]["augmentation"] = resolve_augmentation(sweep.configuration.data, summary)
    values["resources"]["address"] = (
        sweep.configuration.resources.address if address is None else (address or None)
    )
    configuration = build(values)
    require_paths(sweep.name, configuration)
    return with_single_method(configuration) if sweep.kind == "sweep" else configuration


def require_same(sweep: Sweep, present: Described, subject: str = "") -> None:
    """Raise ConfigurationError if the search space or the data of a sweep have changed.

    The error names each difference. `subject` is as for `change_configuration`.
    """
    subject = subject or f"{RESUME} {sweep.name}"
    changes = differences(sweep.described, present)
    if changes:
        raise ConfigurationError(
            f"{subject}: {_join_changes(changes)}: restore the original, or start another sweep "
            f"under a new name"
        ).with_details(subject.split()[0], tuple(changes), "unchanged since the sweep started")


def _require_growth(sweep: Sweep, trials: int, dashes: str) -> None:
    search = sweep.configuration.search
    if search.scheduler == "pbt" and trials != search.trials:
        raise ConfigurationError(
            f"{dashes}trials {trials} is not allowed: the population of {sweep.name!r} always has "
            f"{search.trials} trials; leave {dashes}trials out"
        ).with_details(f"{dashes}trials", trials, (search.trials, search.trials))
    least = max(search.trials, len(sweep.trials))
    if trials < least:
        raise ConfigurationError(
            f"{dashes}trials {trials} is less than the {least} trials of {sweep.name!r}: give at "
            f"least {least}"
        ).with_details(f"{dashes}trials", trials, (least, MOST_TRIALS))


def _require_same_file(sweep: Sweep, file: Path) -> None:
    """Require that the values given in the file are those of the sweep.

    Values that the file leaves to the defaults are taken from the sweep.
    """
    file_values, given_keys = plain_values(file)
    advice = (
        "leave --config out, because a resume uses the sweep's own configuration, or start another "
        "sweep under a new --name"
    )
    require_same_values(
        sweep, given_keys, resolve_paths(file_values), f"--config {file}", "--config", advice
    )


def require_same_values(
    sweep: Sweep,
    given_keys: dict[str, Any],
    configuration: Configuration,
    source: str,
    field: str = "resume",
    advice: str = "give the values of the run, or start another run",
) -> None:
    """Require that given values are those of the sweep.

    Args:
        sweep: The sweep.
        given_keys: Nested sections whose keys are the given ones.
        configuration: A configuration with the given values.
        source: Source of the values, the begin of a message.
        field: Option or argument that an error names.
        advice: The end of a message.

    Raises:
        ConfigurationError: A value differs.
    """
    changes = _list_changes(given_keys, configuration.plain(), sweep.configuration.plain(), "")
    if changes:
        raise ConfigurationError(f"{source}: {_join_changes(changes)}: {advice}").with_details(
            field, tuple(changes), "the configuration of the sweep"
        )


def _list_changes(
    given_keys: dict[str, Any], file_values: Any, sweep_values: Any, path: str
) -> list[str]:
    changes: list[str] = []
    for key, inner in given_keys.items():
        if path + key in [
            f"{section}.{name}" for section, names in GROWING.items() for name in names
        ]:
            continue
        one, other = file_values.get(key), sweep_values.get(key)
        if key == "teachers" and one and other and len(inner) == len(one) == len(other):
            for number, given in enumerate(inner):
                changes += _list_changes(given, one[number], other[number], f"{key}.{number}.")
        elif (
            isinstance(inner, dict)
            and isinstance(one, dict)
            and isinstance(other, dict)
            and set(inner) <= set(one)
        ):
            changes += _list_changes(inner, one, other, f"{path}{key}.")
        elif one != other and not (SETTLED.fullmatch(path + key) and one == "auto"):
            changes.append(f"{path}{key} = {one}, and the sweep has {other}")
    return changes


def _join_changes(changes: list[str]) -> str:
    more = f"; and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    return "; ".join(changes[:NAMED]) + more
