"""Stop Tune before its last trial: after too many failures in a row, or if no worker can train.

Running trials can be resumed later.
"""

from typing import Any

from ray import tune

from orchestrator.sweep._failures import FailuresInARow


class SweepStopper(tune.Stopper):
    """Stopper that ends the run if `failures` has a reason or a result is `unfit`.

    A result is `unfit` if no trial can be trained any more.
    """

    def __init__(self, failures: FailuresInARow) -> None:
        self.failures, self.unfit = failures, ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False, so that no trial is stopped for its own result; record an `unfit` one."""
        self.unfit = self.unfit or result.get("unfit", "")
        return False

    def stop_all(self) -> bool:
        """Return whether the whole run stops."""
        return bool(self.unfit or self.failures.reason)

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its stopper for its own restore, which is not used."""
        return {}
