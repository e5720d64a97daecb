"""Build each method in every variant that a run may train.

A variant is the configured method, or the method with one combination of its searched choices.
"""

from collections.abc import Iterator

from methods import Method, build_method
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import frozen_values, list_space_branches, searched_methods


def build_variants(configuration: Configuration, name: str, searching: bool) -> Iterator[Method]:
    """Yield the method with its configured settings, or each variant that the search may choose.

    Ranges are at their low end.

    Args:
        configuration: The configuration of the run.
        name: The name of the method.
        searching: Whether the method is searched.

    Raises:
        SettingsError: A variant is invalid; `check_frozen_values` reports a search more clearly.
    """
    settings = [configuration.method.settings if name == configuration.method.name else {}]
    if searching:
        frozen = frozen_values(configuration, name)
        settings = [frozen | branch.values for branch in list_space_branches(configuration, name)]
    for values in settings:
        yield build_method(
            name,
            {
                key: value
                for key, value in values.items()
                if "." not in key and key not in configuration.search.freeze
            },
        )


def advise_method_name(configuration: Configuration, name: str, searching: bool) -> str:
    """Return the end of a sentence of advice about `method.` settings.

    It names the method that must also be given for the settings to apply to it; "" if none must.
    """
    theirs = name == configuration.method.name and not (searching and configuration.search.methods)
    return "" if theirs else f" with method.name={name}"


def trained_methods(configuration: Configuration, searching: bool) -> tuple[str, ...]:
    """Return the names of the methods of a sweep, or the name of a training's method."""
    return searched_methods(configuration) if searching else (configuration.method.name,)


def build_all_variants(configuration: Configuration, searching: bool) -> Iterator[Method]:
    """Yield every variant of every method that a run may train."""
    for name in trained_methods(configuration, searching):
        yield from build_variants(configuration, name, searching)
