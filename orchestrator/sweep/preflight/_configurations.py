"""Check a sweep that trains a list of configurations without a search."""

import json

from methods import METHODS, SettingsError
from orchestrator.config.fields import MOST_TRIALS
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import list_initial_points, searched_methods
from orchestrator.config.trial import SEED, apply
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.program import program_name


def check_configurations(configuration: Configuration) -> None:
    """Raise ConfigurationError if `search.trials` differs from the list, or an entry is invalid."""
    search = configuration.search
    if not search.configurations:
        if search.seeds:
            raise ConfigurationError(
                f"search.seeds = {list(search.seeds)} needs search.configurations, which is "
                f"empty: give configurations, or leave search.seeds out"
            ).with_details("search.seeds", search.seeds, ())
        return
    if len(set(search.seeds)) < len(search.seeds):
        raise ConfigurationError(
            f"search.seeds = {list(search.seeds)} contains a seed twice: give each seed once"
        ).with_details("search.seeds", search.seeds, "each once")
    if search.scheduler == "pbt":
        raise ConfigurationError(
            "search.scheduler = 'pbt' varies settings, but search.configurations fixes them: "
            "set search.scheduler=none"
        ).with_details("search.scheduler", search.scheduler, ("none",))
    if (trials := len(search.configurations) * max(len(search.seeds), 1)) > MOST_TRIALS:
        raise ConfigurationError(
            f"search.configurations has {len(search.configurations)} entries and search.seeds "
            f"{len(search.seeds)} seeds, which makes {trials} trials: give fewer, for at most "
            f"{MOST_TRIALS} trials"
        ).with_details("search.configurations", trials, (1, MOST_TRIALS))
    listed = list_initial_points(configuration)
    if search.trials != len(listed):
        if search.seeds:
            times = f"{len(search.configurations)} configurations x {len(search.seeds)} seeds"
        else:
            times = "one for each configuration"
        raise ConfigurationError(
            f"search.trials = {search.trials}, but search.configurations needs {len(listed)} "
            f"trials ({times}): set search.trials={len(listed)}"
        ).with_details("search.trials", search.trials, (len(listed), len(listed)))
    known: dict[str, int] = {}
    for number, entry in enumerate(search.configurations):
        duplicate_of = known.setdefault(
            _resolve_settings(configuration, number, dict(entry)), number
        )
        if duplicate_of != number:
            raise ConfigurationError(
                f"search.configurations[{number}] repeats search.configurations[{duplicate_of}]: "
                f"leave it out, or set search.seeds to train each configuration more than once"
            ).with_details(f"search.configurations[{number}]", dict(entry), "each once")


def _resolve_settings(
    configuration: Configuration, number: int, settings: dict[str, object]
) -> str:
    """Return all values with which a trial is trained, with its method's defaults, as JSON."""
    field = f"search.configurations[{number}]"
    if SEED in settings:
        raise ConfigurationError(
            f"{field} contains a seed: give all seeds in search.seeds"
        ).with_details(f"{field}.{SEED}", settings[SEED], "search.seeds")
    invalid = [
        name for name, value in settings.items() if not isinstance(value, str | int | float | None)
    ]
    if invalid:
        raise ConfigurationError(
            f"{field}: {invalid[0]} = {settings[invalid[0]]!r} is not allowed: give a number, "
            f"text, true, false or null"
        ).with_details(
            f"{field}.{invalid[0]}", settings[invalid[0]], "a number, text, true, false or null"
        )
    try:
        trial = apply(configuration, settings)
    except (ConfigurationError, LookupError, TypeError) as error:
        raise ConfigurationError.from_error(error, f"{field}: {error}", field) from error
    name = trial.method.name
    if name not in searched_methods(configuration):
        raise ConfigurationError(
            f"{field} has method.name = {name!r}, which is not among the searched methods "
            f"{list(searched_methods(configuration))}: add it to search.methods"
        ).with_details(f"{field}.method.name", name, tuple(searched_methods(configuration)))
    try:
        resolved = METHODS[name].Settings.build(trial.method.settings)
    except SettingsError as error:
        message = f"{field}: method {name}: {error}; see `{program_name()} methods`"
        raise ConfigurationError.from_error(error, message, field) from error
    return json.dumps([trial.plain() | {"method": name}, resolved.model_dump()], sort_keys=True)
