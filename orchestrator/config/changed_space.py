"""Change the search space of a method as `search.space` describes it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic.fields import FieldInfo

from orchestrator.config.conditional_space import iterate_branches
from orchestrator.config.declarations import received, setting_fields
from orchestrator.config.key_fields import METHOD_SECTION, find_key, find_section, numeric_type
from orchestrator.config.schema import Configuration, Network
from orchestrator.config.search_schema import SearchRange
from orchestrator.config.trial import network_key
from orchestrator.core.errors import ConfigurationError
from search_spaces import SPACES, Trial

Changes = Mapping[str, SearchRange]
Suggest = Callable[[Trial], None]


class ChangedTrial:
    """Trial that suggests each changed parameter from its changed range or choices.

    Args:
        trial: The trial that draws.
        changes: The changes, by names in the space of the method.
    """

    def __init__(self, trial: Trial, changes: Changes) -> None:
        self.trial, self.changes = trial, changes

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """Return a number in the changed range, or one of the changed choices."""
        change = self.changes.get(name)
        if change is None:
            return self.trial.suggest_float(name, low, high, log=log, step=step)
        if change.choices is not None:
            return float(self.trial.suggest_categorical(name, tuple(map(float, change.choices))))
        low, high, log, step = change.replace_in(low, high, log, step)
        return self.trial.suggest_float(name, low, high, log=log, step=step)

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        """Return an integer in the changed range, or one of the changed choices."""
        change = self.changes.get(name)
        if change is None:
            return self.trial.suggest_int(name, low, high, log=log, step=step)
        if change.choices is not None:
            return int(self.trial.suggest_categorical(name, tuple(map(int, change.choices))))
        lowest, highest, log, distance = change.replace_in(low, high, log, step)
        return self.trial.suggest_int(
            name, int(lowest), int(highest), log=log, step=int(distance or 1)
        )

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the changed choices, or a number in the changed range."""
        change = self.changes.get(name)
        if change is None:
            return self.trial.suggest_categorical(name, choices)
        if change.choices is not None:
            return self.trial.suggest_categorical(name, change.choices)
        if all(isinstance(choice, int) for choice in choices):
            return self.suggest_int(name, min(choices), max(choices))
        return self.suggest_float(name, min(choices), max(choices))


def is_configuration_key(key: str) -> bool:
    """Return whether a key of `search.space` is a key of the configuration.

    Any other key is a setting of a method.
    """
    section, dot, _ = key.partition(".")
    return bool(dot) and section not in SPACES and section != METHOD_SECTION


def name_in_space(key: str, method: str) -> str | None:
    """Return the name in the space of a method of a key that a user gave.

    Args:
        key: `METHOD.setting`, `method.setting`, `setting`, or a key of the configuration.
        method: The name of the method.

    Returns:
        The name; None if the key is a setting of another method alone.
    """
    section, dot, setting = key.partition(".")
    if not dot or is_configuration_key(key):
        return key
    return setting if section in (method, METHOD_SECTION) else None


def has_setting(method: str, name: str) -> bool:
    """Return whether a method has a setting."""
    return name in (setting_fields(method) or {})


def list_changes(configuration: Configuration, method: str) -> dict[str, SearchRange]:
    """Return the changes of the space of a method, by names in its space."""
    changes: dict[str, SearchRange] = {}
    for key, change in configuration.search.space.items():
        name = name_in_space(key, method)
        if name is not None and (is_configuration_key(key) or has_setting(method, name)):
            changes[name] = change
    return changes


def list_searched_keys(configuration: Configuration) -> dict[str, tuple[Any, ...]]:
    """Return the values of each key of the configuration that `search` names.

    These are all values of choices, and the ends of a range.
    """
    return dict(configuration.search.extra_space) | {
        key: change.ends
        for key, change in configuration.search.space.items()
        if is_configuration_key(key)
    }


def fixed_names(changes: Changes) -> frozenset[str]:
    """Return the names of changed parameters with one choice, which every trial records."""
    return frozenset(
        name for name, change in changes.items() if change.choices and len(change.choices) == 1
    )


