"""Count the distinct settings of a search space, and find values that lead to untried settings."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.config.conditional_space import Domain
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import (
    list_initial_points,
    list_rate_branches,
    list_space_branches,
    qualify_name,
    searched_methods,
)
from orchestrator.config.trial import METHOD, Parameters

BranchDomains = Mapping[str, Domain]
"""Branch of a space: the values that each of its parameters may have, None for a continuum."""


def list_branch_domains(configuration: Configuration) -> list[BranchDomains]:
    """Return all branches of the space of a sweep; no two of them have settings in common."""
    methods = searched_methods(configuration)
    common: dict[str, Domain] = {
        key: branch.choices.get(key) or branch.domains[key]
        for key, branch in list_rate_branches(configuration).items()
    }
    common |= configuration.search.extra_space
    branches: list[BranchDomains] = []
    for method in methods:
        prefix = method if len(methods) > 1 else ""
        method_domain: dict[str, Domain] = {METHOD: (method,)} if prefix else {}
        for branch in list_space_branches(configuration, method):
            branch_domains = {
                qualify_name(name, prefix): domain for name, domain in branch.domains.items()
            }
            branches.append({**method_domain, **branch_domains, **common})
    return branches


def count_settings(configuration: Configuration) -> int | None:
    """Return the number of distinct settings that a sweep can train; None for a continuum.

    Initial points outside the space are included.
    """
    if configuration.search.configurations:
        return len(list_initial_points(configuration))
    space = list_branch_domains(configuration)
    size = sum(_size(branch, {}) for branch in space)
    if math.isinf(size):
        return None
    return int(size) + sum(
        not any(_is_on(branch, point) for branch in space)
        for point in list_initial_points(configuration)
    )


def limit_trials(configuration: Configuration, num_existing: int = 0) -> tuple[Configuration, str]:
    """Limit the trials of a sweep to the number of its distinct settings.

    Args:
        configuration: The checked configuration of a sweep.
        num_existing: The number of trials that the sweep already has; these stay.

    Returns:
        The configuration, and a message if its trials were reduced, else "".
    """
    requested = configuration.search.trials
    settings = count_settings(configuration)
    names = ", ".join(searched_methods(configuration))
    if (
        settings is None
        or configuration.search.configurations
        or max(settings, num_existing) >= requested
    ):
        return configuration, ""
    trials = max(settings, num_existing, 1)
    settings_text = "only one setting" if settings <= 1 else f"only {settings} different settings"
    note = (
        f"search.trials = {requested} was reduced to {trials}: {names} has {settings_text}, and "
        f"each is trained once; to train settings with several seeds, list them in "
        f"search.configurations and set search.seeds"
    )
    search = configuration.search.model_copy(update={"trials": trials})
    return configuration.model_copy(update={"search": search}), note


def has_untried_settings(
    space: Iterable[BranchDomains], known: Parameters, tried: Sequence[Parameters]
) -> bool:
    """Return whether untried settings that extend the `known` ones exist.

    Args:
        space: The branches of the space.
        known: The parameters that are already chosen.
        tried: The settings that were already tried.
    """
    fitting = [branch for branch in space if _fits(branch, known)]
    total = sum(_size(branch, known) for branch in fitting)
    if total <= 0 or math.isinf(total):
        return total > 0
    different = {
        tuple(sorted(map(repr, each.items()))): each
        for each in tried
        if known.items() <= each.items()
    }
    return total > sum(
        any(_is_on(branch, each) for branch in fitting) for each in different.values()
    )


def allowed_values(space: Iterable[BranchDomains], known: Parameters, name: str) -> list[Any]:
    """Return the values that a parameter may have together with the `known` ones.

    The list is empty for a continuum.
    """
    values = (branch[name] for branch in space if name in branch and _fits(branch, known))
    return list(dict.fromkeys(value for domain in values for value in domain or ()))


def _size(branch: BranchDomains, known: Parameters) -> float:
    """Return the number of settings of a branch that extend the `known` ones, which fit it."""
    return math.prod(
        math.inf if domain is None else len(domain)
        for name, domain in branch.items()
        if name not in known
    )


def _fits(branch: BranchDomains, known: Parameters) -> bool:
    return all(name in branch and _has(branch[name], value) for name, value in known.items())


def _is_on(branch: BranchDomains, settings: Parameters) -> bool:
    """Return whether the settings are complete settings of a branch."""
    return branch.keys() == settings.keys() and _fits(branch, settings)


def _has(domain: Domain, value: Any) -> bool:
    return domain is None or value in domain
