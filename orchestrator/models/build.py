"""List all networks, and build one by its name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from methods import Settings, SettingsError
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.models import _cifar_resnet as cifar_resnet
from orchestrator.models import _simple as simple
from orchestrator.models import _torchvision_models as torchvision_models
from orchestrator.models.network import Network, Shape


@dataclass(frozen=True)
class Builder:
    """Constructor of a network, `make(settings, classes, shape)`, and the class of its settings.

    The settings are validated before `make` is called. `code` identifies the code of a network that
    is not part of this program.
    """

    make: Callable[[Any, int, Shape], Network]
    settings: type[Settings] = Settings
    code: str = ""


MODELS: dict[str, Builder] = {
    "mlp": Builder(simple.mlp, simple.MLPSettings),
    "cnn": Builder(simple.cnn, simple.CNNSettings),
    "separable_cnn": Builder(simple.separable_cnn, simple.SeparableCNNSettings),
    **{name: Builder(make) for name, make in cifar_resnet.BUILDERS.items()},
    **{name: Builder(make) for name, make in torchvision_models.BUILDERS.items()},
}


def build(name: str, classes: int, shape: Shape, settings: Mapping[str, Any]) -> Network:
    """Build a network with fresh weights.

    Args:
        name: A key of `MODELS`.
        classes: Number of classes K of the logits (B, K).
        shape: (channels, height, width) of the inputs (B, channels, height, width).
        settings: Settings of the network by name.

    Raises:
        ConfigurationError: The network or a setting does not exist, or a value is outside its
            range.
    """
    if name not in MODELS:
        raise ConfigurationError(
            f"there is no network {name!r}: {suggest_name(name, MODELS)}"
        ).with_details("name", name, tuple(MODELS))
    builder = MODELS[name]
    try:
        chosen = builder.settings.build(settings)
    except SettingsError as error:
        raise ConfigurationError.from_error(error, f"network {name}: {error}") from error
    return builder.make(chosen, classes, shape)


def build_on_meta(
    name: str, classes: int, shape: Sequence[int], settings: Mapping[str, Any]
) -> Network:
    """Build a network on the device `meta`: its shapes alone, without memory; otherwise `build`."""
    channels, height, width = shape
    with torch.device("meta"):
        return build(name, classes, (channels, height, width), settings)


def network_code(name: str) -> str:
    """Return the identity of the code of a network; empty for the networks of this program."""
    return MODELS[name].code if name in MODELS else ""
