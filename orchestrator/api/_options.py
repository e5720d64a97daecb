"""Map keyword arguments of the Python functions to keys of the configuration."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.schema import Configuration, Resources, Search, Section, Teacher, Training
from orchestrator.core.errors import ConfigurationError, suggest_name

TOP = ("seed", "project")
SECTIONS: dict[str, type[Section]] = {
    "training": Training,
    "search": Search,
    "resources": Resources,
    "teacher": Teacher,
    "teacher.training": Training,
}


def read_options(
    function: str,
    sections: Sequence[str],
    options: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    top: Sequence[str] = TOP,
    advice: str = "give any other key as settings={...}",
) -> dict[str, Any]:
    """Return the values of keyword arguments by dotted keys of the configuration.

    Args:
        function: The name of the function, for messages.
        sections: The sections whose keys may be given as arguments without their section.
        options: The keyword arguments: keys of the sections, or dotted keys.
        settings: Further values by dotted keys, or whole sections.
        top: Keys outside of a section that may be given.
        advice: What to do with other keys, the end of a message.

    Raises:
        ConfigurationError: An argument is unknown, or a key is given twice.
    """
    known = {name: name for name in top}
    for section in sections:
        known |= {
            name: f"{section}.{name}"
            for name in SECTIONS[section].model_fields
            if name not in known
        }
    values: dict[str, Any] = {}
    for name, value in (*options.items(), *(settings or {}).items()):
        key = known.get(name, name)
        whole = settings is not None and name in settings and name in Configuration.model_fields
        if key == name and "." not in name and name not in top and not whole:
            hint = f"{suggest_name(name, known)}; {advice}"
            raise ConfigurationError(f"{function} has no argument {name!r}: {hint}").with_details(
                name, value, tuple(sorted(known))
            )
        require_free(values, {key: value})
        values[key] = value
    return values


def require_free(values: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Raise ConfigurationError if a key of `more` is given in the values too."""
    for key, value in more.items():
        if twice := next((other for other in values if _overlap(key, value, other, values)), None):
            problem = (
                f"{key} is given twice" if key == twice else f"{key} and {twice} are both given"
            )
            raise ConfigurationError(f"{problem}: leave one of them out").with_details(
                key, value, "given once"
            )


def _overlap(key: str, value: Any, other: str, values: Mapping[str, Any]) -> bool:
    if key.startswith(f"{other}."):
        return _contains(values[other], key.removeprefix(f"{other}."))
    if other.startswith(f"{key}."):
        return _contains(value, other.removeprefix(f"{key}."))
    return key == other


def _contains(section: Any, key: str) -> bool:
    """Return whether a section has a key, or is no section that could have it."""
    return not isinstance(section, Mapping) or key.partition(".")[0] in section


def sort_names_first(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted keys, whole sections first, then names, then their settings."""

    def rank(key: str) -> tuple[bool, bool]:
        return "." in key, not key.endswith(".name")

    return {key: values[key] for key in sorted(values, key=rank)}


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted keys as nested sections."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *path, name = key.split(".")
        section: Any = nested
        for part in path:
            is_list = isinstance(section, list)
            section = section[int(part)] if is_list else section.setdefault(part, {})
        section[name] = copy.deepcopy(value)
    return nested
