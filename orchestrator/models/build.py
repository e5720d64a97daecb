"""The one list of networks, and how one is built from its name. Knows no data set and no weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from methods import Settings, SettingsError
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.models import _cifar_resnet as cifar_resnet
from orchestrator.models import _simple as simple
from orchestrator.models import _torchvision_models as torchvision_models
from orchestrator.models.network import Network, Shape


@dataclass(frozen=True)
class Builder:
    """How a network is made: `make(settings, classes, shape)`, with its settings validated before."""

    make: Callable[[Any, int, Shape], Network]
    settings: type[Settings] = Settings


MODELS: dict[str, Builder] = {
    "mlp": Builder(simple.mlp, simple.MLPSettings),
    "cnn": Builder(simple.cnn, simple.CNNSettings),
    "separable_cnn": Builder(simple.separable_cnn, simple.SeparableCNNSettings),
    **{name: Builder(make) for name, make in cifar_resnet.BUILDERS.items()},
    **{name: Builder(make) for name, make in torchvision_models.BUILDERS.items()},
}


def build(name: str, classes: int, shape: Shape, settings: Mapping[str, Any]) -> Network:
    """A network with fresh weights for inputs (B, *shape), shape = (channels, height, width), and logits (B, classes).

    ConfigurationError: no such network, a setting it does not have, or one outside its range.
    """
    if name not in MODELS:
        raise ConfigurationError(
            f"there is no network {name!r}: {suggest_name(name, MODELS)}", field="name", value=name, allowed=tuple(MODELS)
        )
    builder = MODELS[name]
    try:
        chosen = builder.settings.build(settings)
    except SettingsError as error:
        raise ConfigurationError.from_error(error, f"network {name}: {error}") from error
    return builder.make(chosen, classes, shape)
