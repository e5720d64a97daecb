"""Save, load and fingerprint the weights of a network."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.models._misfits import find_misfits, misfit_table
from orchestrator.models._pretrained import load_pretrained, require_pretrained
from orchestrator.models.network import Network
from orchestrator.models.weight_files import is_file_name, read_weights

ADAPTER = "adapter."  # start of the names of an input adapter's constants


def load_weights(network: Network, weights: str, exact: bool = False) -> None:
    """Fill the network in place from a .safetensors file or from weights that have a name.

    A file must fit exactly. The constants of an input adapter, which depend on the data, stay.

    Args:
        network: The network to fill.
        weights: A .safetensors file, or the name of published weights.
        exact: Refuse published weights whose stem or classifier does not fit. Otherwise these
            parts keep their fresh values.

    Raises:
        ConfigurationError: The weights are neither of the two, cannot be read or downloaded, are
            not finite, or belong to another network.
    """
    if is_file_name(weights):
        network.load_state_dict(_load_fitting(network, weights))
    elif network.published is not None:
        network.published.load(network, weights, exact)
    else:
        load_pretrained(network, weights, exact)


def require_weights(network: Network, weights: str, exact: bool = False) -> None:
    """Raise the ConfigurationError of `load_weights`, except for a failed download.

    Nothing is downloaded or changed.

    Args:
        network: The network, of which only shapes and types count; it may be on the meta device.
        weights: A .safetensors file, which is read, or the name of published weights.
        exact: Whether published weights must fit with classifier and stem.
    """
    if is_file_name(weights):
        _load_fitting(network, weights)
    elif network.published is not None:
        network.published.require(network, weights, exact)
    else:
        require_pretrained(network, weights, exact)


def save_weights(network: torch.nn.Module, file: Path) -> None:
    """Write the network's state as safetensors.

    The file is written under a temporary name and then renamed, so an existing file is always
    complete.

    Raises:
        PreflightError: The file cannot be written.
    """
    # Clones, because safetensors refuses shared memory and layouts that are not contiguous.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(state))
        temporary.replace(file)
    except OSError as error:
        raise PreflightError(
            f"{file} cannot be written ({error.strerror}): free disk space, or give another folder"
        ).with_details(str(file), error.strerror, "a file that can be written") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def network_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes, dtypes and bytes, in hexadecimal.

    The order, layout and device of the tensors have no effect.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_fitting(network: Network, weights: str) -> dict[str, Tensor]:
    """Return the tensors of a file after a comparison with the network.

    Raises:
        ConfigurationError: Tensors do not fit; the message holds a table of all of them.
    """
    own, state = network.state_dict(), read_weights(weights, network)
    state |= {name: tensor for name, tensor in own.items() if name.startswith(ADAPTER)}
    misfits = find_misfits(own, state)
    if misfits:
        count = f"{len(misfits)} tensor{'s do' if len(misfits) > 1 else ' does'} not fit"
        raise ConfigurationError(
            f"{weights}: {count}; give weights of {network}\n{misfit_table(misfits)}"
        ).with_details("weights", weights, f"weights of {network}")
    return state
