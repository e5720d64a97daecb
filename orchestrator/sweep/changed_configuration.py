"""Check a configuration against the sweep that resumes: a refusal names each difference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.fields import MOST_TRIALS
from orchestrator.config.loader import build, plain_values
from orchestrator.config.path_settings import move_paths, require_paths, resolve_paths
from orchestrator.config.resources import resolve_address
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import with_single_method
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import read_summary
from orchestrator.data.preprocessing import resolve_augmentation
from orchestrator.store import run_lock
from orchestrator.store.records import Sweep
from orchestrator.sweep.space_snapshot import Described, differences

GROWING = {"search": ("trials", "time_budget")}  # set by `--trials` and `--time-budget`
SETTLED = ("teacher.mode", "data.augmentation")  # `auto` is resolved when a sweep begins
NAMED = 5  # differences in one sentence


def change_configuration(
    found: Sweep,
    trials: int | None,
    time_budget_s: float | None,
    file: Path | None,
    address: str | None = None,
    pairs: Sequence[str] = (),
) -> Configuration:
    """Return the configuration with which a sweep or training resumes.

    Args:
        found: The sweep.
        trials: Value of `--trials`; None keeps the number of trials.
        time_budget_s: Value of `--time-budget`; None keeps the budget.
        file: Value of `--config`; it must agree with the sweep.
        address: Address of the Ray cluster; None keeps it.
        pairs: `--set` pairs with the present places of data, weights and cache.

    Raises:
        ConfigurationError: The changes would make another sweep, or another process runs it.
    """
    if found.alive:
        raise ConfigurationError(
            f"--resume {found.name}: {run_lock.describe_driver(found.folder)}",
            field="--resume",
            value=found.name,
            allowed="a sweep that no process runs",
        )
    if found.kind == "train" and (trials, time_budget_s) != (None, None):
        raise ConfigurationError(
            f"--resume {found.name}: it is a single training: leave out --trials and --time-budget",
            field="--resume",
            value=found.name,
            allowed="without --trials and --time-budget",
        )
    search = found.configuration.search
    if trials is not None:
        _require_growth(found, trials)
    if file is not None:
        _require_same_file(found, file)
    values = move_paths(found.configuration, list(pairs)).plain()
    values["search"]["trials"] = search.trials if trials is None else trials
    values["search"]["time_budget"] = search.time_budget if time_budget_s is None else time_budget_s
    unsettled = (
        found.configuration.data.augmentation == "auto" and (found.folder / "data.json").is_file()
    )
    summary = read_summary(found.folder) if unsettled else None
    values["data"]["augmentation"] = resolve_augmentation(found.configuration.data, summary)
    values["resources"]["address"] = (
        found.configuration.resources.address if address is None else resolve_address(address)
    )
    configuration = build(values)
    require_paths(found.name, configuration)
    return with_single_method(configuration) if found.kind == "sweep" else configuration


def require_same(found: Sweep, now: Described) -> None:
    """Raise ConfigurationError if the search space or the data have changed since the sweep began.

    The error names each difference.
    """
    different = differences(found.described, now)
    if different:
        raise ConfigurationError(
            f"--resume {found.name}: {_listed(different)}: put back what it was, or begin "
            f"another sweep under a new --name",
            field="--resume",
            value=tuple(different),
            allowed="as the sweep began",
        )


def _require_growth(found: Sweep, trials: int) -> None:
    search = found.configuration.search
    if search.scheduler == "pbt" and trials != search.trials:
        raise ConfigurationError(
            f"--trials {trials}: the population of {found.name!r} has {search.trials} trials "
            f"for its life: leave it out",
            field="--trials",
            value=trials,
            allowed=(search.trials, search.trials),
        )
    has = max(search.trials, len(found.trials))
    if trials < has:
        raise ConfigurationError(
            f"--trials {trials} is less than the {has} trials that {found.name!r} has: give at "
            f"least that many",
            field="--trials",
            value=trials,
            allowed=(has, MOST_TRIALS),
        )


def _require_same_file(found: Sweep, file: Path) -> None:
    """Require that the values given in the file are those of the sweep.

    Values that the file leaves to the defaults are taken from the sweep.
    """
    said, asked = plain_values(file)
    said = resolve_paths(said)
    different = list(_different(asked, said.plain(), found.configuration.plain(), ""))
    if different:
        raise ConfigurationError(
            f"--config {file}: {_listed(different)}: leave --config out, for a sweep goes on "
            f"as it began, or begin another one",
            field="--config",
            value=tuple(different),
            allowed="as the sweep began",
        )


def _different(asked: dict[str, Any], said: Any, has: Any, path: str) -> list[str]:
    found: list[str] = []
    for key, inner in asked.items():
        if path + key in [
            f"{section}.{name}" for section, names in GROWING.items() for name in names
        ]:
            continue
        one, other = said.get(key), has.get(key)
        if (
            isinstance(inner, dict)
            and isinstance(one, dict)
            and isinstance(other, dict)
            and set(inner) <= set(one)
        ):
            found += _different(inner, one, other, f"{path}{key}.")
        elif one != other and not (path + key in SETTLED and one == "auto"):
            found.append(f"{path}{key} = {one}, and the sweep has {other}")
    return found


def _listed(different: list[str]) -> str:
    more = f"; and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return "; ".join(different[:NAMED]) + more
