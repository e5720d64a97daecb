"""Build the Tune scheduler of a search."""

from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from orchestrator.config.objectives import primary_goal
from orchestrator.store.records import Sweep
from orchestrator.sweep._early_stopping import StoppingRule, build_stopping_rule
from orchestrator.sweep._hyperband import HyperbandBrackets
from orchestrator.sweep._pbt import PbtScheduler
from orchestrator.sweep._synchronous import SynchronousSearch
from orchestrator.sweep._tune_search import StudySearch


def build_scheduler(
    searcher: StudySearch, sweep: Sweep, concurrency: Callable[[], int]
) -> TrialScheduler:
    """Return the scheduler of the configuration, with the history of the sweep.

    Args:
        concurrency: Returns the number of concurrent trials.
    """
    configuration = searcher.configuration
    if isinstance(searcher, SynchronousSearch):
        if configuration.search.scheduler == "pbt":
            return PbtScheduler(searcher, concurrency)
        return HyperbandBrackets(searcher, concurrency)
    rule = build_stopping_rule(configuration, sweep.trials.values())
    return StoppingScheduler(rule, primary_goal(configuration.search).name)


class StoppingScheduler(FIFOScheduler):
    """Tune scheduler that stops trials by a rule, or none, over our own `epoch`."""

    def __init__(self, rule: StoppingRule | None, objective: str) -> None:
        super().__init__()
        self.rule, self.objective = rule, objective

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues."""
        stops = self._report(trial, result)
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last epoch; a failure has none."""
        self._report(trial, result)

    def _report(self, trial: Any, result: dict[str, Any]) -> bool:
        if self.rule is None or self.objective not in result:
            return False
        return self.rule.report(trial.config["number"], result["epoch"], result[self.objective])
