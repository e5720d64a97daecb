"""What Tune sees of a trial: a Trainable that trains nothing, holds no CPU, and waits for a worker group's reports."""

import contextlib
import json
import threading
import uuid
from pathlib import Path
from typing import Any

from ray import get_runtime_context, tune

from orchestrator.cluster.dispatcher_client import DispatcherClient
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec, trial_name
from orchestrator.core.errors import PreflightError, UserError
from orchestrator.store.record_file import RecordSchema
from orchestrator.sweep import _snapshots as snapshots

ALIVE_S, CLEANUP_S = 5.0, 2.0
RELEASES = 3  # times `heartbeat_timeout_s`: a group that does not give a trial back is replaced, and that takes a while
POINTER = "pointer.json"  # what Tune keeps for a checkpoint: the folder of a snapshot
SNAPSHOT = RecordSchema[dict[str, str | None]](dict[str, str | None])


class ProxyTrainable(tune.Trainable):
    """Reused from trial to trial; every record of a worker is one Tune result with our own `epoch`.

    Keys of Tune's `config`: number; configuration (JSON) or error; until: the epoch after which the worker stops and Tune pauses
    the trial (none: it trains to its end); snapshot: what a resumed trial begins with, if it is there; known: the last epoch that
    the driver heard of.
    """

    def setup(self, config: dict[str, Any], place: dict[str, Any]) -> None:
        """`place`: the desk's name, the folders of the sweep, and what every trial has in common."""
        self.place = place
        self.desk = DispatcherClient.find(place["desk"])
        self.begin(config)
        self.after_another = True  # one that died: its trial may still be trained
        self.over = threading.Event()
        process = get_runtime_context().current_actor
        self.signs = threading.Thread(target=self._attend, args=(process,), daemon=True)
        self.signs.start()

    def _attend(self, process: Any) -> None:
        """Signs of life, whatever the trial waits for: Tune would wait for ever for a process that is stopped."""
        reader, every_s = uuid.uuid4().hex, min(ALIVE_S, self.place["heartbeat_timeout_s"] / 4)
        while not self.over.is_set():
            with contextlib.suppress(Exception):  # Ray in trouble fails in many ways; the next sign may get through
                self.desk.attend(reader, self.trial, process)
            self.over.wait(every_s)
        with contextlib.suppress(Exception):
            self.desk.deregister(reader)

    def cleanup(self) -> None:
        """End the signs of life."""
        self.over.set()
        self.signs.join(CLEANUP_S)

    def begin(self, config: dict[str, Any]) -> None:
        """Take a trial; one that could not be built is failed at the first step. Tune may still say where it goes on from."""
        self.error = config.get("error")
        self.trial = trial_name(config["number"])
        self.submitted, self.known, self.after_another = False, 0, False
        self.heard: int = config.get("known", 0)  # by the driver, which may have died before it heard of the last ones
        self.until: int | None = config.get("until")
        self.snapshot = self._kept(config.get("snapshot"))
        if not self.error:
            configuration = Configuration.model_validate_json(config["configuration"])
            self.specification = TrialSpec.numbered(config["number"], configuration, self.place["folders"], self.until)

    @staticmethod
    def _kept(folder: str | None) -> Path | None:
        return Path(folder) if folder and Path(folder).is_dir() else None

    def step(self) -> dict[str, Any]:
        """The next epoch's record; a failure is the last result of its trial, and leaves the stand-in as it is.

        `unfit` says that nobody can train the trial any more, which is no failure: the run ends, and a resume goes on.
        """
        record = {"failed": self.error} if self.error else self._next_record()
        for end in ("failed", "unfit"):
            if record.get(end):
                return {end: record[end], "done": True}
        objective = self.place["objective"]
        value = {objective: record["metrics"][objective]} if objective in record["metrics"] else {}
        told = {key: record[key] for key in ("notes", "missed") if record.get(key)}
        metrics = json.dumps(record["metrics"])  # of numbers Tune keeps a history each, 100 KiB a trial and 10 ms a report
        return {"epoch": record["epoch"], "metrics": metrics, "done": bool(record.get("done")), **value, **told}

    def _next_record(self) -> dict[str, Any]:
        try:
            if not self.submitted:
                self._submit()
            missed = []
            while True:
                record = self.desk.next_report(self.trial, self.place["heartbeat_timeout_s"])
                if record.get("epoch", self.known + 1) <= self.known:  # a training that goes on tells its last epoch again
                    continue
                if not record.pop("behind", False) or self.until is None:
                    break
                missed.append(record)  # trials that wait for one another are compared by the epoch at which they stand
            if not record.get("failed"):
                self._reached(record)
            return record | ({"missed": missed} if missed else {})
        except PreflightError as error:
            return {"unfit": str(error)}
        except UserError as error:  # raised here it would stand in a log of Ray that nobody reads
            return {"failed": str(error)}
        except OSError as error:
            return {"failed": f"the checkpoint could not be copied: {error}"}

    def _submit(self) -> None:
        """Hand the trial to the worker groups, once nobody works on its folder any more and its checkpoint stands where it must."""
        if self.after_another:
            self.desk.stop(self.trial)
        if self.snapshot or self.after_another:
            self.desk.wait_until_released(self.trial, RELEASES * self.place["heartbeat_timeout_s"])
        self.after_another = False
        if self.snapshot:
            snapshots.put_back(self.snapshot, self.specification.folder)
            self.snapshot = None
        self.desk.submit(self.trial, self.specification.model_copy(update={"known": max(self.heard, self.known)}).plain())
        self.submitted = True

    def _reached(self, record: dict[str, Any]) -> None:
        """Where the worker stopped, the checkpoint is kept; a scheduler that goes on nevertheless goes on to the end."""
        if self.until is not None and record["epoch"] >= self.until and not record.get("done"):
            self.known = record["epoch"]
            self.snapshot = snapshots.keep(self.specification.folder, self.known)
            self.until, self.submitted = None, False
            self.specification = self.specification.model_copy(update={"until": None})

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial, or the same one with other settings."""
        self.begin(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Where the trial's snapshot lies. Its weights stay where the workers wrote them."""
        SNAPSHOT.keep(Path(checkpoint_dir) / POINTER, {"snapshot": str(self.snapshot) if self.snapshot else None})

    def load_checkpoint(self, checkpoint: Any) -> None:
        """The trial goes on from a snapshot, its own or another one's."""
        kept = SNAPSHOT.read(Path(checkpoint) / POINTER)["snapshot"]
        if kept:
            self.snapshot = Path(kept)
            self.known = snapshots.epoch_of(self.snapshot)