def list_added_names(
    configuration: Configuration, method: str, frozen: Mapping[str, Any]
) -> list[str]:
    """Return the changed parameters that no branch of the space of a method contains.

    The learning rates of peers are common to all methods and are not among them.

    Args:
        configuration: The configuration of the sweep.
        method: The name of the method.
        frozen: The frozen values.
    """
    changes = list_changes(configuration, method)
    suggest = partial(_suggest_changed, method, changes)
    rates = {f"peers.{letter}.training.learning_rate" for letter in configuration.peers}
    added = [name for name in changes if name not in rates]
    branches = iterate_branches(suggest, frozen, fixed_names(changes))
    while added and (branch := next(branches, None)):
        added = [name for name in added if name not in branch.values]
    return added


def changed_suggest(
    configuration: Configuration, method: str, frozen: Mapping[str, Any]
) -> Suggest:
    """Return the function that draws from the changed space of a method.

    A changed parameter that no branch of the space contains is drawn after all others.

    Args:
        configuration: The configuration of the sweep.
        method: The name of the method.
        frozen: The frozen values.
    """
    changes = list_changes(configuration, method)
    if not changes:
        return SPACES[method].suggest
    added = {
        name: _added_type(configuration, method, name, changes[name])
        for name in list_added_names(configuration, method, frozen)
    }

    def suggest(trial: Trial) -> None:
        _suggest_changed(method, changes, trial)
        for name, kind in added.items():
            _suggest_added(trial, name, changes[name], kind)

    return suggest


def _suggest_changed(method: str, changes: Changes, trial: Trial) -> None:
    SPACES[method].suggest(ChangedTrial(trial, changes))


def _added_type(
    configuration: Configuration, method: str, name: str, change: SearchRange
) -> type | None:
    """Return the numeric type of an added range; None for choices."""
    if change.choices:
        return None
    known = received()
    if known and name in known.numbers:
        return known.numbers[name]
    return numeric_type(find_field(configuration, method, name))


def _suggest_added(trial: Trial, name: str, change: SearchRange, kind: type | None) -> None:
    if change.choices:
        trial.suggest_categorical(name, change.choices)
        return
    low, high, log, step = change.replace_in(0.0, 0.0, False, None)
    if kind is int:
        trial.suggest_int(name, int(low), int(high), log=log, step=int(step or 1))
    else:
        trial.suggest_float(name, low, high, log=log, step=step)


def find_field(configuration: Configuration, method: str, name: str) -> FieldInfo:
    """Return the declaration of a parameter.

    Args:
        configuration: The configuration of the sweep.
        method: The name of the method.
        name: The name in the space of the method. The setting of a network may be that of a
            network that the search chooses.

    Raises:
        ConfigurationError: There is no such parameter, or it is a section.
    """
    section, dot, setting = name.rpartition(".")
    if not dot and (found := (setting_fields(method) or {}).get(name)):
        return found
    networks = {network_key(key): each.network for key, each in configuration.students.items()}
    if section in networks and setting not in Network.model_fields:
        from orchestrator.models.build import network_settings, setting_type  # imports torch

        searched = list_searched_keys(configuration)
        open_networks = []
        for network in searched.get(f"{section}.name", (networks[section].name,)):
            settings = network_settings(network)
            if settings is not None and setting in settings.model_fields:
                return settings.model_fields[setting]
            if settings is not None and settings.model_config.get("extra") == "allow":
                open_networks.append(network)
        if open_networks:
            # the constructor of a library has the setting, or refuses it before the search
            change = configuration.search.space.get(name)
            types = (setting_type(network, setting) for network in open_networks)
            kind = next((kind for kind in types if kind), None)
            return FieldInfo(annotation=_open_annotation(change, kind))
    field = find_key(configuration, name if dot else f"{method}.{name}").field
    if field is None or find_section(field.annotation):
        raise ConfigurationError(f"{name} is a section: give a key below it").with_details(name)
    return field


def _open_annotation(change: SearchRange | None, kind: type | None) -> Any:
    """Return the annotation of a setting that the constructor of a library defines.

    Args:
        change: The searched values; None if the setting is not searched.
        kind: The type of the setting; None if it is unknown.
    """
    if change is None or change.choices is not None:
        return Any
    if kind is None:
        grid = (change.low, change.step)
        return int if all(each is not None and each == int(each) for each in grid) else float
    return kind
