"""The Optuna study of a sweep and Tune's view of it. Knows what is asked and told, not who trains.

Ray's OptunaSearch tells an early-stopped trial as COMPLETE at its low-epoch value, leaves a trial without a number
RUNNING for ever, and joins any study of the same name; this searcher asks and tells the study itself.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from ray.tune.search import Searcher

from methods import METHODS, SettingsError
from orchestrator.config.distinct import ways
from orchestrator.config.objectives import goals, watched_metrics
from orchestrator.config.schema import Configuration, Search
from orchestrator.config.search_space import points
from orchestrator.config.trial import apply
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.signals import defer_signals
from orchestrator.store.records import Trial
from orchestrator.store.records import TrialState as RecordState
from orchestrator.store.study_file import JOURNAL, StudyFile, named_damage, repair, sound_trials
from orchestrator.sweep._reconcile import STATES, create_trial, reopen_trial
from orchestrator.sweep._stateless_sampler import StatelessSampler
from orchestrator.sweep.events import Events

Vary = Callable[[dict[str, Any], dict[str, BaseDistribution]], dict[str, Any]]


def objective(search: Search) -> dict[str, str]:
    """What Tune compares by, as its searchers and schedulers take it: `metric` and `mode`."""
    goal = watched_metrics(search)
    return {"metric": goal.name, "mode": goal.direction[:3]}


def open_study(folder: Path, configuration: Configuration, resume: bool) -> optuna.Study:
    """The study in the sweep's folder, named after it; it begins with the points of its spaces.

    ConfigurationError when it is damaged, or looks for something else. Only for whoever holds the sweep.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search, file = configuration.search, folder / JOURNAL
    repair(file)
    journal = StudyFile(str(file))
    sampler = StatelessSampler(search, configuration.seed, () if search.configurations else ways(configuration))
    with named_damage(journal, file):
        storage = JournalStorage(journal)
        if resume and folder.name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=folder.name, storage=storage, sampler=sampler)
            _require_directions(study, search)
        else:
            directions = [goal.direction for goal in goals(search)]
            study = optuna.create_study(study_name=folder.name, storage=storage, sampler=sampler, directions=directions)
        sound_trials(study)
    for point in points(configuration)[len(study.get_trials(deepcopy=False)) : search.trials]:
        study.enqueue_trial(point)  # numbers before the last point are points, also when the driver died in between
    return study


def _require_directions(study: optuna.Study, search: Search) -> None:
    known = [direction.name.lower() for direction in study.directions]
    if known == [goal.direction for goal in goals(search)]:
        return
    if search.objectives or len(known) > 1:
        given = list(search.objectives) or search.objective
        raise ConfigurationError(
            f"search.objectives = {given}, and the study of {study.study_name!r} looks for others: {', '.join(known)} of them",
            field="search.objectives",
            value=given,
            allowed=tuple(known),
        )
    raise ConfigurationError(
        f"search.direction = {search.direction!r}, and the study of {study.study_name!r} has the other one",
        field="search.direction",
        value=search.direction,
        allowed=tuple(known),
    )


class StudySearch(Searcher):
    """Hands out the unfinished trials of a resumed sweep first, then asks the study; tells it how each one ended.

    No more than `at_once` at a time, which may change: as many as there are groups.
    """

    def __init__(
        self,
        study: optuna.Study,
        configuration: Configuration,
        events: Events,
        unfinished: list[Trial],
        at_once: Callable[[], float] = lambda: math.inf,
    ) -> None:
        super().__init__(**objective(configuration.search))
        self.study, self.configuration, self.events = study, configuration, events
        self.unfinished, self.at_once = list(unfinished), at_once
        self.running: set[str] = set()
        self.trials: dict[str, Trial] = {}
        self.asked: dict[int, optuna.Trial] = {}
        for trial in unfinished:
            self.asked[trial.number] = reopen_trial(study, trial.number)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Metric and mode are those of the configuration."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial as plain values, None while enough are at work; one that cannot be built travels with its `error`."""
        if len(self.running) >= self.at_once():
            return None
        with defer_signals():
            self.running.add(trial_id)
            trial = self.unfinished.pop(0) if self.unfinished else self._ask()
            self.trials[trial_id] = trial
            self._hand_out(trial)
        return self._config(trial)

    def _hand_out(self, trial: Trial) -> None:
        self.events.start(trial)  # Tune asks when a group is free

    def take_over(self, taker: int, donor: int, epoch: int, vary: Vary) -> dict[str, Any]:
        """The trial `taker` goes on from `donor` after `epoch` epochs; its plain values. `vary`: settings, bounds -> settings."""
        trial, source = (self.events.sweep.trials[number] for number in (taker, donor))
        bounds = {name: bound for frozen in self.study.trials for name, bound in frozen.distributions.items()}
        with defer_signals():
            self.events.change(trial, epoch, donor, vary(source.settings, bounds))
            self.asked[taker].set_user_attr("changes", trial.changes)  # its value is not that of the parameters that were drawn
        return self._config(trial)

    def _config(self, trial: Trial) -> dict[str, Any]:
        try:
            configuration = apply(self.configuration, trial.settings)
            METHODS[configuration.method.name].Settings.build(configuration.method.settings)
        except (ConfigurationError, SettingsError) as error:
            return {"number": trial.number, "error": str(error)}
        # text: Tune flattens what is nested, and names folders after it
        return {"number": trial.number, "configuration": json.dumps(configuration.plain()), "known": trial.epochs}

    def _ask(self) -> Trial:
        asked = create_trial(self.study, self.configuration)
        self.asked[asked.number] = asked
        return Trial(asked.number, asked.params)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A finished epoch, which is not the trial's last result."""
        with defer_signals():
            self._record(self.trials[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial: its last epoch, a stop by the scheduler, or a failure; nothing where nobody can train it for now."""
        self.running.discard(trial_id)
        trial = self.trials[trial_id]
        result = result or {}
        if trial.ended or result.get("unfit"):
            return
        epochs = self.configuration.training.epochs
        with defer_signals():
            self._record(trial, result)
            if error or result.get("failed") or trial.value is None:
                message = result.get("failed") or "its stand-in failed; see the log of Ray"
                self.finish(trial, "failed", message)
            else:
                self.finish(trial, "complete" if trial.epochs >= epochs else "stopped_early")

    def finish(self, trial: Trial, state: RecordState, message: str = "") -> None:
        """Tell the study and the listeners; a pruned trial keeps the value of its last epoch, where there is one objective."""
        reached = (trial.values or trial.value) if state == "complete" else None
        with defer_signals():
            self.study.tell(trial.number, reached, state=STATES[state], skip_if_finished=True)
            self.events.end(trial, state, message)

    def _record(self, trial: Trial, result: dict[str, Any]) -> None:
        if result.get("epoch", 0) <= trial.epochs:
            return
        last = {"epoch": result["epoch"], "metrics": json.loads(result["metrics"]), "notes": result.get("notes", [])}
        for record in (*result.get("missed", ()), last):
            if record["epoch"] <= trial.epochs:
                continue
            self.events.report(trial, record)
            if trial.value is not None and trial.values is None:  # Optuna refuses the epochs of several objectives
                self.asked[trial.number].report(trial.value, trial.epochs)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a pickle of its searcher for a restore of its own, which nobody does."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study and the records are on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resume reads the study and the records."""
