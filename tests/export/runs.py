"""Change the trained run of a store, and compute the logits of its checkpoints."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from orchestrator.config.loader import build as configure
from orchestrator.models.build import build
from orchestrator.models.network import Network
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, read_json, write_json

PEER = {"b": {"network": {"name": "mlp", "width": 8}, "training": {"learning_rate": 0.01}}}


def trial_folder(store: Store, number: int = 0) -> Path:
    return store.sweep("mine") / "trials" / f"{number:05d}"


def give_peer(store: Store) -> None:
    """Add a second student to the training, with its own weights and metrics."""
    sweep = Sweep.open(store, "mine")
    sweep.configuration = configure(
        sweep.configuration.plain() | {"peers": PEER, "resources": {"workers": 2}}
    )
    sweep.save()
    checkpoint = trial_folder(store) / "checkpoint"
    progress = read_json(checkpoint / "progress.json")
    metrics = progress["record"]["metrics"]
    other = {name: value / 2 for name, value in metrics.items()}
    both = {f"a/{name}": value for name, value in metrics.items()} | {
        f"b/{name}": value for name, value in other.items()
    }
    progress["record"]["metrics"] = {
        name: (metrics[name] + other[name]) / 2 for name in metrics
    } | both
    write_json(checkpoint / "progress.json", progress)
    (checkpoint / "b").mkdir()
    write_json(checkpoint / "b" / "progress.json", progress | {"best_epoch": 1, "best_value": 0.25})
    for seed, name in enumerate(("student", "best")):
        save_file(peer(seed).state_dict(), checkpoint / "b" / f"{name}.safetensors")


def peer(seed: int) -> Network:
    torch.manual_seed(seed)
    return build("mlp", 10, (1, 8, 8), {"width": 8})


def add_trial(store: Store, number: int, **changes: Any) -> None:
    """Add another trial with the checkpoint of the first."""
    shutil.copytree(trial_folder(store), trial_folder(store, number))
    file = trial_folder(store, number) / "trial.json"
    write_json(file, read_json(file) | {"number": number} | changes)


def images() -> torch.Tensor:
    return torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(network: Network, weights: Path) -> torch.Tensor:
    network.load_state_dict(load_file(weights))
    outputs: torch.Tensor = network.eval()(images()).logits
    return outputs
