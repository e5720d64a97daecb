"""Load weights that torchvision publishes into a network of this project."""

import pickle
from pathlib import Path
from typing import Any

from torch import Tensor, hub

from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.models._class_selection import select_classes
from orchestrator.models._published import STEP, require_all_classes
from orchestrator.models._torchvision_models import PARTS, Parts
from orchestrator.models.meta import meta_device
from orchestrator.models.network import Classes, Network


def load_pretrained(
    network: Network, weights: str, exact: bool, classes: Classes | None = None
) -> None:
    """Fill the network in place with published weights, which are downloaded on first use.

    The classifier and the stem keep their fresh values if their shape differs (other classes, small
    or grey images).

    Args:
        network: The network to fill.
        weights: A name such as `IMAGENET1K_V1` or `ResNet18_Weights.IMAGENET1K_V1`.
        exact: Refuse weights whose stem or classifier does not fit, as for a teacher.
        classes: The classes of the weights that the network keeps; None keeps all.

    Raises:
        ConfigurationError: torchvision has no such network or weights, the download fails, or
            `exact` weights do not fit.
    """
    entry = _find_own_weights(network, weights)
    state = _rename(network, download(entry, weights), classes, entry)
    network.load_state_dict(
        {**network.state_dict(), **_select_fitting(network, weights, state, exact)}
    )


def require_pretrained(
    network: Network, weights: str, exact: bool, classes: Classes | None = None
) -> None:
    """Raise the ConfigurationError of `load_pretrained` without a download.

    The check uses the shapes of torchvision's network.
    """
    from torchvision.models import get_model

    entry = _find_own_weights(network, weights)
    with meta_device():
        published = get_model(network.name).state_dict()
    state = _rename(network, published, classes, entry)
    _select_fitting(network, weights, state, exact)


def _rename(
    network: Network, published: dict[str, Tensor], classes: Classes | None, entry: Any
) -> dict[str, Tensor]:
    """Return the published tensors under this project's names, with the given classes alone."""
    state = _rename_tensors(published, PARTS[network.name])
    if classes is None:
        return state
    return select_classes(network, state, classes, entry.meta["categories"])


def _select_fitting(
    network: Network, weights: str, state: dict[str, Tensor], exact: bool
) -> dict[str, Tensor]:
    """Return the tensors that fit the network."""
    expected = network.state_dict()
    fits = {
        name: tensor
        for name, tensor in state.items()
        if name in expected and tensor.shape == expected[name].shape
    }
    assert all(name in fits or _may_stay_fresh(name, PARTS[network.name]) for name in expected), (
        "PARTS matches torchvision"
    )
    if exact:
        _require_all(
            network,
            weights,
            {name: state[name] for name in state if name in expected and name not in fits},
        )
    return fits


def _require_all(network: Network, weights: str, misfits: dict[str, Tensor]) -> None:
    if "head.weight" in misfits:
        require_all_classes(network, weights, len(misfits["head.weight"]), None)
    if misfits:
        raise ConfigurationError(
            f"weights = {weights} does not fit {', '.join(misfits)} of {network} for these images: "
            f"{STEP}"
        ).with_details(
            "weights", weights, {name: tuple(network.state_dict()[name].shape) for name in misfits}
        )


def _find_own_weights(network: Network, weights: str) -> Any:
    if network.name not in PARTS:
        message = (
            f"weights = {weights!r} is not a .safetensors file, and torchvision has no weights "
            f"for {network.name}"
        )
        raise ConfigurationError(
            f"{message}: give a .safetensors file with weights of {network}"
        ).with_details("weights", weights, "a .safetensors file")
    return find_weights(network.name, network.name, weights)


def find_weights(architecture: str, name: str, weights: str) -> Any:
    """Return torchvision's enum member for these weights of a network.

    Args:
        architecture: torchvision's name of the network.
        name: The name of the network, for messages.
        weights: The name of the weights, with or without that of the enum.

    Raises:
        ConfigurationError: There are no weights of this name.
    """
    from torchvision.models import get_model_weights

    known: Any = get_model_weights(architecture)
    owner, _, member = weights.rpartition(".")
    if owner not in ("", known.__name__) or member not in known.__members__:
        names = [f"{known.__name__}.{entry}" for entry in known.__members__]
        message = f"there are no weights {weights!r} of {name}: {suggest_name(weights, names)}"
        raise ConfigurationError(f"{message}, or give a .safetensors file").with_details(
            "weights", weights, tuple(names)
        )
    return known[member]


def download(entry: Any, weights: str) -> dict[str, Tensor]:
    """Return the tensors of published weights, which are downloaded on first use.

    Args:
        entry: Member of an enum of torchvision.
        weights: The name of the weights, for messages.

    Raises:
        ConfigurationError: The download fails, or the file contains more than weights.
    """
    # urllib raises OSErrors; a damaged download raises a RuntimeError (hash) or an EOFError.
    try:
        state: dict[str, Tensor] = entry.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except pickle.UnpicklingError as error:
        file = Path(hub.get_dir(), "checkpoints", Path(entry.url).name)
        raise ConfigurationError(
            f"{file} contains more than weights: remove it, so that it is downloaded again"
        ).with_details("weights", weights, "weights alone") from error
    except (OSError, RuntimeError, EOFError) as error:
        message = f"the weights {entry} could not be downloaded from {entry.url} ({error})"
        raise ConfigurationError(
            f"{message}: allow the connection, or give a .safetensors file"
        ).with_details("weights", weights, "a connection, or a .safetensors file") from error
    return state


def _rename_tensors(state: dict[str, Tensor], parts: Parts) -> dict[str, Tensor]:
    """Return the state with the classifier under `head` and the rest under `body`."""
    start = f"{parts.classifier}."
    return {
        f"head.{name.removeprefix(start)}" if name.startswith(start) else f"body.{name}": state[
            name
        ]
        for name in state
    }


def _may_stay_fresh(name: str, parts: Parts) -> bool:
    # Weights published before batch norm counted its batches lack that counter.
    return name.startswith(("head.", "adapter.", f"body.{parts.stem}.")) or name.endswith(
        ".num_batches_tracked"
    )
