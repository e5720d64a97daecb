"""Search from Python: functions reach the workers, and nothing of Ray survives."""

import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from orchestrator import api as od
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store


def child_processes() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def space(trial: Any) -> None:
    trial.suggest_float("temperature", 1.0, 6.0)
    trial.suggest_float("training.learning_rate", 0.02, 0.2, log=True)


# test_commands.py interrupts and resumes a command, tests/api a training of this process
@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_of_functions_is_interrupted_and_resumed(tmp_path: Path, own_ray: None) -> None:
    """The class is defined in the test, so that workers cannot import it."""

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.hidden, self.fc = nn.Linear(64, width), nn.Linear(width, 10)

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.fc(torch.relu(self.hidden(inputs.flatten(1))))
            return output

    digits, before = load_digits(), child_processes()
    images = np.rint(digits.images[:400] * (255 / 16)).astype(np.uint8)
    data = od.data((images[:300], digits.target[:300]), (images[300:], digits.target[300:400]))
    teacher = od.teacher(lambda: Net(32), epochs=2)
    call: dict[str, Any] = {
        "space": space,
        "store": tmp_path,
        "epochs": 2,
        "scheduler": "none",
        "progress": False,
    }

    interrupted = threading.Event()

    def interrupt_at_the_first_trial() -> None:
        while not list(tmp_path.glob("sweeps/mine/trials/*/trial.json")):
            if interrupted.wait(0.1):
                return
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    watcher = threading.Thread(target=interrupt_at_the_first_trial, daemon=True)
    watcher.start()
    try:
        with pytest.raises(KeyboardInterrupt, match="resume='mine'"):
            od.sweep(lambda: Net(8), teacher, data, "kd", trials=3, name="mine", **call)
    finally:
        interrupted.set()
    assert Sweep.open(Store.existing(tmp_path), "mine").state == "interrupted"
    assert not ray.is_initialized() and child_processes() <= before

    study = od.sweep(lambda: Net(8), teacher, data, "kd", trials=4, resume="mine", **call)
    assert study.state == "finished" and [trial.state for trial in study.trials] == ["complete"] * 4
    assert not ray.is_initialized() and child_processes() <= before
    assert set(study.best.params) == {"temperature", "training.learning_rate"}
    assert len(study.to_optuna().trials) == 4
    assert study.best.predict(images[300:]).shape == (100, 10)
    assert (study.best.export(tmp_path / "out") / "model.safetensors").is_file()
