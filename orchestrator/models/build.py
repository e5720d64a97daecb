"""List all networks, and build one by its name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from methods import Settings, SettingsError
from orchestrator.core.errors import ConfigurationError, UserError, suggest_name
from orchestrator.models import _cifar_resnet as cifar_resnet
from orchestrator.models import _hf as hf
from orchestrator.models import _mobilenet as mobilenet
from orchestrator.models import _shufflenet as shufflenet
from orchestrator.models import _simple as simple
from orchestrator.models import _timm as timm
from orchestrator.models import _torchvision_models as torchvision_models
from orchestrator.models import _torchvision_names as torchvision_names
from orchestrator.models import _vgg as vgg
from orchestrator.models import _wide_resnet as wide_resnet
from orchestrator.models._builder import Builder as Builder
from orchestrator.models.input_adapter import KEYS, Statistics, adapted_shape, build_adapter
from orchestrator.models.meta import meta_device
from orchestrator.models.network import Network, Shape

MODELS: dict[str, Builder] = {
    "mlp": Builder(simple.mlp, simple.MLPSettings),
    "cnn": Builder(simple.cnn, simple.CNNSettings),
    "separable_cnn": Builder(simple.separable_cnn, simple.SeparableCNNSettings),
    **{name: Builder(make) for name, make in cifar_resnet.BUILDERS.items()},
    **{name: Builder(make) for name, make in wide_resnet.BUILDERS.items()},
    **{name: Builder(make) for name, make in vgg.BUILDERS.items()},
    "shuffle_v1": Builder(shufflenet.shuffle_v1),
    "shuffle_v2": Builder(shufflenet.shuffle_v2),
    "mobilenet_v2_half": Builder(mobilenet.mobilenet_v2_half),
    **{name: Builder(make) for name, make in torchvision_models.BUILDERS.items()},
}
# prefix of a name -> a function that returns the builder of the rest
ORIGINS: dict[str, Callable[[str], Builder]] = {
    "timm": timm.find_builder,
    "torchvision": torchvision_names.find_builder,
    "hf": hf.find_builder,
}


class NamedNetwork(Protocol):
    """Name of a network and its settings, as in a configuration."""

    @property
    def name(self) -> str:
        """Return the name, as in `find_builder`."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return the settings, as in `build`."""


class DescribedData(Protocol):
    """Classes of data, shape (C, H, W) of an image, and normalisation of each channel."""

    @property
    def classes(self) -> Sequence[str]:
        """Return the names of the classes."""

    @property
    def shape(self) -> Shape:
        """Return (C, H, W)."""

    @property
    def mean(self) -> Sequence[float]:
        """Return the mean of each channel."""

    @property
    def std(self) -> Sequence[float]:
        """Return the standard deviation of each channel."""


def find_builder(name: str) -> Builder:
    """Return the builder of a network.

    Args:
        name: A key of `MODELS`, `timm/NAME`, `torchvision/NAME`, or `hf/FOLDER`.

    Raises:
        ConfigurationError: There is no such network, or its package is not installed.
    """
    if name in MODELS:
        return MODELS[name]
    prefix, slash, rest = name.partition("/")
    if slash and prefix in ORIGINS:
        return ORIGINS[prefix](rest)
    prefixes = ", ".join(f"{prefix}/..." for prefix in ORIGINS)
    raise ConfigurationError(
        f"there is no network {name!r}: {suggest_name(name, MODELS)}, {prefixes}"
    ).with_details("name", name, tuple(MODELS))


def build(
    name: str,
    classes: int,
    shape: Shape,
    settings: Mapping[str, Any],
    statistics: Statistics | None = None,
) -> Network:
    """Build a network with fresh weights.

    Args:
        name: The name of the network, as in `find_builder`.
        classes: Number of classes K of the logits (B, K).
        shape: (channels, height, width) of the inputs (B, channels, height, width).
        settings: Settings of the network by name, and `input_size`, `mean` and `std` if the network
            expects other images than the data have.
        statistics: The normalisation of the inputs, which `mean` and `std` need. None if only
            shapes matter, or if all weights are loaded afterwards with `load_state_dict`.

    Raises:
        ConfigurationError: The network or a setting does not exist, or a value is outside its
            range.
    """
    inputs = {key: settings[key] for key in KEYS if key in settings}
    chosen = _validate(name, settings)
    adapter = build_adapter(inputs, shape, statistics)
    network = find_builder(name).make(chosen, classes, adapted_shape(shape, inputs))
    network.full_name = name
    if adapter is not None:
        network.adapter = adapter
    return network


