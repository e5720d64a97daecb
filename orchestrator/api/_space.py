"""Use functions of an Optuna trial as search spaces of methods."""

from bdb import BdbQuit
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from methods import METHODS, SettingsError
from orchestrator.config.conditional_space import SpaceBranch, list_branches
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import frozen_values, qualify_name, searched_methods
from orchestrator.config.trial import METHOD, Parameters, apply
from orchestrator.core.errors import ConfigurationError, short_reason, suggest_name
from orchestrator.extensions.code_identity import code_identity
from search_spaces import SPACES, Space


def read_spaces(space: Any, methods: Sequence[str]) -> dict[str, Space]:
    """Return the given search spaces by method.

    Args:
        space: A function of an Optuna trial for all methods, a mapping from methods to functions,
            or None.
        methods: The searched methods.

    Raises:
        ConfigurationError: The space is neither, or names a method that is not searched.
    """
    if space is None:
        return {}
    functions = dict(space) if isinstance(space, Mapping) else dict.fromkeys(methods, space)
    for name, suggest in functions.items():
        if name not in methods:
            raise ConfigurationError(
                f"space names {name!r}, which is not searched: {suggest_name(str(name), methods)}"
            ).with_details("space", name, tuple(methods))
        if not callable(suggest):
            raise ConfigurationError(
                f"space is {type(suggest).__name__}: give a function that draws from an Optuna "
                f"trial, or a mapping from methods to such functions"
            ).with_details("space", type(suggest).__name__, "a function of a trial")
    return {name: Space((), suggest, code_identity(suggest)) for name, suggest in functions.items()}


def check_spaces(configuration: Configuration, spaces: Mapping[str, Space]) -> None:
    """Require that every draw of given spaces is a valid configuration at the ends of its ranges.

    The spaces must be registered.

    Raises:
        ConfigurationError: A function fails, or draws a key that does not exist or a value that is
            not allowed.
    """
    several = len(searched_methods(configuration)) > 1
    for method in spaces:
        frozen = frozen_values(configuration, method)
        try:
            branches = list_branches(method, frozen)
        except BdbQuit:  # the user has left the debugger
            raise
        except Exception as error:  # any error of the user's function
            reason = short_reason(error)
            raise ConfigurationError(
                f"space: the function for {method} fails with {reason}; it may use suggest_float, "
                f"suggest_int and suggest_categorical of the trial"
            ).with_details("space", reason, "a function of a trial") from error
        for branch in branches:
            for end in (0, 1):
                _check_draw(configuration, method, _values(branch, end, frozen), several)


def _values(branch: SpaceBranch, end: int, frozen: Mapping[str, Any]) -> Parameters:
    """Return the drawn values of a branch, with ranges at their low (0) or high (1) end."""
    ends: Parameters = {name: limits[end] for name, limits in branch.ranges.items()}
    whole = {name: int(value) for name, value in ends.items() if name not in branch.continuous}
    drawn = branch.values | ends | whole
    return {name: value for name, value in drawn.items() if name not in frozen}


def _check_draw(
    configuration: Configuration, method: str, values: Parameters, several: bool
) -> None:
    prefix = method if several else ""
    qualified = {qualify_name(name, prefix): value for name, value in values.items()}
    try:
        drawn = apply(configuration, {METHOD: method} | qualified)
        METHODS[method].Settings.build(drawn.method.settings)
    except (ConfigurationError, SettingsError) as error:
        message = f"space: a draw for {method} is not allowed, {error}"
        raise ConfigurationError.from_error(error, message) from error


def register_spaces(spaces: Mapping[str, Space]) -> Callable[[], None]:
    """Replace the search spaces of methods; return a function that restores them."""
    replaced = {name: SPACES[name] for name in spaces if name in SPACES}
    SPACES.update(spaces)

    def restore() -> None:
        for name in spaces:
            if name in replaced:
                SPACES[name] = replaced[name]
            else:
                SPACES.pop(name, None)

    return restore
