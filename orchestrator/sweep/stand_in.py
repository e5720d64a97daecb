"""What Tune sees of a trial: a Trainable that trains nothing, holds no CPU, and waits for a worker group's reports."""

from typing import Any

from ray import tune

from orchestrator.actors.desk import Desk
from orchestrator.config import Configuration
from orchestrator.errors import UserError
from orchestrator.trial import TrialSpec, trial_name


class StandIn(tune.Trainable):
    """Reused from trial to trial; every record of a worker is one Tune result with our own `epoch`."""

    def setup(self, config: dict[str, Any], place: dict[str, Any]) -> None:
        """`place`: the desk's name, the folders of the sweep, and what every trial has in common."""
        self.place = place
        self.desk = Desk.find(place["desk"])
        self.begin(config)

    def begin(self, config: dict[str, Any]) -> None:
        """Hand a trial to the worker groups; one that could not be built is failed at the first step."""
        self.error = config.get("error")
        self.trial = trial_name(config["number"])
        if not self.error:
            configuration = Configuration.model_validate_json(config["configuration"])
            specification = TrialSpec.numbered(config["number"], configuration, self.place["folders"])
            self.desk.submit(self.trial, specification.plain())

    def step(self) -> dict[str, Any]:
        """The next epoch's record; a failure is the last result of its trial, and leaves the stand-in as it is."""
        record = {"failed": self.error} if self.error else self._next_record()
        if record.get("failed"):
            return {"failed": record["failed"], "done": True}
        objective = self.place["objective"]
        value = {objective: record["metrics"][objective]} if objective in record["metrics"] else {}
        told = {"notes": record["notes"]} if record.get("notes") else {}
        return {"epoch": record["epoch"], "metrics": record["metrics"], "done": bool(record.get("done")), **value, **told}

    def _next_record(self) -> dict[str, Any]:
        try:
            return self.desk.next_report(self.trial, self.place["wait_s"])
        except UserError as error:  # raised here it would stand in a log of Ray that nobody reads
            return {"failed": str(error)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial."""
        self.begin(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trial's checkpoint is written by its workers, in the trial's own folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the workers go on from the trial's folder."""
