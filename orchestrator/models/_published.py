"""Fill a network with published weights, and refuse those that do not fit."""

from collections.abc import Sequence

from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.models._class_selection import find_positions, select_classes
from orchestrator.models.network import Classes, Network
from orchestrator.models.wrapped import rename_tensors

STEP = (
    "a teacher needs all of its weights, so give a .safetensors file of a fitted network, or "
    "remove teacher.network.weights to fit one"
)


def rename_published(
    network: Network, state: dict[str, Tensor], classes: Classes | None, names: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return the state of a published module under the names of a network.

    Args:
        network: A network that `as_network` has made.
        state: Tensors by the names of the module; they may be on the device `meta`.
        classes: The classes that the network keeps, as in `load_weights`.
        names: The names of the published classes; empty if they are unknown.

    Raises:
        ConfigurationError: A class does not exist.
    """
    named = rename_tensors(state, network.classifier)
    return named if classes is None else select_classes(network, named, classes, names)


def fill(network: Network, named: dict[str, Tensor], keeps_head: bool) -> None:
    """Fill a network in place with tensors of its names.

    Args:
        network: The network.
        named: Its tensors.
        keeps_head: Whether the head keeps its values.
    """
    tensors = {
        name: tensor
        for name, tensor in named.items()
        if not (keeps_head and name.startswith("head."))
    }
    network.load_state_dict(network.state_dict() | tensors)


def require_all_classes(
    network: Network, weights: str, count: int, classes: Classes | None, names: Sequence[str] = ()
) -> None:
    """Raise ConfigurationError if published weights are not for the classes of the network.

    Args:
        network: The network.
        weights: The name of the weights.
        count: The number of classes of the published classifier.
        classes: The classes that the network keeps, as in `load_weights`.
        names: The names of the published classes; empty if they are unknown.
    """
    if classes is not None:
        find_positions(network, classes, count, names)
    elif count != network.classes:
        raise ConfigurationError(
            f"weights = {weights} has a classifier for {count} classes, but the data have "
            f"{network.classes}: name the classes of the data with teacher.classes, or {STEP}"
        ).with_details("weights", weights, f"a classifier for {network.classes} classes")


def require_shapes(
    network: Network, weights: str, published: dict[str, Tensor], fresh: tuple[str, ...]
) -> None:
    """Raise ConfigurationError if published tensors do not fit a network.

    Args:
        network: The network.
        weights: The name of the weights.
        published: Tensors by the names of the network; they may be on the device `meta`.
        fresh: Starts of the names of tensors that may keep their values.
    """
    own = network.state_dict()
    misfits = {
        name: tuple(tensor.shape)
        for name, tensor in own.items()
        if not name.startswith(("adapter.", *fresh))
        and (name not in published or published[name].shape != tensor.shape)
    }
    if misfits:
        raise ConfigurationError(
            f"weights = {weights} do not fit {', '.join(list(misfits)[:5])} of {network}: leave "
            f"out the settings of the network, its input_size or its weights"
        ).with_details("weights", weights, misfits)
