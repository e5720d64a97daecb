"""Make sweeps without training: records, a study and a checkpoint, for the tests of the page."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from safetensors.torch import save_file

from orchestrator.config.loader import load
from orchestrator.data.dataset import read_summary
from orchestrator.data.prepare import prepare
from orchestrator.models.build import build
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, write_json

EPOCHS = 9
METHODS = ("cross_entropy", "kd", "akd")
SPACE: dict[str, BaseDistribution] = {
    "method.name": CategoricalDistribution(METHODS),
    "training.learning_rate": FloatDistribution(0.005, 0.5, log=True),
    "kd.temperature": FloatDistribution(1.0, 10.0, log=True),
    "akd.cam": CategoricalDistribution((True, False)),
    "akd.temperature": FloatDistribution(1.0, 10.0, log=True),
}
STATES = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def made(
    root: Path,
    trials: int = 30,
    state: str = "finished",
    kind: str = "sweep",
    name: str = "mine",
    *pairs: str,
) -> Sweep:
    """Make a sweep over three methods in a store.

    Two of three trials are stopped early, one in ten fails. With kind "train" the run is a
    training.
    """
    store = Store.open(root)
    given = [
        "project=tests",
        f"training.epochs={EPOCHS}",
        f"search.trials={max(trials, 1)}",
        "student.width=8",
        *pairs,
    ]
    searched = [f"search.methods=[{', '.join(METHODS)}]"] if kind == "sweep" else []
    sweep = Sweep.create(store.sweep(name), load(None, [*given, *searched]), kind)
    sweep.state, sweep.seconds, sweep.started = state, 3723.0, 1.75e9
    sweep.save()
    generator = np.random.default_rng(0)
    for number in range(trials):
        sweep.save_trial(one(generator, number, kind))
    study(sweep)
    return sweep


def one(generator: np.random.Generator, number: int, kind: str = "sweep") -> Trial:
    """Return a trial whose value follows from its learning rate, and slightly from its method."""
    method = METHODS[number % 3]
    rate = float(np.exp(generator.uniform(np.log(0.005), np.log(0.5))))
    params: dict[str, Any] = {"method.name": method, "training.learning_rate": rate}
    params |= (
        {f"{method}.temperature": float(generator.uniform(1, 10))}
        if method != "cross_entropy"
        else {}
    )
    params |= {"akd.cam": bool(number % 2)} if method == "akd" else {}
    state = (
        "failed"
        if number % 10 == 9
        else "stopped_early"
        if number % 3 == 1 or number % 7 == 6
        else "complete"
    )
    epochs = {"failed": 2, "stopped_early": 3, "complete": EPOCHS}[state]
    reached = (
        0.9 - 0.05 * abs(np.log(rate / 0.05)) + 0.01 * (number % 3) + generator.normal(0, 0.004)
    )
    history = [float(reached * (1 - 0.5 ** (epoch + 1))) for epoch in range(epochs)]
    metrics = {
        "validation/accuracy": history[-1],
        "seconds/epoch": 0.1 + 0.3 * generator.random(),
        "parameters": 1210.0,
    }
    if state == "complete":
        metrics |= {f"test/{which}/accuracy": history[-1] - 0.01 for which in ("best", "last")} | {
            "test/best/nll": 0.4
        }
    trial = Trial(
        number,
        params if kind == "sweep" else {},
        state,  # type: ignore[arg-type]
        history[-1],
        epochs,
        metrics,
        history,  # type: ignore[arg-type]
    )
    trial.message = "the loss is not finite" if state == "failed" else ""
    return trial


def study(sweep: Sweep, again: bool = False) -> None:
    """Write the study of a sweep's records as its journal; `again` replaces an existing one."""
    if again:
        (sweep.folder / "study.log").unlink()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.log")))
    kept = optuna.create_study(study_name=sweep.name, storage=storage, direction="maximize")
    for _, trial in sorted(sweep.trials.items()):
        state = STATES.get(trial.state, TrialState.RUNNING)
        value = trial.value if state == TrialState.COMPLETE else None
        bounds = {name: SPACE[name] for name in trial.params if name in SPACE}
        params = {name: trial.params[name] for name in bounds}
        kept.add_trial(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions=bounds,
                intermediate_values=dict(trial.known),
            )
        )


def give_data(root: Path, sweep: Sweep) -> None:
    """Prepare the digits, and write their summary to the sweep."""
    folder = prepare(sweep.configuration.data, root, sweep.configuration.data.seed)
    write_json(sweep.folder / "data.json", read_summary(folder).plain())


def give_weights(sweep: Sweep, number: int, letter: str = "") -> None:
    """Write a checkpoint of a trial, with random student weights and the data of its figures."""
    checkpoint = sweep.trial_folder(number) / "checkpoint" / letter
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(number)
    chosen = sweep.configuration.students["b" if letter == "b" else "a"].network
    network = build("mlp", 10, (1, 8, 8), chosen.settings)
    save_file(network.state_dict(), checkpoint / "best.safetensors")
    steps = {
        "steps/epoch": torch.arange(20) / 4,
        "steps/cross_entropy": torch.rand(20),
        "steps/distillation": torch.rand(20),
    }
    save_file(
        steps | {"epochs/class_accuracy": torch.rand(EPOCHS, 10)}, checkpoint / "trace.safetensors"
    )
