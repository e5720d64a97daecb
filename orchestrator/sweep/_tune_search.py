"""Give Tune the trials of a study.

Ray's OptunaSearch reports an early-stopped trial as COMPLETE with its low-epoch value, leaves a
trial without a value RUNNING for ever, and joins any study of the same name. This searcher calls
the study's `ask` and `tell` directly.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from ray.tune.search import Searcher

from orchestrator.config.objectives import primary_goal
from orchestrator.config.schema import Configuration, Search
from orchestrator.config.trial import Parameters
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.reports import NoWorkers, TrialFailure
from orchestrator.core.signals import defer_signals
from orchestrator.store.records import Trial
from orchestrator.sweep._trial_search import TrialSearch
from orchestrator.sweep._tune_messages import ProxyConfig, from_result
from orchestrator.sweep.events import Events

Vary = Callable[[Parameters, dict[str, BaseDistribution]], Parameters]


def objective(search: Search) -> dict[str, str]:
    """Return `metric` and `mode` as Tune's searchers and schedulers take them."""
    goal = primary_goal(search)
    return {"metric": goal.name, "mode": goal.direction[:3]}


class StudySearch(TrialSearch, Searcher):
    """Tune searcher: the trials of a `TrialSearch`, by Tune's names of them.

    At most `concurrency` trials run at a time. This limit is the number of groups, and may change.
    `submit` submits a trial before its proxy has started, and returns the token of the submission.
    """

    def __init__(
        self,
        study: optuna.Study,
        configuration: Configuration,
        events: Events,
        unfinished: list[Trial],
        concurrency: Callable[[], float] = lambda: math.inf,
        submit: Callable[[Trial, Configuration], str] = lambda trial, configuration: "",
    ) -> None:
        Searcher.__init__(self, **objective(configuration.search))
        TrialSearch.__init__(self, study, configuration, events, unfinished)
        self.concurrency, self.submit = concurrency, submit
        self.running: set[str] = set()
        self.trials: dict[str, Trial] = {}

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
            self.trials[trial_id] = trial = self.take_trial()
        return self._config(trial)

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
            configuration = self.configure(trial)
        except ConfigurationError as error:
            return ProxyConfig(trial.number, error=str(error)).to_tune()
        text = json.dumps(configuration.plain())
        token = self.submit(trial, configuration)
        return ProxyConfig(trial.number, text, known=trial.epochs, token=token).to_tune()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a finished epoch that is not the trial's last result."""
        step = from_result(result)
        if isinstance(step, tuple):
            self.report(self.trials[trial_id], step)

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
        with defer_signals():
            if isinstance(step, TrialFailure):
                self.finish(trial, "failed", step.message)
                return
            self.report(trial, step)
            if error or trial.value is None:
                self.finish(trial, "failed", "its Tune process failed; see Ray's log")
            else:
                self.finish_trained(trial)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its searcher for its own restore, which is not used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study and the records are on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a resume reads the study and the records."""
