"""Build classifiers of torchvision, `torchvision/NAME`, and load their published weights.

They are built as torchvision defines them. The networks in `_torchvision_models.py` have another
stem for small images. torchvision is imported when a name needs it: its import takes seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from orchestrator.core.errors import ConfigurationError
from orchestrator.models._builder import (
    Builder,
    OpenSettings,
    call_constructor,
    list_plain_arguments,
    list_types,
    unknown_network,
)
from orchestrator.models._pretrained import download, find_weights
from orchestrator.models._published import rename_published, require_all_classes, require_shapes
from orchestrator.models.meta import meta_device
from orchestrator.models.network import Classes, Network, Shape
from orchestrator.models.wrapped import as_network

_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_SEQUENCES = ("features", "trunk_output")  # names of the body in the networks without layers
_PROBED_SIDE = 224


class TorchvisionSettings(OpenSettings):
    """Arguments of the constructor of a torchvision network."""

    reserved: ClassVar[Mapping[str, str]] = {
        "num_classes": "it is the number of classes of the data",
        "image_size": "set input_size",
        "weights": "set weights to a name or a file",
        "weights_backbone": "classifiers do not use it",
        "progress": "it has no effect",
    }


@dataclass(frozen=True)
class TorchvisionWeights:
    """Weights that torchvision publishes for a network.

    Attributes:
        name: torchvision's name of the network.
        stem: Path of the first convolution if it is not that of three channels; otherwise empty.
    """

    name: str
    stem: str

    def load(self, network: Network, weights: str, exact: bool, classes: Classes | None) -> None:
        """Fill a network in place; a classifier or stem of another shape keeps its values."""
        self.require(network, weights, exact, classes)
        entry = find_weights(self.name, f"torchvision/{self.name}", weights)
        own, names = network.state_dict(), entry.meta["categories"]
        named = rename_published(network, download(entry, weights), classes, names)
        fits = {
            key: tensor
            for key, tensor in named.items()
            if key in own and own[key].shape == tensor.shape
        }
        network.load_state_dict(own | fits)

    def require(self, network: Network, weights: str, exact: bool, classes: Classes | None) -> None:
        """Raise the ConfigurationError of `load`, except for a failed download."""
        from torchvision.models import get_model

        entry = find_weights(self.name, f"torchvision/{self.name}", weights)
        if getattr(network.body, "transform_input", None) is False:
            raise ConfigurationError(
                f"weights = {weights} of torchvision/{self.name} expect images of another "
                f"normalisation: set transform_input=true"
            ).with_details("transform_input", False, True)
        with meta_device():
            published = get_model(self.name).state_dict()
        named = rename_published(network, published, classes, entry.meta["categories"])
        if exact and classes is None:
            require_all_classes(network, weights, len(entry.meta["categories"]), None)
        fresh = () if exact else ("head.", *([f"body.{self.stem}."] if self.stem else []))
        require_shapes(network, weights, named, fresh)


def find_builder(name: str) -> Builder:
    """Return the builder of `torchvision/NAME`.

    Args:
        name: The name, without the prefix.

    Raises:
        ConfigurationError: torchvision has no such classifier.
    """
    from torchvision import __version__, models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_network("torchvision", name, __version__, known)
    return Builder(
        partial(build_torchvision, name),
        TorchvisionSettings,
        partial(published_inputs, name),
        partial(_list_types, name),
    )


def build_torchvision(
    name: str, settings: TorchvisionSettings, classes: int, shape: Shape
) -> Network:
    """Build a classifier of torchvision without weights.

    Args:
        name: The name, without the prefix.
        settings: Arguments of the constructor.
        classes: Number of classes K.
        shape: (C, H, W) of the inputs.
    """
    module = _create(name, settings, classes, shape)
    stem = "" if shape[0] == 3 else _replace_stem(module, shape[0])
    return as_network(
        module,
        f"torchvision/{name}",
        classes,
        shape,
        stages=_list_stages(name),
        published=TorchvisionWeights(name, stem),
    )


def published_inputs(name: str, weights: str) -> dict[str, Any]:
    """Return the `input_size`, `mean` and `std` of published weights of a torchvision network."""
    transforms = find_weights(name, f"torchvision/{name}", weights).transforms()
    return {
        "input_size": int(transforms.crop_size[0]),
        "mean": list(transforms.mean),
        "std": list(transforms.std),
    }


def _create(name: str, settings: TorchvisionSettings, classes: int, shape: Shape) -> nn.Module:
    from torchvision import models

    create = partial(models.get_model, name, weights=None, num_classes=classes)
    if name.startswith("vit_"):
        create = partial(create, image_size=shape[1])
    if name in ("googlenet", "inception_v3"):
        create = partial(create, init_weights=True)  # otherwise torchvision warns
    return call_constructor(
        create, f"torchvision/{name}", settings.arguments, partial(_list_settings, create)
    )


def _list_settings(create: Any) -> tuple[str, ...]:
    """Return the plain arguments of the class of a torchvision network."""
    module = create()
    return tuple(list_plain_arguments(type(module).__init__, TorchvisionSettings.reserved))


@cache
def _list_types(name: str) -> dict[str, type]:
    """Return the types of the settings of a torchvision network, by name."""
    with meta_device():
        module = _create(name, TorchvisionSettings(), 1, (3, _PROBED_SIDE, _PROBED_SIDE))
    return list_types(type(module).__init__)


def _replace_stem(module: nn.Module, channels: int) -> str:
    """Replace the first convolution by one for images of other channels, and return its path."""
    convolutions = (
        (path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d)
    )
    path, old = next(convolutions)
    size: Any = old.kernel_size
    new = nn.Conv2d(channels, old.out_channels, size, bias=old.bias is not None)
    new.stride, new.padding, new.dilation = old.stride, old.padding, old.dilation
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    module.set_submodule(path, new)
    return str(path)


@cache
def _list_stages(name: str) -> tuple[str, ...]:
    """Return the submodules that end the stages of a network: the last one before each halving."""
    with meta_device():
        module = _create(name, TorchvisionSettings(), 1, (3, _PROBED_SIDE, _PROBED_SIDE)).eval()
        children = dict(module.named_children())
        if all(layer in children for layer in _LAYERS):
            return _LAYERS
        body = next((key for key in _SEQUENCES if isinstance(children.get(key), nn.Sequential)), "")
        if not body or name.startswith("swin"):  # maps of Swin are (B, H, W, C)
            return ()
        sides: dict[str, int] = {}
        output: Tensor = torch.empty(1, 3, _PROBED_SIDE, _PROBED_SIDE)
        if body == "trunk_output":  # RegNet
            output = module.get_submodule("stem")(output)
        for path, layer in children[body].named_children():
            output = layer(output)
            sides[f"{body}.{path}"] = output.shape[-1]
    paths = list(sides)
    ends = [
        path
        for path, following in zip(paths, [*paths[1:], None], strict=True)
        if following is None or sides[following] != sides[path]
    ]
    return tuple(path for path in ends if sides[path] < _PROBED_SIDE)
