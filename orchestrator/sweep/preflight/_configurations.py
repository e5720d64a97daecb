"""Check a sweep that trains a list of settings and searches nothing."""

import json
from dataclasses import asdict

from methods import METHODS, SettingsError
from orchestrator.config.fields import MOST_TRIALS
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import points, searched_methods
from orchestrator.config.trial import SEED, apply
from orchestrator.core.errors import ConfigurationError


def check_fixed(configuration: Configuration) -> None:
    """Raise ConfigurationError if the trials differ from the list, or one cannot be trained."""
    search = configuration.search
    if not search.configurations:
        if search.seeds:
            raise ConfigurationError(
                f"search.seeds = {list(search.seeds)} are those of search.configurations, "
                f"which is empty: give settings, or leave "
                "it out",
                field="search.seeds",
                value=search.seeds,
                allowed=(),
            )
        return
    if len(set(search.seeds)) < len(search.seeds):
        raise ConfigurationError(
            f"search.seeds = {list(search.seeds)} names a seed twice: name each once",
            field="search.seeds",
            value=search.seeds,
            allowed="each once",
        )
    if search.scheduler == "pbt":
        raise ConfigurationError(
            "search.scheduler = 'pbt' varies settings, and search.configurations holds them: "
            "set search.scheduler=none",
            field="search.scheduler",
            value=search.scheduler,
            allowed=("none",),
        )
    if (trials := len(search.configurations) * max(len(search.seeds), 1)) > MOST_TRIALS:
        raise ConfigurationError(
            f"search.configurations has {len(search.configurations)} settings and search.seeds "
            f"{len(search.seeds)} seeds, which "
            f"are {trials} trials: "
            f"give fewer, for {MOST_TRIALS} trials at most",
            field="search.configurations",
            value=trials,
            allowed=(1, MOST_TRIALS),
        )
    given = points(configuration)
    if search.trials != len(given):
        times = (
            f"{len(search.configurations)} settings x {len(search.seeds)} seeds"
            if search.seeds
            else "settings"
        )
        raise ConfigurationError(
            f"search.trials = {search.trials}, and search.configurations names {len(given)} "
            f"trials ({times}): set "
            f"search.trials={len(given)}",
            field="search.trials",
            value=search.trials,
            allowed=(len(given), len(given)),
        )
    known: dict[str, int] = {}
    for number, one in enumerate(search.configurations):
        same = known.setdefault(_check_one(configuration, number, dict(one)), number)
        if same != number:
            raise ConfigurationError(
                f"search.configurations[{number}] has the settings of "
                f"search.configurations[{same}]: leave it out, or set "
                "search.seeds to train all "
                "of them more than once",
                field=f"search.configurations[{number}]",
                value=dict(one),
                allowed="each once",
            )


def _check_one(configuration: Configuration, number: int, settings: dict[str, object]) -> str:
    """Return all values with which a trial is trained, as text, with defaults of its method."""
    field = f"search.configurations[{number}]"
    if SEED in settings:
        raise ConfigurationError(
            f"{field} names a seed: give all seeds as search.seeds",
            field=f"{field}.{SEED}",
            value=settings[SEED],
            allowed="search.seeds",
        )
    odd = [
        name for name, value in settings.items() if not isinstance(value, str | int | float | None)
    ]
    if odd:
        raise ConfigurationError(
            f"{field}: {odd[0]} = {settings[odd[0]]!r} is not allowed: give a number, text, "
            f"true, false or null",
            field=f"{field}.{odd[0]}",
            value=settings[odd[0]],
            allowed="a number, text, true, false or null",
        )
    try:
        trial = apply(configuration, settings)
    except (ConfigurationError, LookupError, TypeError) as error:
        raise ConfigurationError.from_error(error, f"{field}: {error}", field) from error
    name = trial.method.name
    if name not in searched_methods(configuration):
        raise ConfigurationError(
            f"{field} is of {name!r}, which is not among the methods "
            f"{list(searched_methods(configuration))}: add it",
            field=f"{field}.method.name",
            value=name,
            allowed=tuple(searched_methods(configuration)),
        )
    try:
        resolved = METHODS[name].Settings.build(trial.method.settings)
    except SettingsError as error:
        message = f"{field}: method {name}: {error}; see `python run.py methods`"
        raise ConfigurationError.from_error(error, message, field) from error
    return json.dumps([trial.plain() | {"method": name}, asdict(resolved)], sort_keys=True)
