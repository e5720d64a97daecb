"""Fill a module of the user from a file with the module's own tensor names."""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.models._misfits import find_misfits, misfit_table
from orchestrator.models.weight_files import SUFFIX, read_weights

NESTED = ("state_dict", "model", "model_state_dict")  # keys of a checkpoint that hold the tensors


def fill_module(module: nn.Module, weights: str) -> None:
    """Fill a module in place from a .safetensors file, or from a state dict of `torch.save`.

    Args:
        module: The module.
        weights: The file. Its tensors must fit the module exactly.

    Raises:
        ConfigurationError: The file cannot be read, or tensors do not fit; the message holds a
            table of all of them.
    """
    kind = type(module).__name__
    state = _read_state(weights, kind)
    misfits = find_misfits(module.state_dict(), state)
    if misfits:
        count = f"{len(misfits)} tensor{'s do' if len(misfits) > 1 else ' does'} not fit"
        raise ConfigurationError(
            f"{weights}: {count}; give weights of {kind}\n{misfit_table(misfits)}"
        ).with_details("weights", weights, f"weights of {kind}")
    module.load_state_dict(state)


def _read_state(weights: str, kind: str) -> dict[str, Tensor]:
    """Return the tensors of a file by name."""
    file = read_path(weights, "weights")
    if file.suffix.lower() not in (".pth", ".pt", ".bin", ".ckpt") or not file.is_file():
        return read_weights(weights, kind)
    return _read_checkpoint(file)


def _read_checkpoint(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damage has no common error; other objects are UnpicklingError
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds other objects, which are not loaded"
        else:
            reason = type(error).__name__
        raise ConfigurationError(
            f"{file} is no checkpoint of tensors alone ({reason}): save the state dict, "
            f"torch.save(model.state_dict(), ...), or give a {SUFFIX} file"
        ).with_details("weights", str(file), "a state dict") from error
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(
        isinstance(each, Tensor) for each in content.values()
    ):
        raise ConfigurationError(
            f"{file} holds no state dict: save one by torch.save(model.state_dict(), ...), or give "
            f"a {SUFFIX} file"
        ).with_details("weights", str(file), "a state dict")
    return dict(content)
