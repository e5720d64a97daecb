"""Complete the settings of a comparison without a search: listed ones, else published ones."""

from collections.abc import Sequence
from typing import Any

from methods import METHODS
from orchestrator.config.schema import Choice, Configuration
from orchestrator.config.search_space import list_initial_points, qualify_name
from orchestrator.config.trial import METHOD, Parameters
from orchestrator.core.errors import ConfigurationError, suggest_name

FIELD = "search.configurations"


def complete_configurations(configuration: Configuration, methods: Sequence[str]) -> Configuration:
    """Return a comparison's configuration with one entry per method in `search.configurations`.

    A method without an entry gets the first initial point of its search space. Entries of methods
    that are not compared are left out, which `Configuration.yielded` reports.

    Args:
        configuration: A configuration with `search.configurations`.
        methods: The compared methods.

    Raises:
        ConfigurationError: An entry does not name its method, or names that of another entry.
    """
    listed = _list_by_method(configuration)
    entries = tuple(
        {METHOD: method}
        | {
            qualify_name(key.removeprefix(f"{method}."), method): value
            for key, value in listed.get(method, _first_point(configuration, method)).items()
        }
        for method in methods
    )
    yielded = configuration.yielded
    yielded.pop("search.trials", None)  # the number follows from the compared methods
    if unused := [method for method in listed if method not in methods]:
        yielded[FIELD] = (
            f"the entries of {', '.join(unused)} are left out, because these methods are not "
            f"compared"
        )
    search = configuration.search.model_copy(
        update={"configurations": entries, "trials": len(entries)}
    )
    return configuration.model_copy(update={"search": search}).with_yielded(yielded)


def listed_settings(configuration: Configuration) -> dict[str, Parameters]:
    """Return the settings of each method of a completed configuration, by names in its space."""
    return {
        str(entry[METHOD]): {
            key.removeprefix(f"{entry[METHOD]}."): value
            for key, value in entry.items()
            if key != METHOD
        }
        for entry in configuration.search.configurations
    }


def _list_by_method(configuration: Configuration) -> dict[str, Parameters]:
    """Return the listed settings by method, without the method's name."""
    listed: dict[str, Parameters] = {}
    for number, entry in enumerate(configuration.search.configurations):
        field, method = f"{FIELD}[{number}].{METHOD}", entry.get(METHOD)
        if method is None:
            raise ConfigurationError(
                f"{field} is missing: a comparison trains one entry of each method, so name it"
            ).with_details(field, None, tuple(METHODS))
        if method not in METHODS:
            raise ConfigurationError(
                f"{field} = {method!r} is not a method: {suggest_name(str(method), METHODS)}"
            ).with_details(field, method, tuple(METHODS))
        if method in listed:
            raise ConfigurationError(
                f"{field} = {method!r} is listed twice: a comparison trains one entry of each "
                f"method; leave one out, or leave out {FIELD} to search"
            ).with_details(field, method, "each method once")
        listed[method] = {key: value for key, value in entry.items() if key != METHOD}
    return listed


def _first_point(configuration: Configuration, method: str) -> dict[str, Any]:
    """Return the first initial point of a method's search space; empty if it has none."""
    own = configuration.method.name == method
    search = configuration.search.model_copy(
        update={"configurations": (), "seeds": (), "methods": (), "points": ()}
    )
    alone = configuration.model_copy(
        update={"method": configuration.method if own else Choice(name=method), "search": search}
    )
    points = list_initial_points(alone)
    return points[0] if points else {}
