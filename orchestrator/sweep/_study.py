"""Open the Optuna study of a sweep, and draw trials from it for Tune.

Ray's OptunaSearch reports an early-stopped trial as COMPLETE with its low-epoch value, leaves a
trial without a value RUNNING for ever, and joins any study of the same name. This searcher calls
the study's `ask` and `tell` directly.
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
from orchestrator.config.distinct import list_branch_domains
from orchestrator.config.objectives import goals, primary_goal
from orchestrator.config.schema import Configuration, Search
from orchestrator.config.search_space import list_initial_points
from orchestrator.config.trial import Parameters, apply
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.reports import NoWorkers, TrialFailure
from orchestrator.core.signals import defer_signals
from orchestrator.store.records import Trial
from orchestrator.store.records import TrialState as RecordState
from orchestrator.store.study_file import (
    JOURNAL,
    StudyFile,
    convert_damage_errors,
    load_valid_trials,
    repair,
)
from orchestrator.sweep._reconcile import STATES, create_trial, reopen_trial
from orchestrator.sweep._stateless_sampler import StatelessSampler
from orchestrator.sweep._tune_messages import ProxyConfig, Step, from_result
from orchestrator.sweep.events import Events
from orchestrator.training.metric_names import STOPPED_EPOCH

Vary = Callable[[Parameters, dict[str, BaseDistribution]], Parameters]


def objective(search: Search) -> dict[str, str]:
    """Return `metric` and `mode` as Tune's searchers and schedulers take them."""
    goal = primary_goal(search)
    return {"metric": goal.name, "mode": goal.direction[:3]}


