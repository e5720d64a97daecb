"""Build image classifiers of transformers from local folders, `hf/FOLDER`.

Only JSON and safetensors files are read: no code is loaded or run, and nothing is downloaded.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from orchestrator.core.errors import ConfigurationError, short_reason, suggest_name
from orchestrator.core.paths import read_path
from orchestrator.models._builder import (
    Builder,
    OpenSettings,
    call_constructor,
    list_types,
    missing_package,
)
from orchestrator.models._published import (
    fill,
    rename_published,
    require_all_classes,
    require_shapes,
)
from orchestrator.models.network import Classes, Network, Shape
from orchestrator.models.wrapped import as_network

PRETRAINED = "pretrained"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_ADAPTER = "adapter_config.json"  # of peft: it names other weights, which may be downloaded
_LABELS = ("id2label", "label2id")  # their keys are names of classes
# keys that make transformers load code or other formats
_REFUSED_KEYS = re.compile(
    "auto_map|attn_implementation|experts_implementation|kernel|quantization"
)
_OTHER_LIBRARIES = ("timm_wrapper", "timm_backbone")
_STAGE = re.compile(r"(.*\.)?encoder\.stages\.\d+")
_PLAIN = (bool, int, float, str, type(None))


class HFSettings(OpenSettings):
    """Values of config.json that replace those of the folder."""

    reserved: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("num_labels", "id2label"), "it is the number of classes of the data"),
        "num_channels": "it is the number of channels of the data",
        "image_size": "set input_size",
        **dict.fromkeys(("model_type", "architectures", "dtype"), "it is that of the folder"),
    }


@dataclass(frozen=True)
class HFWeights:
    """Weights `pretrained` of a folder: its safetensors files."""

    folder: Path

    def load(self, network: Network, weights: str, exact: bool, classes: Classes | None) -> None:
        """Fill a network in place; a classifier for other classes keeps its fresh values."""
        self.require(network, weights, exact, classes)
        config = _read_config(self.folder)
        try:
            with torch.random.fork_rng([]), _quiet():
                module = _classifiers().from_pretrained(
                    self.folder,
                    config=_build_config(self.folder, config),
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype=torch.float32,
                )
        except Exception as error:  # transformers defines no common error
            raise ConfigurationError(
                f"the weights in {self.folder} cannot be read ({short_reason(error)}): save them "
                f"again with save_pretrained"
            ).with_details("weights", weights, "safetensors files of the network") from error
        keeps_head = classes is None and _count_labels(config) != network.classes
        named = rename_published(network, module.state_dict(), classes, _label_names(config))
        require_shapes(network, weights, named, ("head.",) if keeps_head else ())
        fill(network, named, keeps_head)

    def require(self, network: Network, weights: str, exact: bool, classes: Classes | None) -> None:
        """Raise the ConfigurationError of `load` without reading the weights."""
        if weights != PRETRAINED:
            raise ConfigurationError(
                f"weights = {weights!r} is not a .safetensors file: give {PRETRAINED} for the "
                f"weights in {self.folder}, or a file"
            ).with_details("weights", weights, (PRETRAINED,))
        if not any(self.folder.glob("*.safetensors")):
            raise ConfigurationError(
                f"{self.folder} has no .safetensors file: save the weights with save_pretrained, "
                f"or leave weights out"
            ).with_details("weights", weights, "a folder with safetensors files")
        if exact:
            config = _read_config(self.folder)
            require_all_classes(
                network, weights, _count_labels(config), classes, _label_names(config)
            )


def find_builder(name: str) -> Builder:
    """Return the builder of `hf/FOLDER`.

    Args:
        name: The folder, absolute or relative to the working directory.

    Raises:
        ConfigurationError: The folder has no configuration of an image classifier.
        PreflightError: transformers is not installed.
    """
    folder = find_folder(name)
    values = _read_config(folder)
    _require_classifier(folder, values)
    return Builder(
        partial(build_hf, folder),
        HFSettings,
        partial(published_inputs, folder),
        lambda: list_types(type(_build_config(folder, values)).__init__),
    )


def find_folder(name: str) -> Path:
    """Return the folder of `hf/FOLDER`.

    Raises:
        ConfigurationError: It has no config.json.
    """
    folder = read_path(name, "name")
    if not (folder / CONFIG).is_file():
        raise ConfigurationError(
            f"{folder} has no {CONFIG}: give the folder that save_pretrained of transformers has "
            f"written, as hf/FOLDER"
        ).with_details("name", f"hf/{name}", f"a folder with {CONFIG}")
    return folder


def build_hf(folder: Path, settings: HFSettings, classes: int, shape: Shape) -> Network:
    """Build the image classifier of a folder with random weights.

    Args:
        folder: The folder.
        settings: Values that replace those of config.json.
        classes: Number of classes K.
        shape: (C, H, W) of the inputs.
    """
    values = _read_config(folder)

    def create(**changes: Any) -> nn.Module:
        config = _build_config(folder, values, **changes)
        config.num_labels = classes
        if hasattr(config, "num_channels"):
            config.num_channels = shape[0]
        if hasattr(config, "image_size"):
            config.image_size = shape[1] if shape[1] == shape[2] else list(shape[1:])
        with _quiet():
            model: nn.Module = _classifiers().from_config(
                config, trust_remote_code=False, dtype=torch.float32
            )
        return model.train()

    module = call_constructor(create, f"hf/{folder.name}", settings.arguments, lambda: ())
    stages = [path for path, _ in module.named_modules() if _STAGE.fullmatch(path)]
    name = f"hf/{folder.name}"
    return as_network(module, name, classes, shape, stages=stages, published=HFWeights(folder))


def published_inputs(folder: Path, weights: str) -> dict[str, Any]:
    """Return the `input_size`, `mean` and `std` in preprocessor_config.json of a folder."""
    file = folder / PROCESSOR
    values = _read_json(file) if file.is_file() else {}
    inputs: dict[str, Any] = {}
    if isinstance(values.get("image_mean"), list) and isinstance(values.get("image_std"), list):
        inputs |= {"mean": values["image_mean"], "std": values["image_std"]}
    sizes = [values.get("crop_size"), values.get("size"), _read_config(folder).get("image_size")]
    for size in sizes:
        side = size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size
        if isinstance(side, int):
            return inputs | {"input_size": side}
    return inputs


def identify(name: str, weights: str | None) -> str:
    """Return a hash of config.json of a folder, and of its safetensors files with `pretrained`."""
    folder = find_folder(name)
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    for file in sorted(folder.glob("*.safetensors")) if weights == PRETRAINED else ():
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"hf/{digest.hexdigest()}"


def _build_config(folder: Path, values: dict[str, Any], **changes: Any) -> Any:
    """Return transformers' configuration of a folder, with other values for some keys."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[values["model_type"]].from_dict(dict(values))
    plain = [key for key, value in config.to_dict().items() if isinstance(value, _PLAIN)]
    known = [key for key in plain if key not in HFSettings.reserved and not key.startswith("_")]
    for key, value in changes.items():
        if key not in known or _may_load_code(key, value):
            raise ConfigurationError(
                f"network hf/{folder.name}: there is no setting {key!r}: {suggest_name(key, known)}"
            ).with_details(key, value, tuple(known))
        setattr(config, key, value)
    return config


