"""Run or resume a comparison: for each study its searches, then the sweep over seeds."""

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from orchestrator.config.influence_actors import count_influence_actors
from orchestrator.config.path_settings import require_paths, without_paths
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError, TrialError
from orchestrator.core.signals import stoppable
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.reporting.terminal.progress import Display
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep._backends import SharedGroups, open_dispatcher
from orchestrator.sweep.changed_configuration import require_same
from orchestrator.sweep.comparison._listed import listed_settings
from orchestrator.sweep.comparison.design import note_of, plan_runs_over_seeds, search_of
from orchestrator.sweep.comparison.inference_cost import measure_inference
from orchestrator.sweep.comparison.record import Chosen, Comparison, StudyRun, describe_choice
from orchestrator.sweep.driver import explain_data, flush_tracking, repair_records, run_sweep
from orchestrator.sweep.events import Events
from orchestrator.sweep.preflight.configuration import check_search
from orchestrator.sweep.preflight.preflight import Prepared, prepare_run
from orchestrator.sweep.provenance import keep
from orchestrator.sweep.space_snapshot import (
    describe_sweep,
    described_data,
    differences,
    is_same_data,
)
from orchestrator.teacher.acquire import evaluate_on_test
from orchestrator.teacher.moved import carry_teacher_over

ENDED = ("finished", "failed")


def run_comparison(store: Store, comparison: Comparison, console: Console) -> list[Sweep]:
    """Run the missing sweeps of a comparison; return the sweep over seeds of each study.

    A search that has ended is not run again, however it ended. If a search found no settings, its
    method is left out of that study.

    Raises:
        KeyboardInterrupt: The user interrupted the comparison.
        TrialError: No search of a study found settings to compare.
        ConfigurationError: A sweep in the store differs from the one needed, or another process
            runs it.
        PreflightError: No worker can train now; a resume continues.
    """
    with comparison.hold(), stoppable(), contextlib.ExitStack() as open_:
        runner = _ComparisonRunner(store, comparison, console, open_)
        if not comparison.chosen:
            common = comparison.configuration
            for note in filter(None, (note_of(common, method) for method in comparison.methods)):
                print_line(console, note)
        seed_sweeps = [_run_study(runner, study) for study in comparison.runs]
        runner.evaluate_teacher_once(seed_sweeps[-1])
        measure_inference(store, comparison)
        return seed_sweeps


def _run_study(runner: "_ComparisonRunner", study: StudyRun) -> Sweep:
    """Run the searches of a study, then its sweep over seeds, and return the latter."""
    comparison = study.comparison
    if not study.chosen and study.configuration.search.configurations:
        listed = listed_settings(study.configuration)
        study.choose({method: {"settings": settings} for method, settings in listed.items()})
    if not study.chosen:
        runner.require_searched_data(study)
        searches = {
            method: runner.run_sweep_to_end(
                study.search(method), search_of(study.configuration, method)
            )
            for method in comparison.methods
        }
        require_common_data(searches)
        study.choose({method: choose_settings(sweep) for method, sweep in searches.items()})
        _print_choices(study, runner.console)
    if not study.settings:
        messages = {method: choice["message"] for method, choice in study.chosen.items()}
        reasons = "; ".join(f"{method}: {message}" for method, message in messages.items())
        raise TrialError(
            f"no search of {study.label} found settings to compare: {reasons}"
        ).with_details("search.methods", messages)
    runner.require_searched_data(study)
    planned = plan_runs_over_seeds(study.configuration, study.settings, comparison.seeds)
    return runner.run_sweep_to_end(study.over_seeds, planned)


def choose_settings(search: Sweep) -> Chosen:
    """Return the settings that a search chose on validation, or a `message` why there are none."""
    best = search.best()
    if best is not None and best.state == "complete" and best.value is not None:
        return {"trial": best.number, "value": best.value, "settings": best.settings}
    if best is not None:
        return {
            "message": "no trial of its search has trained all epochs: give the search more time"
        }
    failures = [trial.message for trial in search.trials.values() if trial.message]
    return {
        "message": f"every trial of its search failed: {failures[-1]}"
        if failures
        else "its search has no trial"
    }


