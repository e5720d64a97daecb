"""Simulate Tune without actors: run the scheduler's trials, and apply its decisions."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep._reconcile import reconcile
from orchestrator.sweep._study import open_study
from orchestrator.sweep._synchronous import SynchronousSearch
from orchestrator.sweep.events import Events, Listener

OBJECTIVE = "validation/accuracy"
Score = Callable[[int, int], float | None]  # number, epoch -> value; None: the trial fails


def begin(
    folder: Path, *pairs: str, listeners: Sequence[Listener] = ()
) -> tuple[Sweep, SynchronousSearch]:
    """Return a new KD sweep whose trials wait for each other, and its searcher."""
    configuration = load(None, ["method.name=kd", *pairs])
    sweep = Sweep.create(Store.open(folder).sweep("mine"), configuration, "sweep")
    study = open_study(sweep.folder, configuration, resume=False)
    return sweep, SynchronousSearch(
        study, configuration, Events(sweep, list(listeners)), [], configuration.search.trials
    )


def resumed(sweep: Sweep) -> tuple[Sweep, SynchronousSearch]:
    """Return the sweep and its searcher as another process opens them."""
    found = Sweep.open(Store(sweep.folder.parent.parent), sweep.name)
    study = open_study(found.folder, found.configuration, resume=True)
    reconcile(study, found)
    unfinished = [trial for trial in found.trials.values() if not trial.ended]
    return found, SynchronousSearch(
        study, found.configuration, Events(found, []), unfinished, len(unfinished)
    )


class SimulatedTrial:
    """A scheduler's view of a trial: `epoch` is the last trained one, `weights` their origin."""

    def __init__(self, trial_id: str, config: dict[str, Any], epoch: int) -> None:
        self.trial_id, self.config, self.epoch = trial_id, config, epoch
        self.status = TuneTrial.PENDING
        self.weights = [config["number"]]
        self.experiment_tag = trial_id
        self.checkpoint: Any = None
        self.is_saving = False
        self.temporary_state = SimpleNamespace(saving_to=None)
        manager = SimpleNamespace(_latest_checkpoint_result=None)
        self.run_metadata = SimpleNamespace(checkpoint_manager=manager)

    def set_status(self, status: str) -> None:
        self.status = status

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag

    def is_finished(self) -> bool:
        return self.status in (TuneTrial.TERMINATED, TuneTrial.ERROR)

    def keep(self, result: dict[str, Any]) -> Any:
        """Register and return the trial's checkpoint, as Tune does."""
        self.checkpoint = SimpleNamespace(weights=list(self.weights), epoch=self.epoch)
        self.run_metadata.checkpoint_manager._latest_checkpoint_result = SimpleNamespace(
            checkpoint=self.checkpoint, metrics=result
        )
        return self.checkpoint

    def restore(self) -> None:
        latest = self.run_metadata.checkpoint_manager._latest_checkpoint_result
        if latest:
            self.weights, self.epoch = list(latest.checkpoint.weights), latest.checkpoint.epoch
            if self.weights[-1] != self.config["number"]:
                self.weights.append(self.config["number"])


class SimulatedTune:
    """Tune's controller; a failed trial stays among the live ones, as in Tune."""

    def __init__(
        self,
        searcher: SynchronousSearch,
        scheduler: Any,
        score: Score,
        concurrency: int,
        seed: int = 0,
    ) -> None:
        self.searcher, self.scheduler, self.score, self.concurrency = (
            searcher,
            scheduler,
            score,
            concurrency,
        )
        self.order = random.Random(seed)
        self.trials: list[SimulatedTrial] = []
        self.most_running = 0
        for number in range(searcher.total):
            config = searcher.suggest(str(number))
            self.trials.append(
                SimulatedTrial(str(number), config, searcher.trials[str(number)].epochs)
            )
            scheduler.on_trial_add(self, self.trials[-1])
            assert self.trials[-1].status == TuneTrial.PAUSED, (
                "no trial starts before all have been added"
            )

    def get_trials(self) -> list[SimulatedTrial]:
        return self.trials

    def get_live_trials(self) -> list[SimulatedTrial]:
        return [trial for trial in self.trials if trial.status != TuneTrial.TERMINATED]

    def pause_trial(self, trial: SimulatedTrial, should_checkpoint: bool = True) -> None:
        assert not should_checkpoint
        trial.set_status(TuneTrial.PAUSED)

    def _schedule_trial_save(self, trial: SimulatedTrial, result: dict[str, Any]) -> Any:
        return trial.keep(result)

    def stop_trial(self, trial: SimulatedTrial) -> None:
        """Stop a waiting trial for the scheduler."""
        self.scheduler.on_trial_remove(self, trial)
        self.searcher.on_trial_complete(trial.trial_id)
        trial.set_status(TuneTrial.TERMINATED)

    def run(self, stop_after: int = 10**9) -> "SimulatedTune":
        """Run until no trial can run, or until `stop_after` epochs are reported."""
        for _ in range(stop_after):
            while (chosen := self.scheduler.choose_trial_to_run(self)) is not None:
                chosen.set_status(TuneTrial.RUNNING)
                chosen.restore()
                # a resumed training repeats its last report; after a pause the proxy drops it
                chosen.epoch -= chosen.epoch > 0 and chosen.checkpoint is None
            running = [trial for trial in self.trials if trial.status == TuneTrial.RUNNING]
            assert len(running) <= self.concurrency
            running_numbers = {
                number
                for number, trial in self.searcher.events.sweep.trials.items()
                if trial.state == "running"
            }
            assert running_numbers == {trial.config["number"] for trial in running}, (
                "the records name the running trials"
            )
            self.most_running = max(self.most_running, len(running))
            if not running:
                assert all(trial.is_finished() for trial in self.trials), "a trial waits for ever"
                return self
            self._step(self.order.choice(running))
        return self

    def _step(self, trial: SimulatedTrial) -> None:
        until, number = trial.config["until"], trial.config["number"]
        known = self.searcher.trials[trial.trial_id].epochs
        assert until is None or trial.epoch < until or trial.epoch < known, "its worker has stopped"
        trial.epoch += 1
        value = self.score(number, trial.epoch)
        if value is None:
            self._end(trial, {"failed": "it diverged", "done": True}, TuneTrial.TERMINATED)
            return
        result = {"epoch": trial.epoch, OBJECTIVE: value, "metrics": json.dumps({OBJECTIVE: value})}
        if trial.epoch == self.searcher.configuration.training.epochs:
            self._end(trial, result | {"done": True}, TuneTrial.TERMINATED)
            return
        decision = self.scheduler.on_trial_result(self, trial, result)
        if decision == TrialScheduler.STOP:
            self._end(trial, result, TuneTrial.TERMINATED)
            return
        self.searcher.on_trial_result(trial.trial_id, result)
        if decision == TrialScheduler.PAUSE:
            trial.keep(result)
            trial.set_status(TuneTrial.PAUSED)

    def _end(self, trial: SimulatedTrial, result: dict[str, Any], status: str) -> None:
        self.scheduler.on_trial_complete(self, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result)
        trial.set_status(status)

    def die(self, trial: SimulatedTrial) -> None:
        """Simulate the death of the trial's proxy."""
        trial.set_status(TuneTrial.RUNNING)
        self.scheduler.on_trial_error(self, trial)
        self.searcher.on_trial_complete(trial.trial_id, error=True)
        trial.set_status(TuneTrial.ERROR)
