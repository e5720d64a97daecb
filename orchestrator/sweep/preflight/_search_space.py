"""Check `search.space` and `search.points` against the settings and the search spaces."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from pydantic.fields import FieldInfo

from methods import METHODS, SettingsError, allowed_values, describe_allowed, is_allowed
from methods.settings import list_choices
from orchestrator.config.changed_space import (
    find_field,
    has_setting,
    is_configuration_key,
    list_added_names,
    list_changes,
    name_in_space,
)
from orchestrator.config.conditional_space import SpaceBranch, list_branches
from orchestrator.config.extra_space import check_key
from orchestrator.config.key_fields import METHOD_SECTION, numeric_type
from orchestrator.config.schema import Configuration
from orchestrator.config.search_schema import SearchRange
from orchestrator.config.search_space import (
    complete_point,
    count_excluded_points,
    frozen_values,
    list_rate_branches,
    list_space_branches,
    searched_methods,
)
from orchestrator.config.trial import Parameters, apply, network_key
from orchestrator.core.errors import ConfigurationError, UserError, suggest_name
from orchestrator.reporting.terminal.methods_table import describe_condition
from orchestrator.sweep.space_snapshot import list_space_changes
from search_spaces import SPACES, Trial

FIELD = "search.space"
SECTIONS = ("training", "student", "peers")  # with keys that may differ between trials


def check_space(configuration: Configuration) -> None:
    """Check every change of the search space.

    Raises:
        ConfigurationError: A key does not exist or is not searched, a value is not allowed, or a
            range is empty.
    """
    if not configuration.search.space:
        return
    _refuse_configurations(configuration, FIELD)
    for key, change in configuration.search.space.items():
        if key in configuration.search.freeze or key in configuration.search.extra_space:
            other = "freeze" if key in configuration.search.freeze else "extra_space"
            raise _refusal(
                key,
                f"is also in search.{other}: remove it from one of them",
                f"not in search.{other}",
            )
        if is_configuration_key(key):
            _check_configuration_key(configuration, key, change)
        else:
            _check_setting(configuration, key, change)
    for method in searched_methods(configuration):
        _check_added_names(configuration, method)
        _check_ranges(configuration, list_space_branches(configuration, method))
    _check_ranges(configuration, list_rate_branches(configuration).values())


def _refuse_configurations(configuration: Configuration, field: str) -> None:
    if configuration.search.configurations:
        raise ConfigurationError(
            f"{field} has no effect with search.configurations, which fix every trial: leave one "
            f"of the two out"
        ).with_details(field, None, "without search.configurations")


def _refusal(
    key: str, problem: str, allowed: object = None, value: object = None
) -> ConfigurationError:
    return ConfigurationError(f"{FIELD}.{key} {problem}").with_details(
        f"{FIELD}.{key}", key if value is None else value, allowed
    )


def _check_configuration_key(configuration: Configuration, key: str, change: SearchRange) -> None:
    """Check a change of a key of the configuration: its name, its type and its values."""
    section, known = key.partition(".")[0], (*searched_methods(configuration), *SECTIONS)
    if section not in Configuration.model_fields:
        raise _refusal(
            key,
            f"is neither a setting of a method nor a key of the configuration: "
            f"{suggest_name(section, known)}",
            known,
        )
    check_key(configuration, key, FIELD)
    try:
        field = find_field(configuration, searched_methods(configuration)[0], key)
    except ConfigurationError as error:
        raise ConfigurationError.from_error(error, f"{FIELD}: {error}", FIELD) from error
    _require_number(key, change, field)
    sections = list(map(network_key, configuration.students))
    section, _, setting = key.rpartition(".")
    if section in sections and setting not in ("name", "weights"):
        if field.annotation is not Any:  # else the constructor of a library checks the values
            _check_values(key, change, field)
        return
    try:
        for value in change.ends:
            apply(configuration, {key: value})
    except UserError as error:
        raise ConfigurationError.from_error(error, f"{FIELD}: {error}", FIELD) from error


def _check_setting(configuration: Configuration, key: str, change: SearchRange) -> None:
    """Check a change of a setting of one method, or of all methods that have it."""
    methods, section = searched_methods(configuration), key.partition(".")[0]
    if "." in key and section != METHOD_SECTION and section not in methods:
        raise _refusal(
            key,
            f"is a setting of {section}, which is not searched: give {section} in "
            f"search.methods, or leave the key out",
            methods,
        )
    names = {method: name_in_space(key, method) for method in methods}
    owners = {method: name for method, name in names.items() if name and has_setting(method, name)}
    if not owners:
        known = {
            setting
            for method, name in names.items()
            if name
            for setting in METHODS[method].Settings.model_fields
        }
        setting = key.rpartition(".")[2]
        raise _refusal(
            key,
            f"is not a setting of {' or '.join(m for m in names if names[m])}: "
            f"{suggest_name(setting, known)}",
            tuple(sorted(known)),
        )
    for method, name in owners.items():
        same = [
            other for other in configuration.search.space if name_in_space(other, method) == name
        ]
        if len(same) > 1:
            raise _refusal(
                key,
                f"and {FIELD}.{same[0] if same[1] == key else same[1]} are the same parameter "
                f"of method {method}: remove one of them",
                "once",
            )
        if name in frozen_values(configuration, method):
            raise _refusal(
                key,
                "is given under method, where it is fixed: remove it from one of them",
                f"without method.{name}",
            )
        field = METHODS[method].Settings.model_fields[name]
        _require_number(key, change, field)
        _check_values(key, change, field)


def _require_number(key: str, change: SearchRange, field: FieldInfo) -> None:
    """Require a number for a range, and whole numbers for the range of a whole number."""
    kind = numeric_type(field)
    if change.choices is None and kind is None:
        raise _refusal(
            key,
            "is not a number and has no range: give {choices: [...]}",
            "choices",
            change.model_dump(),
        )
    numbers = {"low": change.low, "high": change.high, "step": change.step}
    for name, number in numbers.items():
        if kind is int and number is not None and number != int(number):
            raise _refusal(
                key,
                f"has {name} = {number:g}, which is not a whole number: give a whole number",
                int,
                number,
            )


def _check_values(key: str, change: SearchRange, field: FieldInfo) -> None:
    """Require that a setting of a method or a network accepts all values."""
    for value in change.ends:
        if not is_allowed(field, value):
            raise _refusal(
                key,
                f"= {value!r} is not allowed: give {describe_allowed(field)}",
                allowed_values(field),
                value,
            )


def _check_added_names(configuration: Configuration, method: str) -> None:
    """Require that parameters that are added to a space have an effect, and complete ranges."""
    changes = list_changes(configuration, method)
    frozen = frozen_values(configuration, method)
    every_choice = list_branches(method, {}, partial(_suggest_every_choice, method))
    for name in list_added_names(configuration, method, frozen):
        change = changes[name]
        if any(name in branch.values for branch in every_choice):
            raise _refusal(
                name,
                f"has no effect, because method {method} searches {name} only"
                f"{describe_condition(name, every_choice)}: search or give that too, or leave the "
                f"key out",
                "with the choice that it depends on",
            )
        if change.choices is None and (change.low is None or change.high is None):
            raise _refusal(
                name,
                f"is not in the search space of method {method}: give low and high",
                "low and high",
                change.model_dump(),
            )


class _EveryChoice:
    """Trial that offers every choice that a method allows."""

    def __init__(self, trial: Trial, method: str) -> None:
        self.fields = METHODS[method].Settings.model_fields
        self.suggest_float, self.suggest_int = trial.suggest_float, trial.suggest_int
        self.trial = trial

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of all choices that the method has for a text or for true and false."""
        field = self.fields.get(name)
        if field and field.annotation is bool:
            choices = (*choices, *(value for value in (False, True) if value not in choices))
        elif field:
            choices = list_choices(field) or choices
        return self.trial.suggest_categorical(name, choices)


