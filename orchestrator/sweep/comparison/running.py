"""Run or resume a comparison: its searches one after another, then the sweep over seeds."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.config.influence_actors import count_influence_actors
from orchestrator.config.path_settings import require_paths, without_paths
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError, TrialError
from orchestrator.core.signals import stoppable
from orchestrator.reporting.terminal.progress import Display
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.changed_configuration import require_same
from orchestrator.sweep.comparison.design import note_of, over_seeds, search_of
from orchestrator.sweep.comparison.record import Chosen, Comparison
from orchestrator.sweep.driver import (
    Lent,
    explain_data,
    flush_tracking,
    open_dispatcher,
    repair_records,
    run_sweep,
)
from orchestrator.sweep.events import Events
from orchestrator.sweep.preflight.configuration import check_search
from orchestrator.sweep.preflight.preflight import Prepared, prepare_run
from orchestrator.sweep.provenance import keep
from orchestrator.sweep.space_snapshot import describe_sweep, described_data, differences, same_data
from orchestrator.teacher.moved import carry_teacher_over

if TYPE_CHECKING:
    from orchestrator.tracking.model_registry import ExportProgram

ENDED = ("finished", "failed")
ShipOf = Callable[
    [str], "ExportProgram"
]  # returns the export of students of the sweep of that name


def run_comparison(
    store: Store, comparison: Comparison, console: Console, ship_of: ShipOf | None = None
) -> Sweep:
    """Run all that is missing of a comparison, and return the sweep over seeds.

    A search that has ended stays as it is, however it ended. A search without anything to train
    again leaves its method out.

    Args:
        ship_of: Makes the best student of every sweep a model of MLflow.

    Raises:
        KeyboardInterrupt: The user requested the end.
        TrialError: No search found settings to compare.
        ConfigurationError: A sweep in the store differs from the one needed, or another process
            runs it.
        PreflightError: No worker can train now; a resume continues.
    """
    with comparison.hold(), stoppable(), contextlib.ExitStack() as open_:
        bench = _Bench(store, comparison, console, open_, ship_of)
        if not comparison.chosen:
            common = comparison.configuration
            for note in filter(None, (note_of(common, method) for method in comparison.methods)):
                console.print(note, markup=False, highlight=False, soft_wrap=True)
            found = {
                method: bench.ended(comparison.search(method), search_of(common, method))
                for method in comparison.methods
            }
            require_common_data(found)
            comparison.chosen = {method: choice(sweep) for method, sweep in found.items()}
            comparison.save()
            _say_chosen(comparison, console)
        if not comparison.settings:
            messages = {method: one["message"] for method, one in comparison.chosen.items()}
            reasons = "; ".join(f"{method}: {message}" for method, message in messages.items())
            raise TrialError(
                f"no search of {comparison.name!r} found settings to compare: {reasons}",
                field="search.methods",
                value=messages,
            )
        bench.require_searched_data()
        return bench.ended(
            comparison.over_seeds,
            over_seeds(comparison.configuration, comparison.settings, comparison.seeds),
        )


def choice(search: Sweep) -> Chosen:
    """Return the choice of a search, by validation alone, or the `message` why there is none."""
    best = search.best()
    if best is not None and best.state == "complete" and best.value is not None:
        return {"trial": best.number, "value": best.value, "settings": best.settings}
    if best is not None:
        return {"message": "no trial of its search has trained all its epochs: give it more time"}
    failures = [trial.message for trial in search.trials.values() if trial.message]
    return {
        "message": f"every trial of its search failed: {failures[-1]}"
        if failures
        else "its search has no trial"
    }


def require_common_data(sweeps: Mapping[str, Sweep]) -> None:
    """Raise ConfigurationError if searches were trained on different samples."""
    described = {method: sweep.described.get("data") for method, sweep in sweeps.items()}
    first = next(iter(described))
    for method, own in described.items():
        common = described[first]
        if own != common and not (own and common and same_data(common, own)):
            raise ConfigurationError(
                f"{method} was searched on other data than {first}, so they cannot be "
                f"compared: put the data back, and begin "
                "another comparison under a new --name",
                field="data",
                value=method,
                allowed=f"the data of {first}",
            )


class _Bench:
    """Shared parts of a comparison's sweeps: prepared data, and worker groups that stay warm."""

    def __init__(
        self,
        store: Store,
        comparison: Comparison,
        console: Console,
        open_: contextlib.ExitStack,
        ship_of: ShipOf | None,
    ) -> None:
        self.store, self.comparison, self.console, self.open, self.ship_of = (
            store,
            comparison,
            console,
            open_,
            ship_of,
        )
        self.now: tuple[Sweep, Display] | None = None  # the sweep that trains, and its display
        self.shared_groups: Lent | None = None

    @functools.cached_property
    def prepared(self) -> Prepared:
        """Prepare the run, before the groups start.

        Afterwards every process has the address of a cluster. The same data in another place keep
        the teacher that was fitted on them.
        """
        comparison, standing = self.comparison, self.store.sweeps()
        require_paths(comparison.name, comparison.configuration)
        prepared = prepare_run(self.store, comparison.configuration, "sweep", local=False)
        now = described_data(prepared.configuration, prepared.data)
        for name in [
            name
            for name in (*map(comparison.search, comparison.methods), comparison.over_seeds)
            if name in standing
        ]:
            found = Sweep.open(self.store, name)
            if not differences(_foundations(found.described), _foundations(now)):
                carry_teacher_over(self.store, found.folder, prepared.configuration, prepared.data)
                comparison.save()  # with the present places
        return prepared

    def ended(self, name: str, configuration: Configuration) -> Sweep:
        """Create or resume a sweep of the comparison, and run it until it has ended."""
        resume = name in self.store.sweeps()
        found = self._opened(name, configuration) if resume else self._created(name, configuration)
        ship = self.ship_of(name) if self.ship_of else None
        with Display(found, self.console) as display:
            if resume and found.damaged:
                with found.hold():
                    repair_records(self.store, found, display.note)
            if found.state in ENDED:
                flush_tracking(found, self.store, found.folder, display, ship)
                return found
            keep(found.folder, self.prepared.data)
            self.now = found, display
            self.shared_groups = self.shared_groups or self._groups(display)
            prepared, shared_groups = self.prepared, self.shared_groups
            run_sweep(
                found,
                self.store,
                prepared.data,
                prepared.teacher_access,
                display,
                resume=resume,
                shared_groups=shared_groups,
                ship=ship,
            )
        if found.state == "interrupted":
            raise KeyboardInterrupt
        self.console.print(_said(found), markup=False, highlight=False, soft_wrap=True)
        return found

    def require_searched_data(self) -> None:
        """Raise ConfigurationError if data or given weights are not those of the searches any more.

        A sweep over seeds in the store is compared by its own description. A search that was
        removed is not compared.
        """
        comparison, standing = self.comparison, self.store.sweeps()
        search = next(
            (name for name in map(comparison.search, comparison.methods) if name in standing), None
        )
        if search is None:
            return
        if comparison.over_seeds in standing:
            now = Sweep.open(self.store, comparison.over_seeds).described
        else:
            now = described_data(comparison.configuration, self.prepared.data)
        before = Sweep.open(self.store, search).described
        if different := differences(_foundations(before), _foundations(now)):
            raise ConfigurationError(
                f"the seeds of {comparison.name!r} cannot be trained on what its searches were "
                f"trained on: "
                f"{'; '.join(different)}: put back what it was, or begin another comparison "
                f"under a new --name",
                field="data",
                value=tuple(different),
                allowed="what the searches were trained on",
            )

    def _created(self, name: str, configuration: Configuration) -> Sweep:
        check_search(configuration)
        now = describe_sweep(configuration, "sweep", self.prepared.data)
        return Sweep.create(self.store.sweep(name), configuration, "sweep", now)

    def _opened(self, name: str, configuration: Configuration) -> Sweep:
        found = Sweep.open(self.store, name)
        _require_designed(found, configuration)
        if found.state not in ENDED:
            found.configuration = configuration  # with the present address
            now = describe_sweep(configuration, "sweep", self.prepared.data)
            require_same(found, now)
            found.described = found.described | now
        return found

    def _groups(self, display: Display) -> Lent:
        """Start groups for the method with the largest needs and the sweep with the most trials."""
        common, comparison = self.prepared.configuration, self.comparison
        trials = max(common.search.trials, len(comparison.methods) * comparison.seeds)
        folder = comparison.folder / "groups"
        explain_data(common, self.prepared.data, display)
        dispatcher_client = open_dispatcher(
            self.store,
            common,
            folder,
            trials,
            False,
            display,
            self._note,
            self._unended,
            count_influence_actors(common, "sweep"),
        )
        return self.open.enter_context(dispatcher_client)

    def _note(self, text: str) -> None:
        if self.now:
            Events(self.now[0], [self.now[1]]).note(text)

    def _unended(self) -> int:
        """Return how many trials of the current sweep have not ended."""
        assert self.now
        return self.now[0].configuration.search.trials - sum(
            trial.ended for trial in list(self.now[0].trials.values())
        )


