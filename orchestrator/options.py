"""What options of the command line come to: keys of the configuration, seconds, the name of a run. Starts nothing."""

import re
from datetime import datetime

from orchestrator.config import Configuration
from orchestrator.errors import ConfigurationError
from orchestrator.sweep.space import searched

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def search_changes(trials: int | None, time_budget: str | None, scheduler: str | None) -> list[str]:
    """What these options of a sweep are as `--set` pairs."""
    changes = [f"search.trials={trials}"] if trials is not None else []
    changes += [f"search.time_budget={seconds(time_budget)}"] if time_budget is not None else []
    return changes + ([f"search.scheduler={scheduler}"] if scheduler is not None else [])


def seconds(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h` or `90`; ConfigurationError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise ConfigurationError(f"--time-budget {text!r} is not a time: write 90s, 10m or 2h")
    return float(match[1]) * UNITS[match[2]]


def new_name(configuration: Configuration, kind: str) -> str:
    """What is trained, and when; a search over several methods goes by its project."""
    methods = searched(configuration) if kind == "sweep" else (configuration.method.name,)
    what = methods[0] if len(methods) == 1 else re.sub(r"[^A-Za-z0-9]+", "-", configuration.project).strip("-") or "sweep"
    return f"{what}-{datetime.now():%Y%m%d-%H%M%S}"