def _suggest_every_choice(method: str, trial: Trial) -> None:
    SPACES[method].suggest(_EveryChoice(trial, method))


def _check_ranges(configuration: Configuration, branches: Iterable[SpaceBranch]) -> None:
    """Require that changed ranges, with what they leave to the space, are not empty."""
    for branch in branches:
        for name, (low, high, log) in branch.ranges.items():
            if low >= high:
                raise _refusal(
                    name,
                    f"has low = {low:g} and high = {high:g}: give low below high",
                    "low below high",
                    (low, high),
                )
            if log and low <= 0:
                raise _refusal(
                    name,
                    f"has low = {low:g} on the logarithmic scale of the search space: give a "
                    f"number above 0, or log: false",
                    (0, None),
                    low,
                )


def check_points(configuration: Configuration) -> None:
    """Check every point of `search.points`.

    Raises:
        ConfigurationError: A point is outside the search space, or its method refuses it.
    """
    search = configuration.search
    if not search.points:
        return
    _refuse_configurations(configuration, "search.points")
    if len(search.points) > search.trials:
        raise ConfigurationError(
            f"search.points has {len(search.points)} points, but search.trials = {search.trials}: "
            f"give at least {len(search.points)} trials, or fewer points"
        ).with_details("search.trials", search.trials, (len(search.points), None))
    for number, point in enumerate(search.points):
        for name, value in point.items():
            if not isinstance(value, str | int | float | None):
                raise ConfigurationError(
                    f"search.points[{number}]: {name} = {value!r} is not allowed: give a number, "
                    f"text, true, false or null"
                ).with_details(
                    f"search.points[{number}].{name}", value, "a number, text, true, false or null"
                )
    completed: list[Parameters] = []
    for number in range(len(search.points)):
        field, point = f"search.points[{number}]", complete_point(configuration, number)
        if point in completed:
            raise ConfigurationError(
                f"{field} repeats search.points[{completed.index(point)}]: leave it out"
            ).with_details(field, search.points[number], "each once")
        completed.append(point)
        try:
            trial = apply(configuration, point)
            METHODS[trial.method.name].Settings.build(trial.method.settings)
        except (UserError, SettingsError) as error:
            raise ConfigurationError.from_error(error, f"{field}: {error}", field) from error


def describe_space(configuration: Configuration) -> list[str]:
    """Return what `search.space` and `search.points` change, for the plan."""
    lines = list_space_changes(configuration) + describe_excluded_points(configuration)
    if number := len(configuration.search.points):
        first = "trial is" if number == 1 else f"{number} trials are"
        lines.append(f"the first {first} given by search.points")
    return lines


def describe_excluded_points(configuration: Configuration) -> list[str]:
    """Return a sentence about the points of methods that `search.space` excludes, if any."""
    if not configuration.search.space:
        return []
    return [
        f"{count} of {len(SPACES[method].points)} initial points of {method} "
        f"{'is' if count == 1 else 'are'} outside search.space and will not be trained"
        for method, count in count_excluded_points(configuration).items()
    ]