def _foundations(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a sweep trains on, from its description, without what it searches."""
    return {
        key: value
        for key, value in described.items()
        if key == "data" or key.rpartition(".")[2] == "weights"
    }


def _require_designed(found: Sweep, wanted: Configuration) -> None:
    """Raise ConfigurationError if a sweep differs from its comparison in more than resources."""
    has, wanted_values = without_paths(found.configuration), without_paths(wanted)
    different = [
        key for key in wanted_values if key != "resources" and has[key] != wanted_values[key]
    ]
    if different:
        raise ConfigurationError(
            f"the sweep {found.name!r} has another {' and '.join(different)} than its "
            f"comparison: begin another comparison under a "
            "new --name",
            field=different[0],
            value=wanted_values[different[0]],
            allowed=has[different[0]],
        )


def _said(sweep: Sweep) -> str:
    best, states = sweep.best(), [trial.state for trial in sweep.trials.values()]
    failed = f", {states.count('failed')} failed" if "failed" in states else ""
    reached = (
        f"; best trial {best.number} at {best.value:.4f}"
        if best and not sweep.configuration.search.configurations
        else ""
    )
    return (
        f"{sweep.name}: {sweep.state} after {sweep.seconds:.0f} s, {len(states)} "
        f"trials{failed}{reached}"
    )


def _say_chosen(comparison: Comparison, console: Console) -> None:
    for method, one in comparison.chosen.items():
        said = (
            ", ".join(f"{name}={value}" for name, value in one.get("settings", {}).items())
            or "the settings given"
        )
        text = (
            one.get("message")
            or f"trial {one['trial']} at {one['value']:.4f} on validation, with {said}"
        )
        console.print(f"{method}: {text}", markup=False, highlight=False, soft_wrap=True)
