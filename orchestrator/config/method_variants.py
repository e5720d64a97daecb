"""A method in every form in which it may be trained: as configured, or with every choice of its search. Knows no study."""

from collections.abc import Iterator

from methods import Method, made
from orchestrator.config.conditional_space import list_branches
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import frozen_values, searched_methods


def build_variants(configuration: Configuration, name: str, searching: bool) -> Iterator[Method]:
    """The method with its settings, or each that the search may choose, at the low end of ranges.

    SettingsError when one of them cannot be; of a search `check_held` says so better.
    """
    settings = [configuration.method.settings if name == configuration.method.name else {}]
    if searching:
        kept = frozen_values(configuration, name)
        settings = [kept | branch.values for branch in list_branches(name, kept)]
    for values in settings:
        yield made(name, {key: value for key, value in values.items() if "." not in key and key not in configuration.search.freeze})


def build_named_variants(configuration: Configuration, name: str, searching: bool) -> str:
    """What else has to be given for `method.` settings to be those of this method, to end a sentence that advises some."""
    theirs = name == configuration.method.name and not (searching and configuration.search.methods)
    return "" if theirs else f" with method.name={name}"


def build_trained_variants(configuration: Configuration, searching: bool) -> tuple[str, ...]:
    """The methods that a sweep searches over, or the one of a training."""
    return searched_methods(configuration) if searching else (configuration.method.name,)


def build_all_variants(configuration: Configuration, searching: bool) -> Iterator[Method]:
    """Every form of every method that may be trained."""
    for name in build_trained_variants(configuration, searching):
        yield from build_variants(configuration, name, searching)
