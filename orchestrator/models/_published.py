"""Fill a network with published weights, and refuse those that do not fit."""

from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.models.network import Network
from orchestrator.models.wrapped import rename_tensors

STEP = (
    "a teacher needs all of its weights, so give a .safetensors file of a fitted network, or "
    "remove teacher.network.weights to fit one"
)


def fill(network: Network, state: dict[str, Tensor], keeps_head: bool) -> None:
    """Fill a network in place with the state of a module of the same form.

    Args:
        network: A network that `as_network` has made.
        state: Tensors by the names of the module.
        keeps_head: Whether the head keeps its values.
    """
    given = {
        name: tensor
        for name, tensor in rename_tensors(state, network.classifier).items()
        if not (keeps_head and name.startswith("head."))
    }
    network.load_state_dict(network.state_dict() | given)


def require_all_classes(network: Network, weights: str, classes: int) -> None:
    """Raise ConfigurationError if published weights are not for the classes of the network.

    Args:
        network: The network.
        weights: The name of the weights.
        classes: The number of classes of the published classifier.
    """
    if classes != network.classes:
        raise ConfigurationError(
            f"weights = {weights} has a classifier for {classes} classes, but the data have "
            f"{network.classes}: {STEP}"
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