def build_for_data(network: NamedNetwork, data: DescribedData) -> Network:
    """Build a network with fresh weights for the images of a data set; otherwise `build`."""
    statistics = Statistics(data.mean, data.std)
    return build(network.name, len(data.classes), data.shape, network.settings, statistics)


def build_on_meta(
    name: str, classes: int, shape: Sequence[int], settings: Mapping[str, Any]
) -> Network:
    """Build a network on the device `meta`: its shapes alone, without memory; otherwise `build`."""
    channels, height, width = shape
    with meta_device():
        return build(name, classes, (channels, height, width), settings)


def network_settings(name: object) -> type[Settings] | None:
    """Return the class of the settings of a network; None if there is no such network.

    Args:
        name: The name of the network, as in `find_builder`.
    """
    if not isinstance(name, str):
        return None
    try:
        return find_builder(name).settings
    except UserError:
        return None


def setting_type(name: str, setting: str) -> type | None:
    """Return the type of a setting that the constructor of a library defines.

    Args:
        name: The name of the network, as in `find_builder`.
        setting: The name of the setting.

    Returns:
        float, int or bool; None for another type, or if it is unknown.

    Raises:
        ConfigurationError: There is no such network, or its package is not installed.
    """
    types = find_builder(name).types
    return None if types is None else types().get(setting)


def all_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given settings of a network with the defaults of the others.

    Args:
        name: The name of the network, as in `find_builder`.
        settings: The given settings.

    Raises:
        ConfigurationError: There is no such network or setting, or a value is outside its range.
    """
    inputs = {key: settings[key] for key in KEYS if key in settings}
    return _validate(name, settings).model_dump() | inputs


def _validate(name: str, settings: Mapping[str, Any]) -> Settings:
    """Return the settings of a builder, without those of the input that every network has."""
    own = {key: value for key, value in settings.items() if key not in KEYS}
    try:
        return find_builder(name).settings.build(own)
    except SettingsError as error:
        raise ConfigurationError.from_error(error, f"network {name}: {error}") from error


def published_inputs(name: str, weights: str) -> dict[str, Any]:
    """Return the `input_size`, `mean` and `std` that published weights expect.

    Args:
        name: The name of the network, as in `find_builder`.
        weights: The name of the weights.

    Returns:
        The values by key, and the complete `name` if there is another one; empty if the publisher
        states none.

    Raises:
        ConfigurationError: There is no such network or no such weights.
    """
    inputs = find_builder(name).inputs
    return {} if inputs is None else inputs(weights)


def usual_inputs(name: str) -> dict[str, Any]:
    """Return the `input_size`, `mean` and `std` that published weights of a network expect.

    Args:
        name: The name of the network, as in `find_builder`.

    Returns:
        The values by key; empty if there are no published weights.
    """
    prefix = name.partition("/")[0]
    weights = {"timm": "pretrained", "hf": "pretrained", "torchvision": "DEFAULT"}.get(prefix)
    if weights is None:
        return {}
    try:
        inputs = published_inputs(name, weights)
    except UserError:
        return {}
    return {key: inputs[key] for key in KEYS if key in inputs}


def identify(name: str, weights: str | None) -> str:
    """Return a text that identifies a network and its published weights.

    Args:
        name: The name of the network, as in `find_builder`.
        weights: The name of the weights, or None.

    Returns:
        The name itself, or a hash of the files in the folder of `hf/FOLDER`.
    """
    prefix, slash, folder = name.partition("/")
    return hf.identify(folder, weights) if slash and prefix == "hf" else name


def list_files(name: str) -> list[Path]:
    """Return the files that describe a network beside its name and settings; none for most.

    A network `hf/FOLDER` needs the config.json of its folder.
    """
    prefix, slash, folder = name.partition("/")
    return [hf.find_folder(folder) / hf.CONFIG] if slash and prefix == "hf" else []


def network_code(name: str) -> str:
    """Return the identity of the code of a network; empty for the networks of this program."""
    return MODELS[name].code if name in MODELS else ""
