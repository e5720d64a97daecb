"""Find out whether a name is that of a sweep or of a comparison."""

import contextlib

from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.store.store import Store
from orchestrator.sweep.comparison.record import Comparison, list_comparisons


def find_comparison(store: Store, name: str) -> Comparison | None:
    """Return the comparison of this name; None for the name of a sweep, which has precedence.

    Raises:
        ConfigurationError: The store has comparisons, but nothing of this name; or the record of
            the comparison is damaged.
    """
    store.sweep(name)
    sweeps, comparisons = store.sweeps(), list_comparisons(store)
    if name in sweeps or not comparisons:
        return None
    if name not in comparisons:
        names = [*sweeps, *comparisons]
        raise ConfigurationError(
            f"there is no sweep or comparison {name!r} in {store.root}: {suggest_name(name, names)}"
        ).with_details("name", name, tuple(names))
    return Comparison.open(store, name)


def require_sweep(store: Store, name: str, command: str) -> None:
    """Raise ConfigurationError, which names the sweeps, if the name is that of a comparison."""
    if comparison := find_comparison(store, name):
        existing = store.sweeps()
        sweeps = tuple(sweep for sweep in comparison.sweeps if sweep in existing)
        known = f"give one of its sweeps: {', '.join(sweeps)}" if sweeps else "it has no sweep yet"
        raise ConfigurationError(
            f"{name!r} is a comparison, and `{command}` needs one sweep: {known}"
        ).with_details("name", name, sweeps)


def find_owner(store: Store, sweep: str) -> str | None:
    """Return the name of the comparison that a sweep belongs to, or None."""
    for name in list_comparisons(store):
        with contextlib.suppress(ConfigurationError):  # a damaged record
            if sweep in Comparison.open(store, name).sweeps:
                return name
    return None
