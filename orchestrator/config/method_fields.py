"""Return the declarations of the settings of methods, which a process can have without torch."""

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

Fields = Mapping[str, FieldInfo]
_received: dict[str, dict[str, FieldInfo]] = {}


def setting_fields(method: str) -> Fields | None:
    """Return the declarations of a method's settings by name; None if there is no such method.

    This imports torch, unless `receive_fields` was called.
    """
    if _received:
        return _received.get(method)
    from methods import METHODS

    return METHODS[method].Settings.model_fields if method in METHODS else None


def setting_default(method: str, name: str) -> Any:
    """Return the default of a setting that a method has."""
    return (setting_fields(method) or {})[name].default


def list_fields() -> dict[str, dict[str, FieldInfo]]:
    """Return the declarations of the settings of all methods, for another process."""
    from methods import METHODS

    return {name: dict(method.Settings.model_fields) for name, method in METHODS.items()}


def receive_fields(fields: Mapping[str, dict[str, FieldInfo]]) -> None:
    """Take the declarations that `list_fields` returned in another process of this program."""
    _received.update(fields)
