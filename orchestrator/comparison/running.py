"""Carries a comparison out, or goes on with one: its searches one after another, then the sweep over seeds."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from orchestrator.comparison.design import over_seeds, search_of
from orchestrator.comparison.record import Comparison
from orchestrator.config import Configuration
from orchestrator.data.dataset import read_summary
from orchestrator.display import Display
from orchestrator.errors import ConfigurationError, TrialError
from orchestrator.preflight import prepared
from orchestrator.records import Sweep
from orchestrator.resume import require_same
from orchestrator.store import Store, keep_json
from orchestrator.sweep.conduct import conduct, send
from orchestrator.sweep.described import described

ENDED = ("finished", "failed")


def carry_out(store: Store, comparison: Comparison, console: Console) -> Sweep:
    """The sweep over seeds, after everything that was missing; KeyboardInterrupt when somebody asked for the end.

    A search that has ended stays as it is, however it ended; a search without anything to train again leaves its method out.
    TrialError when that is so for all of them. ConfigurationError when a sweep in the store is not the one that is needed, or is
    run by somebody else. EnvironmentUnfitError: nobody can train now; a resume goes on.
    """
    with comparison.hold():
        if not comparison.chosen:
            found = {
                method: _ended(store, comparison.search(method), search_of(comparison.configuration, method), console)
                for method in comparison.methods
            }
            require_common_data(found)
            comparison.chosen = {method: choice(sweep) for method, sweep in found.items()}
            comparison.save()
            _say_chosen(comparison, console)
        if not comparison.settings:
            reasons = "; ".join(f"{method}: {one['message']}" for method, one in comparison.chosen.items())
            raise TrialError(f"no search of {comparison.name!r} found settings to compare: {reasons}")
        last = over_seeds(comparison.configuration, comparison.settings, comparison.seeds)
        return _ended(store, comparison.over_seeds, last, console)


def choice(search: Sweep) -> dict[str, Any]:
    """What a search has chosen, by validation alone; or the `message` that says why nothing."""
    best = search.best()
    if best is not None and best.state == "complete":
        return {"trial": best.number, "value": best.value, "settings": best.settings}
    if best is not None:
        return {"message": "no trial of its search has trained all its epochs: give it more time"}
    failures = [trial.message for trial in search.trials.values() if trial.message]
    return {"message": f"every trial of its search failed: {failures[-1]}" if failures else "its search has no trial"}


def require_common_data(sweeps: Mapping[str, Sweep]) -> None:
    """ConfigurationError when searches were trained on different samples."""
    sums = {method: sweep.described.get("data", {}).get("sums") for method, sweep in sweeps.items()}
    first = next(iter(sums))
    for method, own in sums.items():
        if own != sums[first]:
            raise ConfigurationError(
                f"{method} was searched on other data than {first}, so they cannot be compared: put the data back, and begin "
                "another comparison under a new --name"
            )


def _ended(store: Store, name: str, configuration: Configuration, console: Console) -> Sweep:
    """A sweep of the comparison, begun or gone on with until it has ended."""
    if name not in store.sweeps():
        begun = prepared(store, configuration, "sweep", local=False)
        found = Sweep.create(store.sweep(name), begun.configuration, "sweep", described(begun.configuration, "sweep", begun.data))
        resume = False
    else:
        found, resume = Sweep.open(store, name), True
        _require_designed(found, configuration)
        if found.state in ENDED:
            with Display(found, console) as display:
                send(found, store, found.folder, display)
            return found
        found.configuration = found.configuration.model_copy(update={"resources": configuration.resources})
        begun = prepared(store, found.configuration, "sweep", local=False)
        require_same(found, described(begun.configuration, "sweep", begun.data))
    keep_json(found.folder / "data.json", read_summary(begun.data))
    with Display(found, console) as display:
        conduct(found, store, begun.data, begun.asked, display, local=False, resume=resume)
    if found.state == "interrupted":
        raise KeyboardInterrupt
    console.print(_said(found), markup=False, highlight=False, soft_wrap=True)
    return found


def _require_designed(found: Sweep, wanted: Configuration) -> None:
    """ConfigurationError when the sweep is another one than the comparison began, where it was to be trained aside."""
    has, asked = found.configuration.plain(), wanted.plain()
    different = [key for key in asked if key != "resources" and has[key] != asked[key]]
    if different:
        raise ConfigurationError(
            f"the sweep {found.name!r} has another {' and '.join(different)} than its comparison: begin another comparison under a "
            "new --name"
        )


def _said(sweep: Sweep) -> str:
    best, states = sweep.best(), [trial.state for trial in sweep.trials.values()]
    failed = f", {states.count('failed')} failed" if "failed" in states else ""
    reached = f"; best trial {best.number} at {best.value:.4f}" if best and not sweep.configuration.search.fixed else ""
    return f"{sweep.name}: {sweep.state} after {sweep.seconds:.0f} s, {len(states)} trials{failed}{reached}"


def _say_chosen(comparison: Comparison, console: Console) -> None:
    for method, one in comparison.chosen.items():
        said = ", ".join(f"{name}={value}" for name, value in one.get("settings", {}).items()) or "the settings given"
        text = one.get("message") or f"trial {one['trial']} at {one['value']:.4f} on validation, with {said}"
        console.print(f"{method}: {text}", markup=False, highlight=False, soft_wrap=True)
