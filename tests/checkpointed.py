"""Make sweeps of real checkpoints without training, as sources of exports and models."""

import torch
from safetensors.torch import save_file

from orchestrator.config.loader import load
from orchestrator.data.dataset import read_summary
from orchestrator.data.prepare import prepare
from orchestrator.models.build import build
from orchestrator.models.network import Network
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, write_json
from orchestrator.tracking.tracker import Tracker

WIDTH = 4


def start_sweep(store: Store, *pairs: str, name: str = "mine") -> Sweep:
    """Return a sweep on digits without trials."""
    configuration = load(
        None,
        [
            "project=tests",
            "student.name=cnn",
            f"student.width={WIDTH}",
            "training.epochs=2",
            *pairs,
        ],
    )
    sweep = Sweep.create(store.sweep(name), configuration, "sweep")
    write_json(
        sweep.folder / "data.json",
        read_summary(prepare(configuration.data, store.root, configuration.data.seed)).plain(),
    )
    return sweep


def student(seed: int) -> Network:
    """Return the student of the trial with this number."""
    torch.manual_seed(seed)
    return build("cnn", 10, (1, 8, 8), {"width": WIDTH}).eval()


def with_student(sweep: Sweep, number: int, accuracy: float) -> Trial:
    """Add a complete trial to the sweep, with a checkpoint of fresh student weights."""
    metrics = {"validation/accuracy": accuracy, "test/best/accuracy": accuracy / 2}
    folder = sweep.trial_folder(number) / "checkpoint"
    folder.mkdir(parents=True)
    for file in ("best", "student"):
        save_file(student(number).state_dict(), folder / f"{file}.safetensors")
    progress = {"best_epoch": 1, "best_value": accuracy, "record": {"epoch": 2, "metrics": metrics}}
    write_json(folder / "progress.json", progress)
    params = {"method.name": "kd", "kd.temperature": 2.0 + number}
    trial = Trial(number, params, "complete", accuracy, 2, metrics, [accuracy - 0.1, accuracy])
    sweep.save_trial(trial)
    return trial


def track(store: Store, sweep: Sweep, *trials: Trial, ended: str = "finished") -> None:
    """Log the end of these trials, and then of the sweep, as a driver does."""
    sweep.state = "running"
    tracker = Tracker(store, sweep, [str(digit) for digit in range(10)])
    for trial in trials:
        tracker.trial_started(trial)
        tracker.trial_reported(trial, trial.epochs, trial.metrics)
        tracker.trial_ended(trial)
    assert tracker.close(ended, timeout=200) == 0
    sweep.state = ended
    sweep.save()