def require_common_data(sweeps: Mapping[str, Sweep]) -> None:
    """Raise ConfigurationError if the searches used different data."""
    described = {method: sweep.described.get("data") for method, sweep in sweeps.items()}
    first = next(iter(described))
    for method, description in described.items():
        common = described[first]
        if description != common and not (
            description and common and is_same_data(common, description)
        ):
            raise ConfigurationError(
                f"the searches of {first} and {method} used different data, so the methods cannot "
                f"be compared: restore the data, and start another comparison under a new --name"
            ).with_details("data", method, f"the data of {first}")


class _ComparisonRunner:
    """Runner of a comparison's sweeps, which share prepared data and worker groups."""

    def __init__(
        self, store: Store, comparison: Comparison, console: Console, open_: contextlib.ExitStack
    ) -> None:
        self.store = store
        self.comparison = comparison
        self.console = console
        self.open = open_
        self.current: tuple[Sweep, Display] | None = None  # the running sweep and its display
        self.shared_groups: SharedGroups | None = None

    @functools.cached_property
    def prepared(self) -> Prepared:
        """Prepare the run, before the groups start.

        Afterwards every process has the address of a cluster. The same data under another path keep
        the teacher that was trained on them.
        """
        comparison, existing_sweeps = self.comparison, self.store.sweeps()
        require_paths(comparison.name, comparison.configuration)
        prepared = prepare_run(self.store, comparison.configuration, "sweep", local_processes=0)
        current = described_data(prepared.configuration, prepared.data)
        for name in [name for name in comparison.sweeps if name in existing_sweeps]:
            sweep = Sweep.open(self.store, name)
            if not differences(_training_inputs(sweep.described), _training_inputs(current)):
                carry_teacher_over(self.store, sweep.folder, prepared.configuration, prepared.data)
                comparison.save()  # with the current paths
        return prepared

    def run_sweep_to_end(self, name: str, configuration: Configuration) -> Sweep:
        """Create or resume a sweep of the comparison, and run it until it has ended."""
        resume = name in self.store.sweeps()
        if resume:
            sweep = self._open_sweep(name, configuration)
        else:
            sweep = self._create_sweep(name, configuration)
        with Display(sweep, self.console) as display:
            if resume and sweep.damaged:
                with sweep.hold():
                    repair_records(self.store, sweep, display.note)
            if sweep.state in ENDED:
                flush_tracking(sweep, self.store, sweep.folder, display)
                return sweep
            keep(sweep.folder, self.prepared.data)
            self.current = sweep, display
            self.shared_groups = self.shared_groups or self._start_groups(display)
            prepared, shared_groups = self.prepared, self.shared_groups
            run_sweep(
                sweep,
                self.store,
                prepared.data,
                prepared.teacher_access,
                display,
                resume=resume,
                shared_groups=shared_groups,
            )
        if sweep.state == "interrupted":
            raise KeyboardInterrupt
        self._evaluate_teacher()
        print_line(self.console, _summarize_sweep(sweep))
        return sweep

    def require_searched_data(self, study: StudyRun) -> None:
        """Raise ConfigurationError if data or pretrained weights differ from the first search.

        A sweep over seeds in the store is checked by its own description. If all earlier sweeps
        were removed, nothing is checked.
        """
        comparison, existing_sweeps = self.comparison, self.store.sweeps()
        first = next((name for name in comparison.sweeps if name in existing_sweeps), None)
        if first is None:
            return
        if study.over_seeds in existing_sweeps:
            current = Sweep.open(self.store, study.over_seeds).described
        else:
            current = described_data(comparison.configuration, self.prepared.data)
        before = Sweep.open(self.store, first).described
        if changes := differences(_training_inputs(before), _training_inputs(current)):
            raise ConfigurationError(
                f"the data or weights of the searches of {study.label} have changed: "
                f"{'; '.join(changes)}: restore them, or start another comparison under a new "
                f"--name"
            ).with_details("data", tuple(changes), "the data and weights of the searches")

    def _evaluate_teacher(self) -> None:
        """Evaluate the teacher on the test part, once, for its row of the table."""
        comparison, prepared = self.comparison, self.prepared
        if comparison.teacher or not prepared.configuration.teacher or not self.shared_groups:
            return
        comparison.teacher = evaluate_on_test(
            self.store, prepared.configuration, prepared.data, self.shared_groups[0]
        )
        comparison.save()

    def evaluate_teacher_once(self, sweep: Sweep) -> None:
        """Evaluate the teacher if an earlier process had ended before it did.

        Args:
            sweep: The last sweep, whose display shows the progress.
        """
        if self.comparison.teacher or not self.comparison.configuration.teacher:
            return
        with Display(sweep, self.console) as display:
            self.current = sweep, display
            self.shared_groups = self.shared_groups or self._start_groups(display)
            self._evaluate_teacher()

    def _create_sweep(self, name: str, configuration: Configuration) -> Sweep:
        check_search(configuration)
        current = describe_sweep(configuration, "sweep", self.prepared.data)
        return Sweep.create(self.store.sweep(name), configuration, "sweep", current)

    def _open_sweep(self, name: str, configuration: Configuration) -> Sweep:
        sweep = Sweep.open(self.store, name)
        _require_same_design(sweep, configuration)
        if sweep.state not in ENDED:
            sweep.configuration = configuration  # with the current address
            current = describe_sweep(configuration, "sweep", self.prepared.data)
            require_same(sweep, current)
            sweep.described = sweep.described | current
        return sweep

    def _start_groups(self, display: Display) -> SharedGroups:
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
            0,
            display,
            self._note,
            self._count_unfinished,
            count_influence_actors(common, "sweep"),
        )
        return self.open.enter_context(dispatcher_client)

    def _note(self, text: str) -> None:
        if self.current:
            Events(self.current[0], [self.current[1]]).note(text)

    def _count_unfinished(self) -> int:
        """Return how many trials of the current sweep have not ended."""
        assert self.current
        return self.current[0].num_trials - self.current[0].count_ended()


