"""Select the methods that can be trained with a configuration, for `--methods all`."""

from collections.abc import Callable

from methods import METHODS
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError, FieldError
from orchestrator.data.prepare import describe
from orchestrator.store.store import Store
from orchestrator.sweep.comparison import design
from orchestrator.sweep.comparison.design import Design
from orchestrator.sweep.preflight.configuration import check_search
from orchestrator.training.capabilities.feature_maps_checks import check_feature_maps


def select_methods(
    store: Store, configuration: Configuration, request: Design, note: Callable[[str], None]
) -> Design:
    """Return the request with the methods that the configuration allows, if it is for all.

    `note` receives the reason why another one is left out. The other arguments and errors are those
    of `select_runnable`.
    """
    if request.methods != (design.ALL,):
        return request
    selected, left_out = select_runnable(store, configuration, tuple(METHODS))
    for method, reason in left_out.items():
        note(f"--methods all: {method} is left out: {reason}")
    return request._replace(methods=selected)


def select_runnable(
    store: Store, configuration: Configuration, methods: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the methods that a configuration allows, and why each of the others is left out.

    Args:
        store: The store, which may have the prepared data.
        configuration: The settings of the comparison.
        methods: The methods to check.

    Raises:
        ConfigurationError: Fewer than two methods remain.
    """
    data = configuration.data
    summary = describe(data, store.root, data.seed)
    left_out: dict[str, str] = {}
    common = design.base(configuration, methods, 1)  # its ranges may belong to any method
    for method in methods:
        try:
            alone = (
                design.base(configuration, (method,), 1)
                if configuration.search.configurations
                else design.search_of(common, method)
            )
            check_search(alone)
            check_feature_maps(alone, True, len(summary.classes), summary.shape)
        except (ConfigurationError, FieldError) as error:
            left_out[method] = str(error)
    runnable = tuple(method for method in methods if method not in left_out)
    if len(runnable) < 2:
        reasons = "; ".join(f"{method}: {reason}" for method, reason in left_out.items())
        raise ConfigurationError(
            f"--methods all: only {len(runnable)} method{'s' * (len(runnable) != 1)} can be "
            f"compared with this configuration: {reasons}"
        ).with_details("--methods", "all", "two or more methods")
    return runnable, left_out
