"""Check that the methods of a run work with several teachers."""

import contextlib

from methods import METHODS, Method, SettingsError, build_method
from methods.capabilities import UsesFeatureMaps, teacher_lr, uses_teacher_bank, weighting_plan
from orchestrator.config.changed_space import list_searched_keys
from orchestrator.config.method_variants import build_variants
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import list_methods
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.text import quote

KIND = "ensemble.weights"


def check_several_teachers(configuration: Configuration, searching: bool) -> None:
    """Raise ConfigurationError if a method needs more of several teachers than their logits.

    Args:
        configuration: The configuration; with one teacher nothing is checked.
        searching: Whether to include the methods and the settings of the search.
    """
    if not configuration.teachers:
        return
    kinds = list_kinds(configuration, searching)
    epochs = configuration.training.epochs
    for name in list_methods(configuration, "sweep" if searching else "train"):
        for method in build_variants(configuration, name, searching):
            if need := _excessive_need(method, epochs, "learned" in kinds):
                working = ", ".join(_list_working_methods(epochs))
                raise ConfigurationError(
                    f"method {quote(name)} {need}, and the run has {len(configuration.teachers)} "
                    f"teachers: set teachers to null and give one as teacher, or choose one of "
                    f"{working}"
                ).with_details("method.name", name, working)


def list_kinds(configuration: Configuration, searching: bool) -> set[str]:
    """Return the configured kind of the weights, or all kinds that the search may choose."""
    if not searching:
        return {configuration.ensemble.weights}
    search = configuration.search
    kinds = set(list_searched_keys(configuration).get(KIND, (configuration.ensemble.weights,)))
    return kinds | {point[KIND] for point in search.configurations if KIND in point}


def _excessive_need(method: Method, epochs: int, learned: bool) -> str:
    """Return what a method needs that several teachers do not have, as text; "" if nothing."""
    if method.needs.features or uses_teacher_bank(method, epochs):
        return "needs the features of a single teacher"
    if isinstance(method, UsesFeatureMaps):
        return "needs the feature maps of a single teacher"
    if teacher_lr(method):
        return "trains a single teacher"
    if learned and weighting_plan(method, epochs):
        return "weights samples by fixed logits, which ensemble.weights = learned would change"
    return ""


def _list_working_methods(epochs: int) -> list[str]:
    """Return the methods that use a teacher's logits, and no more with their default settings."""
    names = []
    for name in METHODS:
        with contextlib.suppress(SettingsError):  # of user code, without defaults
            method = build_method(name, {})
            if method.needs.teacher and not _excessive_need(method, epochs, learned=False):
                names.append(name)
    return names