def _training_inputs(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data and weights from a sweep's description, without its search space."""
    return {
        key: value
        for key, value in described.items()
        if key == "data" or key.rpartition(".")[2] == "weights"
    }


def _require_same_design(sweep: Sweep, designed: Configuration) -> None:
    """Raise ConfigurationError if a sweep differs from its comparison in more than resources."""
    existing_values, designed_values = without_paths(sweep.configuration), without_paths(designed)
    changes = [
        key
        for key in designed_values
        if key != "resources" and existing_values[key] != designed_values[key]
    ]
    if changes:
        raise ConfigurationError(
            f"the sweep {sweep.name!r} differs from its comparison in "
            f"{' and '.join(changes)}: start another comparison under a new --name"
        ).with_details(changes[0], designed_values[changes[0]], existing_values[changes[0]])


def _summarize_sweep(sweep: Sweep) -> str:
    best, states = sweep.best(), [trial.state for trial in sweep.trials.values()]
    failed = f", {states.count('failed')} failed" if "failed" in states else ""
    if best and not sweep.configuration.search.configurations:
        best_text = f"; best trial {best.number} at {best.value:.4f}"
    else:
        best_text = ""
    return (
        f"{sweep.name}: {sweep.state} after {sweep.seconds:.0f} s, {len(states)} "
        f"trials{failed}{best_text}"
    )


def _print_choices(study: StudyRun, console: Console) -> None:
    for method, choice in study.chosen.items():
        print_line(console, f"{method}: {describe_choice(choice)}")