def open_study(folder: Path, configuration: Configuration, resume: bool) -> optuna.Study:
    """Open or create the study in the sweep's folder.

    The study has the folder's name. Its first trials are the initial points of its spaces. Only the
    process that holds the sweep's lock may call this function.

    Raises:
        ConfigurationError: The study is damaged, or has other objectives or directions.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search, file = configuration.search, folder / JOURNAL
    repair(file)
    journal = StudyFile(str(file))
    sampler = StatelessSampler(
        search,
        configuration.seed,
        () if search.configurations else list_branch_domains(configuration),
    )
    with convert_damage_errors(journal, file):
        storage = JournalStorage(journal)
        if resume and folder.name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=folder.name, storage=storage, sampler=sampler)
            _require_directions(study, search)
        else:
            directions = [goal.direction for goal in goals(search)]
            study = optuna.create_study(
                study_name=folder.name, storage=storage, sampler=sampler, directions=directions
            )
        load_valid_trials(study)
    for point in list_initial_points(configuration)[
        len(study.get_trials(deepcopy=False)) : search.trials
    ]:
        # the first trials are the points, also when the driver died in between
        study.enqueue_trial(point)
    return study


def _require_directions(study: optuna.Study, search: Search) -> None:
    study_directions = [direction.name.lower() for direction in study.directions]
    if study_directions == [goal.direction for goal in goals(search)]:
        return
    if search.objectives or len(study_directions) > 1:
        requested = list(search.objectives) or search.objective
        raise ConfigurationError(
            f"search.objectives = {requested} does not match the study of "
            f"{study.study_name!r}, which has the directions {', '.join(study_directions)}: "
            f"restore its objectives, or start another sweep under a new --name"
        ).with_details("search.objectives", requested, tuple(study_directions))
    raise ConfigurationError(
        f"search.direction = {search.direction!r} does not match the study of "
        f"{study.study_name!r}, which has the direction {study_directions[0]}: restore it, or "
        f"start another sweep under a new --name"
    ).with_details("search.direction", search.direction, tuple(study_directions))


class StudySearch(Searcher):
    """Tune searcher: the unfinished trials of a resumed sweep first, then new ones of the study.

    It reports to the study how each trial ended. At most `concurrency` trials run at a time. This
    limit is the number of groups, and may change.
    """

    def __init__(
        self,
        study: optuna.Study,
        configuration: Configuration,
        events: Events,
        unfinished: list[Trial],
        concurrency: Callable[[], float] = lambda: math.inf,
    ) -> None:
        super().__init__(**objective(configuration.search))
        self.study, self.configuration, self.events = study, configuration, events
        self.unfinished, self.concurrency = list(unfinished), concurrency
        self.running: set[str] = set()
        self.trials: dict[str, Trial] = {}
        self.optuna_trials: dict[int, optuna.Trial] = {}
        for trial in unfinished:
            self.optuna_trials[trial.number] = reopen_trial(study, trial.number)

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Return True: metric and mode are those of the configuration."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial as plain values, or None while enough trials run.

        A trial that cannot be built has an `error` instead of a configuration.
        """
        if len(self.running) >= self.concurrency():
            return None
        with defer_signals():
            self.running.add(trial_id)
            trial = self.unfinished.pop(0) if self.unfinished else self._draw_trial()
            self.trials[trial_id] = trial
            self._start_trial(trial)
        return self._config(trial)

    def _start_trial(self, trial: Trial) -> None:
        self.events.start(trial)  # a group is free when Tune calls `suggest`

    def take_over(self, taker: int, donor: int, epoch: int, vary: Vary) -> dict[str, Any]:
        """Continue the trial `taker` from the weights of `donor` after `epoch` epochs.

        Args:
            taker: Number of the trial that continues.
            donor: Number of the trial whose weights it copies.
            epoch: Epochs that both have trained.
            vary: Function of settings and bounds that returns settings.

        Returns:
            Plain values of the taker, as in `suggest`.
        """
        trial, source = (self.events.sweep.trials[number] for number in (taker, donor))
        bounds = {
            name: bound
            for frozen in self.study.trials
            for name, bound in frozen.distributions.items()
        }
        with defer_signals():
            self.events.change(trial, epoch, donor, vary(source.settings, bounds))
            # its value does not belong to the parameters that were drawn
            self.optuna_trials[taker].set_user_attr("changes", trial.changes)
        return self._config(trial)

    def _config(self, trial: Trial) -> dict[str, Any]:
        try:
            configuration = apply(self.configuration, trial.settings)
            METHODS[configuration.method.name].Settings.build(configuration.method.settings)
        except (ConfigurationError, SettingsError) as error:
            return ProxyConfig(trial.number, error=str(error)).to_tune()
        text = json.dumps(configuration.plain())
        return ProxyConfig(trial.number, text, known=trial.epochs).to_tune()

    def _draw_trial(self) -> Trial:
        optuna_trial = create_trial(self.study, self.configuration)
        self.optuna_trials[optuna_trial.number] = optuna_trial
        return Trial(optuna_trial.number, optuna_trial.params)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a finished epoch that is not the trial's last result."""
        with defer_signals():
            self._record(self.trials[trial_id], from_result(result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record the end of a trial: its last epoch, a stop by the scheduler, or a failure.

        Record nothing if no worker can train the trial now.
        """
        self.running.discard(trial_id)
        trial = self.trials[trial_id]
        step = from_result(result or {})
        if trial.ended or isinstance(step, NoWorkers):
            return
        epochs = self.configuration.training.epochs
        with defer_signals():
            self._record(trial, step)
            if isinstance(step, TrialFailure):
                self.finish(trial, "failed", step.message)
            elif error or trial.value is None:
                self.finish(trial, "failed", "its Tune process failed; see Ray's log")
            else:
                ended = trial.epochs >= epochs or STOPPED_EPOCH in trial.metrics
                self.finish(trial, "complete" if ended else "stopped_early")

    def finish(self, trial: Trial, state: RecordState, message: str = "") -> None:
        """Report the end of a trial to the study and the listeners.

        A pruned trial keeps the value of its last epoch if there is one objective.
        """
        values = (trial.values or trial.value) if state == "complete" else None
        with defer_signals():
            self.study.tell(trial.number, values, state=STATES[state], skip_if_finished=True)
            self.events.end(trial, state, message)

    def _record(self, trial: Trial, step: Step) -> None:
        for record in step if isinstance(step, tuple) else ():
            if record.epoch <= trial.epochs:
                continue
            self.events.report(trial, record)
            # Optuna refuses intermediate values with several objectives
            if trial.value is not None and trial.values is None:
                self.optuna_trials[trial.number].report(trial.value, trial.epochs)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its searcher for its own restore, which is not used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study and the records are on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resume reads the study and the records."""
