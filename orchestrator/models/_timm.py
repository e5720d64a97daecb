"""Build networks of timm, `timm/NAME[.TAG]`, and load their published weights.

timm is imported when a name needs it: its import takes seconds, and it is an optional package.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import nn

from orchestrator.core.errors import ConfigurationError, short_reason
from orchestrator.models._builder import (
    Builder,
    OpenSettings,
    call_constructor,
    list_plain_arguments,
    list_types,
    missing_package,
    unknown_network,
)
from orchestrator.models._published import fill, rename_published, require_all_classes
from orchestrator.models.meta import meta_device
from orchestrator.models.network import Classes, Network, Shape
from orchestrator.models.wrapped import as_network

PRETRAINED = "pretrained"
_OURS = "it is set by this program"
_WEIGHTS = "set weights=pretrained, or weights to a .safetensors file"


class TimmSettings(OpenSettings):
    """Arguments of the constructor of a timm network."""

    reserved: ClassVar[Mapping[str, str]] = {
        "num_classes": "it is the number of classes of the data",
        "in_chans": "it is the number of channels of the data",
        "img_size": "set input_size",
        **dict.fromkeys(("pretrained", "pretrained_cfg", "checkpoint_path"), _WEIGHTS),
        **dict.fromkeys(
            (
                *("pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn"),
                *("pretrained_model_args", "model_cfg", "feature_cfg", "kwargs_filter"),
                *("cache_dir", "scriptable", "exportable", "no_jit", "features_only", "device"),
                *("dtype", "pruned"),
            ),
            _OURS,
        ),
    }


@dataclass(frozen=True)
class TimmWeights:
    """Weights `pretrained` of a timm network, from the source that timm names.

    Attributes:
        name: Name with a tag.
        settings: Settings of the network.
        shape: (C, H, W) of the images that the network receives.
    """

    name: str
    settings: TimmSettings
    shape: Shape

    def load(self, network: Network, weights: str, exact: bool, classes: Classes | None) -> None:
        """Fill a network in place; a classifier for other classes keeps its fresh values."""
        self.require(network, weights, exact, classes)
        published = _published_config(self.name).num_classes
        count = network.classes if classes is None else published
        make = partial(_create, self.name, self.settings, count, self.shape)
        try:
            with torch.random.fork_rng([]):
                module = make(pretrained=True)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ConfigurationError(
                f"the weights of timm/{self.name} could not be downloaded or do not fit "
                f"({short_reason(error)}): allow the connection, or give a .safetensors file"
            ).with_details("weights", weights, "a connection, or a .safetensors file") from error
        named = rename_published(network, module.state_dict(), classes)
        fill(network, named, keeps_head=count != published)

    def require(self, network: Network, weights: str, exact: bool, classes: Classes | None) -> None:
        """Raise the ConfigurationError of `load`, except for a failed download."""
        _require_published(self.name, weights)
        if exact:
            count = _published_config(self.name).num_classes
            require_all_classes(network, weights, count, classes)


def find_builder(name: str) -> Builder:
    """Return the builder of `timm/NAME[.TAG]`.

    Args:
        name: The name, without the prefix.

    Raises:
        ConfigurationError: timm has no such network, or no weights with such a tag.
        PreflightError: timm is not installed.
    """
    _require_known(name)
    return Builder(
        partial(build_timm, name),
        TimmSettings,
        partial(published_inputs, name),
        partial(_list_types, name),
    )


def build_timm(name: str, settings: TimmSettings, classes: int, shape: Shape) -> Network:
    """Build a network of timm without weights.

    Args:
        name: The name, without the prefix.
        settings: Arguments of the constructor.
        classes: Number of classes K.
        shape: (C, H, W) of the inputs.
    """
    module = _create(name, settings, classes, shape)
    published = TimmWeights(name, settings, shape)
    stages = _list_stages(module)
    return as_network(module, f"timm/{name}", classes, shape, stages=stages, published=published)


def published_inputs(name: str, weights: str) -> dict[str, Any]:
    """Return the `name` with the tag, `input_size`, `mean` and `std` of weights of timm."""
    _require_published(name, weights)
    config = _published_config(name)
    tag = f".{config.tag}" if config.tag and "." not in name else ""
    return {
        "name": f"timm/{name}{tag}",
        "input_size": int(config.input_size[-1]),
        "mean": [float(value) for value in config.mean],
        "std": [float(value) for value in config.std],
    }


def _create(
    name: str, settings: TimmSettings, classes: int, shape: Shape, pretrained: bool = False
) -> nn.Module:
    timm = _import_timm()
    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": shape[0]}
    if getattr(_published_config(name), "fixed_input_size", False):
        arguments["img_size"] = shape[1:]
    create = partial(timm.create_model, name, pretrained=pretrained, **arguments)
    return call_constructor(
        create, f"timm/{name}", settings.arguments, partial(_list_settings, create)
    )


def _list_settings(create: Any) -> tuple[str, ...]:
    """Return the plain arguments of the class of a timm network."""
    with meta_device():
        module = create()
    return tuple(list_plain_arguments(type(module).__init__, TimmSettings.reserved))


@cache
def _list_types(name: str) -> dict[str, type]:
    """Return the types of the settings of a timm network, by name."""
    with meta_device():
        return list_types(type(_import_timm().create_model(name)).__init__)


def _list_stages(module: nn.Module) -> list[str]:
    """Return the submodules that timm names as the ends of stages, if their maps are (C, H, W)."""
    info = getattr(module, "feature_info", None) or []
    if getattr(module, "output_fmt", "NCHW") != "NCHW":
        return []
    entries = info.get_dicts() if hasattr(info, "get_dicts") else info
    paths = [str(entry["module"]) for entry in entries if entry.get("module")]
    names = {path for path, _ in module.named_modules()}
    return [path for path in dict.fromkeys(paths) if path in names]


def _import_timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise missing_package("timm/NAME", "timm", "timm") from error
    return timm


def _published_config(name: str) -> Any:
    """Return timm's configuration of the weights of a name; the default tag without a tag."""
    _import_timm()
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(name)


def _require_known(name: str) -> None:
    timm = _import_timm()
    if not timm.is_model(name) or ":" in name or "/" in name:
        names = timm.list_models()
        raise unknown_network("timm", name, timm.__version__, names)
    architecture, _, tag = name.partition(".")
    tags = _list_tags(architecture)
    if tag and tag not in tags:
        known = tuple(f"timm/{architecture}.{each}" for each in tags)
        raise ConfigurationError(
            f"timm has no weights {tag!r} of timm/{architecture}: give one of "
            f"{', '.join(known) or 'no tag'}, or leave the tag out"
        ).with_details("name", f"timm/{name}", known)


def _list_tags(architecture: str) -> list[str]:
    from timm.models import get_arch_pretrained_cfgs

    return [
        each.partition(".")[2] for each in get_arch_pretrained_cfgs(architecture) if "." in each
    ]


def _require_published(name: str, weights: str) -> None:
    if weights != PRETRAINED:
        raise ConfigurationError(
            f"weights = {weights!r} is not a .safetensors file, and timm/{name} has only the "
            f"weights {PRETRAINED}: give {PRETRAINED} or a file; a tag is part of the name, as in "
            f"timm/resnet18.a1_in1k"
        ).with_details("weights", weights, (PRETRAINED,))
    config = _published_config(name)
    if config is None or not config.has_weights:
        raise ConfigurationError(
            f"timm has no published weights of timm/{name}: leave weights out, or give a "
            f".safetensors file"
        ).with_details("weights", weights, "a .safetensors file")
