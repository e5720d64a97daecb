"""When Tune stops before its last trial: too many failures in a row, or nobody left to train. Trials that run stay for a resume."""

from typing import Any

from ray import tune

from orchestrator.sweep._failures import FailuresInARow


class SweepStopper(tune.Stopper):
    """Ends the run when `failures` has a reason, or a result says that it is `unfit`: no trial can be trained any more."""

    def __init__(self, failures: FailuresInARow) -> None:
        self.failures, self.unfit = failures, ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether that trial stops: never for its own sake."""
        self.unfit = self.unfit or result.get("unfit", "")
        return False

    def stop_all(self) -> bool:
        """Whether all stop."""
        return bool(self.unfit or self.failures.reason)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune keeps a pickle for a restore of its own, which nobody does."""
        return {}
