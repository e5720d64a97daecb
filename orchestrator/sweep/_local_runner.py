"""Run the trials of a sweep without Ray, in this process or in others of this machine."""

import math
import time

from orchestrator.cluster.local_backend import LocalBackend
from orchestrator.config.objectives import primary_goal
from orchestrator.config.trial import Folders, TrialSpec
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.reports import EpochRecord, Report, TrialFailure
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._early_stopping import StoppingRule, build_stopping_rule
from orchestrator.sweep._remaining_trials import RemainingTrials, open_remaining_trials
from orchestrator.sweep._trial_search import TrialSearch
from orchestrator.sweep.events import Events


def run_local_trials(
    store: Store,
    sweep: Sweep,
    backend: LocalBackend,
    events: Events,
    folders: Folders,
    processes: int,
    resume: bool,
    started: float,
) -> str:
    """Train the remaining trials of a sweep.

    Args:
        backend: The backend that trains.
        folders: Folders that every trial reads.
        processes: The number of concurrent trials.
        resume: Open the existing study.
        started: Start of the time budget (s, monotonic).

    Returns:
        The reason of an early end; empty if there is none.

    Raises:
        PreflightError: This machine cannot train the trials now.
    """
    remaining = open_remaining_trials(store, sweep, backend, events, resume)
    if remaining.count <= 0:
        return ""
    runner = _LocalRunner(sweep, backend, remaining, folders, started)
    runner.run(processes)
    if not remaining.failures.reason:
        runner.search.limit_time()
    return remaining.failures.reason


class _LocalRunner:
    """Trials of a search on a local backend, and the rule that stops them early."""

    def __init__(
        self,
        sweep: Sweep,
        backend: LocalBackend,
        remaining: RemainingTrials,
        folders: Folders,
        started: float,
    ) -> None:
        configuration = sweep.configuration
        self.backend, self.remaining, self.folders = backend, remaining, folders
        self.heartbeat_timeout_s = configuration.resources.heartbeat_timeout_s
        self.objective = primary_goal(configuration.search).name
        self.search = TrialSearch(
            remaining.study, configuration, remaining.events, remaining.unfinished
        )
        self.rule: StoppingRule | None = build_stopping_rule(configuration, sweep.trials.values())
        self.running: dict[str, Trial] = {}
        budget = configuration.search.time_budget
        self.until = max(started + budget, time.monotonic() + 1.0) if budget else math.inf

    def run(self, processes: int) -> None:
        """Train until all trials have ended, the time budget is spent, or too many have failed."""
        waiting = self.remaining.count
        while (waiting or self.running) and not self._ends_early():
            if waiting and len(self.running) < processes:
                waiting -= 1
                self._start_trial()
                continue
            event = self.backend.next_event(self.heartbeat_timeout_s, self.until)
            if event and (trial := self.running.get(event[0])):
                self._handle(trial, event[1])
                if trial.ended:
                    del self.running[event[0]]

    def _ends_early(self) -> bool:
        return bool(self.remaining.failures.reason) or time.monotonic() >= self.until

    def _start_trial(self) -> None:
        trial = self.search.take_trial()
        try:
            configuration = self.search.configure(trial)
        except ConfigurationError as error:
            self.search.finish(trial, "failed", str(error))
            return
        spec = TrialSpec.numbered(trial.number, configuration, self.folders, known=trial.epochs)
        self.running[spec.name] = trial
        self.backend.submit(spec)

    def _handle(self, trial: Trial, report: Report) -> None:
        """Record a report, and end the trial after its last epoch or if it is too weak."""
        if isinstance(report, TrialFailure):
            self.search.finish(trial, "failed", report.message)
        elif isinstance(report, EpochRecord):
            self.search.report(trial, (report,))
            value = report.metrics.get(self.objective)
            stops = (
                self.rule is not None
                and value is not None
                and self.rule.report(trial.number, report.epoch, value)
            )
            if report.done or stops:
                self.search.finish_trained(trial)
