"""Load an exported student."""

from pathlib import Path

import torch

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.export.formats import (
    FORMATS,
    NAME,
    SETTINGS,
    Predictions,
    load_onnx,
    load_program,
)
from orchestrator.export.settings import StudentSettings, read_settings
from orchestrator.extensions.record import require_code
from orchestrator.extensions.registry import PREFIX
from orchestrator.models.build import build
from orchestrator.models.network import Network
from orchestrator.models.weights import load_weights

SMALL = 2**26  # bytes; a network up to this size may be built before its weights are checked


def load_exported(folder: Path | str) -> Network:
    """Return the network of a safetensors export, on the CPU and in eval mode.

    It takes images (B, C, H, W) float32, prepared as `input` in settings.json and the card
    describe.

    Raises:
        ConfigurationError: The folder holds no export, or one that is damaged, of another format,
            or written by a newer version.
    """
    folder = read_path(folder, "folder")
    settings = read_settings(folder)
    if settings.form != NAME:
        raise ConfigurationError(
            f"{folder} holds {FORMATS[settings.form].file} and no network: load it with "
            f"`load_predictions`, or export safetensors"
        ).with_details(str(folder), settings.form, NAME)
    if settings.network.name.startswith(PREFIX):
        require_code(settings.code, f"the student in {folder}")
    file = folder / FORMATS[NAME].file
    _require_size(settings, file)
    network = _build_network(settings, folder)
    load_weights(network, str(file))
    return network.eval()


def _build_network(settings: StudentSettings, folder: Path) -> Network:
    network = settings.network
    try:
        return build(network.name, len(settings.classes), settings.input.shape, network.settings)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{folder / SETTINGS} does not describe a valid network ({error}): export it again "
            f"with `python run.py export`"
        ).with_details(str(folder / SETTINGS), settings.network.model_dump()) from error


def _require_size(settings: StudentSettings, file: Path) -> None:
    """Raise ConfigurationError if a network is large, and larger than its weights file.

    Only shapes are computed, which takes no memory. Other mismatches of a smaller network are
    reported by tensor when the weights are loaded.
    """
    try:
        with torch.device("meta"):
            needed = sum(
                tensor.nbytes
                for tensor in _build_network(settings, file.parent).state_dict().values()
            )
    except (
        RuntimeError,
        TypeError,
        ValueError,
        OverflowError,
    ) as error:  # sizes that torch cannot count
        raise ConfigurationError(
            f"{file.parent} is damaged, no network has the sizes in {SETTINGS} "
            f"({' '.join(str(error).split())[:200]}): export it again with `python run.py export`"
        ).with_details(str(file.parent / SETTINGS), settings.network.model_dump()) from error
    if needed > SMALL and file.is_file() and needed > file.stat().st_size:
        raise ConfigurationError(
            f"{file.parent} is damaged, the network in {SETTINGS} has {needed} bytes and "
            f"{file.name} holds {file.stat().st_size}: export it again with `python run.py export`"
        ).with_details(str(file), file.stat().st_size, needed)


def load_predictions(folder: Path | str) -> Predictions:
    """Return an export of any format as a function of images.

    The function takes prepared images (B, C, H, W) and returns logits (B, K).

    Raises:
        ConfigurationError: The folder holds no export, or one that is damaged or written by a newer
            version.
        PreflightError: A package of the format is missing.
    """
    folder = read_path(folder, "folder")
    form = read_settings(folder).form
    if form == NAME:
        network = load_exported(folder)
        return lambda images: network(images).logits
    read = load_program if form == "torchexport" else load_onnx
    return read(folder / FORMATS[form].file)
