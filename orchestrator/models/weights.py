"""Weights of a network: saved, loaded, and told apart by a fingerprint. Knows files and torchvision's names, no training."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from orchestrator.errors import ConfigurationError, EnvironmentUnfitError
from orchestrator.models.network import Network
from orchestrator.models.pretrained import load_pretrained
from orchestrator.paths import read_path


def load_weights(network: Network, weights: str, exact: bool = False) -> None:
    """Fills the network in place from a .safetensors file or from weights that torchvision names.

    A file has to fit exactly. torchvision's weights leave out the stem or the classifier where its shape differs, unless
    `exact`. ConfigurationError: neither of the two, not readable, not downloadable, or of another network.
    """
    if not weights.endswith(".safetensors"):
        load_pretrained(network, weights, exact)
        return
    state = _read(read_path(weights, "weights"), network)
    misfit = _first_misfit(network.state_dict(), state)
    if misfit:
        raise ConfigurationError(f"{weights} does not fit, {misfit}: give weights of {network}")
    network.load_state_dict(state)


def save_weights(network: torch.nn.Module, file: Path) -> None:
    """Writes the network's state as safetensors, aside and then renamed, so that a file that is there is whole.

    EnvironmentUnfitError: the file cannot be written.
    """
    # Clones, because safetensors refuses memory that two tensors share and layouts that are not contiguous.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in network.state_dict().items()
    }
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(save(state))
        aside.replace(file)
    except OSError as error:
        raise EnvironmentUnfitError(f"{file} cannot be written ({error.strerror}): free space, or give another folder") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def network_fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, dtypes and bytes, in hexadecimal; the order, layout and device of the tensors do not count."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(file: Path, network: Network) -> dict[str, Tensor]:
    if not file.is_file():
        raise ConfigurationError(f"{file} does not exist or is no file: give a .safetensors file with weights of {network}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        message = f"{file} is not a whole safetensors file ({reason}): give weights of {network}"
        raise ConfigurationError(message) from error


def _first_misfit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is missing, of another shape or not expected, in words."""
    for name, tensor in expected.items():
        if name not in given:
            return f"{name} is missing"
        if given[name].shape != tensor.shape:
            return f"{name} has shape {_shape(given[name])} where {_shape(tensor)} is expected"
    return next((f"{name} is not expected" for name in given if name not in expected), None)


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "()"
