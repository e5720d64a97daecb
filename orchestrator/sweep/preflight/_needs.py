"""Check that a method has the teacher or peers it needs, and name the setting that needs them."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from methods import Method, Needs, SettingsError
from orchestrator.config.method_variants import advise_method_name, build_variants
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError


def check_needs(configuration: Configuration, name: str, field: str, searching: bool) -> None:
    """Raise ConfigurationError if a variant of a known method lacks a teacher or peers."""
    for method in build_variants(configuration, name, searching):
        if not _missed(configuration, method.needs):
            continue
        wanted, (setting, other) = (
            _missed(configuration, method.needs),
            _cause(configuration, method),
        )
        other += advise_method_name(configuration, name, searching) if other else ""
        key, value = (
            (f"method.{setting}", getattr(method.settings, setting)) if setting else (field, name)
        )
        who = f"method {name} with {setting} = {value}" if setting else f"{field} = {name!r}"
        if wanted == "teacher":
            instead = other or (
                "dml" if method.needs.peer and configuration.peers else "cross_entropy"
            )
            raise ConfigurationError(
                f"{who} needs a teacher and `teacher` is null: configure one, or take {instead}",
                field=key,
                value=value,
                allowed=f"with a teacher, or {instead}",
            )
        instead = other or ("kd" if configuration.teacher else "cross_entropy")
        raise ConfigurationError(
            f"{who} trains students that hear one another, and there are no peers: configure "
            f"peers.b.network, or take {instead}",
            field=key,
            value=value,
            allowed=f"with peers, or {instead}",
        )


def _missed(configuration: Configuration, needs: Needs) -> str:
    """Return what is needed and missing; empty if nothing is."""
    if configuration.teacher is None and (needs.teacher or needs.features or needs.bank):
        return "teacher"
    return "peers" if needs.peer and not configuration.peers else ""


def _cause(configuration: Configuration, method: Method) -> tuple[str, str]:
    """Return the setting whose value causes the need, and the other value to take.

    Both are empty if all values cause it.
    """
    for setting, value in _others(method):
        try:
            other = type(method)(replace(method.settings, **{setting: value}))
        except SettingsError:
            continue
        if not _missed(configuration, other.needs):
            return setting, f"method.{setting}={value}"
    return "", ""


def _others(method: Method) -> Iterator[tuple[str, Any]]:
    """Yield every choice of the settings that is not taken."""
    for item in fields(method.settings):
        for value in item.metadata["choices"] or ():
            if value != getattr(method.settings, item.name):
                yield item.name, value
