"""Save, load and fingerprint the weights of a network."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.paths import read_path
from orchestrator.models._class_selection import classifier_names, select_classes
from orchestrator.models._misfits import Misfit, find_misfits, misfit_table
from orchestrator.models._pretrained import load_pretrained, require_pretrained
from orchestrator.models.network import Classes, Network
from orchestrator.models.weight_files import (
    import_command,
    is_file_name,
    read_class_names,
    read_weights,
)

ADAPTER = "adapter."  # start of the names of an input adapter's constants


def load_weights(
    network: Network, weights: str, exact: bool = False, classes: Classes | None = None
) -> None:
    """Fill the network in place from a .safetensors file or from weights that have a name.

    A file must fit exactly. The constants of an input adapter, which depend on the data, stay.

    Args:
        network: The network to fill.
        weights: A .safetensors file, or the name of published weights.
        exact: Refuse published weights whose stem or classifier does not fit. Otherwise these
            parts keep their fresh values.
        classes: The outputs of the weights that the network keeps, by position or name, one for
            each of its classes; None keeps all.

    Raises:
        ConfigurationError: The weights are neither of the two, cannot be read or downloaded, are
            not finite, or belong to another network.
    """
    if is_file_name(weights):
        network.load_state_dict(_load_fitting(network, weights, classes))
    elif network.published is not None:
        network.published.load(network, weights, exact, classes)
    else:
        load_pretrained(network, weights, exact, classes)


def require_weights(
    network: Network,
    weights: str,
    exact: bool = False,
    classes: Classes | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Raise the ConfigurationError of `load_weights`, except for a failed download.

    Nothing is downloaded or changed.

    Args:
        network: The network, of which only shapes and types count; it may be on the meta device.
        weights: A .safetensors file, which is read, or the name of published weights.
        exact: Whether published weights must fit with classifier and stem.
        classes: As for `load_weights`.
        settings: The settings of the network, for the command in a message.
    """
    if is_file_name(weights):
        _load_fitting(network, weights, classes, settings)
    elif network.published is not None:
        network.published.require(network, weights, exact, classes)
    else:
        require_pretrained(network, weights, exact, classes)


def save_weights(network: torch.nn.Module, file: Path) -> None:
    """Write the network's state as safetensors, as `save_state` does."""
    save_state(network.state_dict(), file)


def save_state(
    state: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as safetensors.

    The file is written under a temporary name and then renamed, so an existing file is always
    complete.

    Raises:
        PreflightError: The file cannot be written.
    """
    # Clones, because safetensors refuses shared memory and layouts that are not contiguous.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(copies, metadata))
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


def _load_fitting(
    network: Network,
    weights: str,
    classes: Classes | None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors of a file after a comparison with the network.

    Raises:
        ConfigurationError: Tensors do not fit; the message holds a table of all of them.
    """
    own = network.state_dict()
    adapter = {name: own.pop(name) for name in list(own) if name.startswith(ADAPTER)}
    state = read_weights(weights, network, settings)
    state = {name: tensor for name, tensor in state.items() if name not in adapter}
    if classes is not None:
        names = read_class_names(read_path(weights, "weights"))
        state = select_classes(network, state, classes, names)
    misfits = find_misfits(own, state)
    if misfits:
        count = f"{len(misfits)} tensor{'s do' if len(misfits) > 1 else ' does'} not fit"
        step = f"give weights of {network}"
        if _has_more_classes(network, state, misfits):
            step += ", or name those of their classes that a teacher keeps with teacher.classes"
        elif all(
            needed == "not part of the network" or actual == "missing"
            for _, actual, needed in misfits
        ):
            command = import_command(read_path(weights, "weights"), network, settings)
            step += f", or give them the names of this network with `{command}`"
        raise ConfigurationError(
            f"{weights}: {count}; {step}\n{misfit_table(misfits)}"
        ).with_details("weights", weights, f"weights of {network}")
    return state | adapter


def _has_more_classes(
    network: Network, state: Mapping[str, Tensor], misfits: Sequence[Misfit]
) -> bool:
    """Return whether only the classifier does not fit, because it has more classes."""
    parts = set(classifier_names(network))
    return {misfit.name for misfit in misfits} <= parts and all(
        name in state and len(state[name]) > network.classes for name in parts
    )
