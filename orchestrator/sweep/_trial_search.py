"""Take the trials of a sweep from its study, and record how they proceed and end."""

from collections.abc import Iterable

import optuna

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import apply
from orchestrator.core.reports import EpochRecord
from orchestrator.core.signals import defer_signals
from orchestrator.store.records import Trial
from orchestrator.store.records import TrialState as RecordState
from orchestrator.sweep._reconcile import STATES, create_trial, reopen_trial
from orchestrator.sweep.events import Events
from orchestrator.training.metric_names import STOPPED_EPOCH


class TrialSearch:
    """Search for settings: the unfinished trials of a resumed sweep first, then new ones.

    It reports to the study how each trial ended.
    """

    def __init__(
        self,
        study: optuna.Study,
        configuration: Configuration,
        events: Events,
        unfinished: list[Trial],
    ) -> None:
        self.study, self.configuration, self.events = study, configuration, events
        self.unfinished = list(unfinished)
        self.optuna_trials: dict[int, optuna.Trial] = {
            trial.number: reopen_trial(study, trial.number) for trial in unfinished
        }
        # a dead driver may have reported more epochs to the study than the records have
        frozen = study.get_trials(deepcopy=False) if unfinished else []
        self.known_epochs = {
            trial.number: max(frozen[trial.number].intermediate_values, default=0)
            for trial in unfinished
        }

    def take_trial(self) -> Trial:
        """Return the next trial, and record that it starts."""
        with defer_signals():
            trial = self.unfinished.pop(0) if self.unfinished else self._draw_trial()
            self._start_trial(trial)
        return trial

    def _draw_trial(self) -> Trial:
        optuna_trial = create_trial(self.study, self.configuration)
        self.optuna_trials[optuna_trial.number] = optuna_trial
        return Trial(optuna_trial.number, optuna_trial.params)

    def _start_trial(self, trial: Trial) -> None:
        self.events.start(trial)

    def configure(self, trial: Trial) -> Configuration:
        """Return the configuration of a trial; its worker checks the settings of the method.

        Raises:
            ConfigurationError: A setting does not fit; the message says which.
        """
        return apply(self.configuration, trial.settings)

    def report(self, trial: Trial, records: Iterable[EpochRecord]) -> None:
        """Record finished epochs of a trial; those that were reported before are ignored."""
        with defer_signals():
            for record in records:
                if record.epoch <= trial.epochs:
                    continue
                self.events.report(trial, record)
                # Optuna refuses intermediate values with several objectives
                is_new = record.epoch > self.known_epochs.get(trial.number, 0)
                if is_new and trial.value is not None and trial.values is None:
                    self.optuna_trials[trial.number].report(trial.value, trial.epochs)

    def finish(self, trial: Trial, state: RecordState, message: str = "") -> None:
        """Report the end of a trial to the study and the listeners.

        A pruned trial keeps the value of its last epoch if there is one objective.
        """
        values = (trial.values or trial.value) if state == "complete" else None
        with defer_signals():
            self.study.tell(trial.number, values, state=STATES[state], skip_if_finished=True)
            self.events.end(trial, state, message)

    def finish_trained(self, trial: Trial) -> None:
        """Report the end of a trial that has trained to its end, or that was stopped early."""
        if trial.value is None:
            self.finish(trial, "failed", "no objective was reported")
            return
        epochs = self.configuration.training.epochs
        ended = trial.epochs >= epochs or STOPPED_EPOCH in trial.metrics
        self.finish(trial, "complete" if ended else "stopped_early")

    def limit_time(self) -> None:
        """Stop the trials that have trained, because the time budget is spent.

        Trials that never had a turn wait for a resume.
        """
        for trial in self.events.sweep.trials.values():
            if not trial.ended and (trial.epochs or trial.number in self.events.started_trials):
                self.finish(trial, "stopped_early")