def _require_classifier(folder: Path, values: dict[str, Any]) -> None:
    """Raise ConfigurationError if a configuration needs code, or is not of an image classifier."""
    _import_transformers()
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN,
    )

    if (folder / _ADAPTER).exists():
        raise ConfigurationError(
            f"{folder} has the file {_ADAPTER}, which refers to other weights: merge the adapter "
            f"into the network, and save it with save_pretrained"
        ).with_details("name", _ADAPTER, "a folder with a whole network")
    refused = next(_refused_keys(values), None)
    if refused is not None:
        raise ConfigurationError(
            f"{folder / CONFIG} has the key {refused!r}, which may load code or another format: "
            f"remove the key, or use the network from Python"
        ).with_details("name", refused, "keys of the network alone")
    kind = values.get("model_type")
    if kind in _OTHER_LIBRARIES:
        raise ConfigurationError(
            f"{folder} holds a network of timm: give its name as timm/NAME"
        ).with_details("name", kind, "timm/NAME")
    if kind not in KNOWN:
        raise ConfigurationError(
            f"{folder / CONFIG} has model_type = {kind!r}, which is not an image classifier of "
            f"transformers: {suggest_name(str(kind), KNOWN)}"
        ).with_details("name", kind, tuple(sorted(KNOWN)))


def _refused_keys(values: Any) -> Iterator[str]:
    """Yield the keys, at any depth, that make transformers load code or other formats."""
    inner: Iterable[Any] = values if isinstance(values, list) else ()
    if isinstance(values, dict):
        yield from (key for key, value in values.items() if _may_load_code(key, value))
        inner = (value for key, value in values.items() if key not in _LABELS)
    for value in inner:
        yield from _refused_keys(value)


def _may_load_code(key: str, value: Any) -> bool:
    """Return whether a key may name code or another format; numbers are sizes (`kernel_size`)."""
    numbers = value if isinstance(value, list) else [value]
    are_sizes = all(type(number) in (int, float) for number in numbers)
    return _REFUSED_KEYS.search(key) is not None and value is not None and not are_sizes


def _classifiers() -> Any:
    _import_transformers()
    from transformers import AutoModelForImageClassification

    return AutoModelForImageClassification


def _import_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise missing_package("hf/FOLDER", "transformers", "hf") from error


def _label_names(values: dict[str, Any]) -> list[str]:
    """Return the names of the classes of a folder's classifier; empty if it has none."""
    labels = values.get("id2label")
    if not isinstance(labels, dict):
        return []
    return [str(labels[key]) for key in sorted(labels, key=int)]


def _count_labels(values: dict[str, Any]) -> int:
    """Return the number of classes of a folder's classifier."""
    labels = values.get("id2label")
    return len(labels) if isinstance(labels, dict) else int(values.get("num_labels", 2))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress bars and warnings of transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _read_config(folder: Path) -> dict[str, Any]:
    return _read_json(folder / CONFIG)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{file} cannot be read as JSON ({short_reason(error)}): restore it"
        ).with_details("name", str(file), "a JSON file") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{file} does not hold a mapping: restore it").with_details(
            "name", str(file), "a mapping"
        )
    return values
