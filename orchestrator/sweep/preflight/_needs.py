"""Check that a method has the teacher or peers it needs, and name the setting that needs them."""

from collections.abc import Iterator
from typing import Any

from methods import Method, SettingsError, list_choices
from methods.capabilities import UsesFeatureMaps, uses_peers
from orchestrator.config.method_variants import advise_method_name, build_variants
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError


def check_needs(configuration: Configuration, name: str, field: str, searching: bool) -> None:
    """Raise ConfigurationError if a variant of a known method lacks a teacher or peers."""
    for method in build_variants(configuration, name, searching):
        if not _missing_need(configuration, method):
            continue
        missing, (setting, other) = (
            _missing_need(configuration, method),
            _cause(configuration, method),
        )
        other += advise_method_name(configuration, name, searching) if other else ""
        key, value = (
            (f"method.{setting}", getattr(method.settings, setting)) if setting else (field, name)
        )
        subject = f"method {name} with {setting} = {value}" if setting else f"{field} = {name!r}"
        if missing == "teacher":
            alternative = other or (
                "dml" if uses_peers(method) and configuration.peers else "cross_entropy"
            )
            raise ConfigurationError(
                f"{subject} needs a teacher, but `teacher` is null: configure one, or choose "
                f"{alternative}"
            ).with_details(key, value, f"with a teacher, or {alternative}")
        alternative = other or ("kd" if configuration.named_teachers else "cross_entropy")
        raise ConfigurationError(
            f"{subject} trains students that learn from each other, but there are no peers: "
            f"configure peers.b.network, or choose {alternative}"
        ).with_details(key, value, f"with peers, or {alternative}")


def _missing_need(configuration: Configuration, method: Method) -> str:
    """Return which need is missing: teacher or peers; empty if none is."""
    if not configuration.named_teachers and (
        method.needs.teacher or method.needs.features or isinstance(method, UsesFeatureMaps)
    ):
        return "teacher"
    return "peers" if uses_peers(method) and not configuration.peers else ""


def _cause(configuration: Configuration, method: Method) -> tuple[str, str]:
    """Return the setting that causes the need, and a value of it without the need.

    Both are empty if the need does not depend on one setting.
    """
    for setting, value in _other_choices(method):
        try:
            other = type(method)(method.settings.replace(**{setting: value}))
        except SettingsError:
            continue
        if not _missing_need(configuration, other):
            return setting, f"method.{setting}={value}"
    return "", ""


def _other_choices(method: Method) -> Iterator[tuple[str, Any]]:
    """Yield every choice of each setting except the current one."""
    for name, field in type(method.settings).model_fields.items():
        for value in list_choices(field):
            if value != getattr(method.settings, name):
                yield name, value
