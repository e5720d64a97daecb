"""Find the declaration of a key: of the configuration, of a network, or of a method."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config.declarations import setting_fields
from orchestrator.config.fields import Choice, list_types
from orchestrator.config.schema import LETTERS, Configuration, Teacher
from orchestrator.core.errors import ConfigurationError, suggest_name

METHOD_SECTION = "method"
LETTER = "LETTER"  # stands for the letter of any peer


@dataclass(frozen=True)
class Key:
    """Declaration of a key.

    Attributes:
        name: The dotted name.
        field: The declaration of the value; None for a peer and for a method, which are sections.
        section: The section that the key holds, or None.
        owner: The network or the method to which the key belongs, such as `network cnn`.
        fields: The declarations of the keys below the key, by name.
        parent: The section that contains the key.
        chosen: The network or the method to which the keys below the key belong.
    """

    name: str
    field: FieldInfo | None
    section: type[BaseModel] | None = None
    owner: str = ""
    fields: Mapping[str, FieldInfo] | None = None
    parent: type[BaseModel] | None = None
    chosen: str = ""


def find_section(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a setting holds, or None.

    A `Choice` is returned too; its keys depend on the named object. A list of sections is none.
    """
    if get_origin(annotation) is tuple:
        return None
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def find_key(configuration: Configuration, key: str) -> Key:
    """Return the declaration of a key.

    A method's setting has the key `METHOD.setting`, or `method.setting` for the configured method.
    A network's settings are those of the configured network.

    Args:
        configuration: The configuration, which selects the networks and the method.
        key: The dotted key.

    Raises:
        ConfigurationError: The key does not exist.
    """
    first, *rest = key.split(".")
    if (fields := setting_fields(first)) is not None:
        from methods import METHODS  # imports torch

        current = Key(first, None, METHODS[first].Settings, fields=fields, chosen=f"method {first}")
        path = first
    else:
        current, path = Key("", None, Configuration, fields=Configuration.model_fields), ""
        rest = [first, *rest]
    while rest:
        part, *rest = rest
        if part not in (current.fields or {}):
            raise _unknown(configuration, key, path, list(current.fields or ()))
        path = f"{path}.{part}" if path else part
        current = _declare(configuration, path, part, current)
        if current.field and get_origin(current.field.annotation) is dict and rest:
            if path != "peers":
                return Key(key, current.field, parent=current.parent)  # the mapping has free keys
            letter, *rest = rest
            if letter not in (*LETTERS[1:], LETTER):
                raise _unknown(configuration, key, path, list(LETTERS[1:]))
            path = f"{path}.{letter}"
            current = Key(path, None, current.section, fields=current.fields)
    return current


def _declare(configuration: Configuration, path: str, name: str, parent: Key) -> Key:
    """Return the declaration of a key below a key, with the keys below it."""
    field = (parent.fields or {})[name]
    is_own = parent.section is not None and name in parent.section.model_fields
    is_own = is_own and not path.startswith(f"{parent.chosen.removeprefix('method ')}.")
    section, owner = find_section(field.annotation), "" if is_own else parent.chosen
    if section is None:
        return Key(path, field, owner=owner, parent=parent.section)
    fields, chosen = dict(section.model_fields), ""
    if issubclass(section, Choice):
        chosen, settings = _chosen_settings(configuration, path)
        fields |= settings
    return Key(path, field, section, owner, fields, parent.section, chosen)


def _chosen_settings(configuration: Configuration, path: str) -> tuple[str, dict[str, FieldInfo]]:
    """Return the owner and the settings of the method or the network that is selected at a key."""
    from methods import METHODS
    from orchestrator.models.build import network_settings  # imports torch

    if path == METHOD_SECTION:
        name = configuration.method.name
        known = METHODS[name].Settings.model_fields if name in METHODS else {}
        return f"method {name}", dict(known)
    value: Any = configuration
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
    if configuration.teacher is None and path == "teacher.network":
        value = Teacher().network
    settings = None if value is None else network_settings(value.name)
    if settings is None:
        return "", {}
    return f"network {value.name}", dict(settings.model_fields)


def _unknown(
    configuration: Configuration, key: str, path: str, names: list[str]
) -> ConfigurationError:
    """Return the error about an unknown key, with keys of a similar name."""
    if path and not names:
        return ConfigurationError(f"unknown key {key!r}: {path} has no keys below it").with_details(
            key, None, path
        )
    last = key.rpartition(".")[2]
    same = [name for name in list_keys(configuration) if name.rpartition(".")[2] == last]
    if same:
        hint = f"did you mean {' or '.join(same[:4])}?"
    else:
        hint = suggest_name(key.removeprefix(f"{path}.").partition(".")[0], names)
    return ConfigurationError(f"unknown key {key!r}: {hint}").with_details(
        key, None, tuple(same or names)
    )


def list_keys(configuration: Configuration) -> list[str]:
    """Return the keys of all sections, of the configured networks, and of all methods."""
    from methods import METHODS

    keys: list[str] = []
    pending = [Key("", None, Configuration, fields=Configuration.model_fields)]
    while pending:
        above = pending.pop(0)
        fields = above.fields or {}
        for name, field in fields.items():
            path = f"{above.name}.{name}" if above.name else name
            keys.append(path)
            below = _declare(configuration, path, name, above)
            if path == "peers":
                below = replace(below, name=f"{path}.{LETTER}")
            if path == "peers" or get_origin(field.annotation) is not dict:
                pending.append(below)
    return keys + [
        f"{name}.{setting}"
        for name, method in METHODS.items()
        for setting in method.Settings.model_fields
    ]


def numeric_type(field: FieldInfo) -> type[int] | type[float] | None:
    """Return int or float for the declaration of a number, which may also be null; else None."""
    types = list_types(field.annotation)
    if bool in types:
        return None
    return int if int in types else float if float in types else None
