"""Convert the tensors of a checkpoint to weights of a network."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.models._matching import Match, find_classifier, match_by_name, match_by_order
from orchestrator.models._misfits import misfit_table
from orchestrator.models.build import build_on_meta
from orchestrator.models.checkpoint_files import Checkpoint
from orchestrator.models.network import Network, Shape
from orchestrator.models.weight_files import PROVENANCE
from orchestrator.models.weights import ADAPTER, save_state

SIDES = (32, 224)  # pixels; tried if none is given, because some networks have two stems
Matching = Literal["names", "order"]


@dataclass(frozen=True)
class Wanted:
    """The network that a checkpoint is converted for.

    Attributes:
        name: The name of the network.
        settings: Its settings.
        classes: The number of classes; None for that of the checkpoint's classifier.
        channels: The channels of the images; None for those of the checkpoint's first convolution.
        side: The side of the images in pixels; None to try the usual ones.
        shape: The shape of the data, (C, H, W), instead of channels and side; None without data.
    """

    name: str
    settings: Mapping[str, Any]
    classes: int | None = None
    channels: int | None = None
    side: int | None = None
    shape: Shape | None = None


@dataclass(frozen=True)
class ImportedWeights:
    """Weights of a network from a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        network: The network, on the meta device.
        shape: The shape of its inputs, (C, H, W).
        matching: How the tensors were matched.
        match: The tensors and the comparison with the network.
    """

    checkpoint: Checkpoint
    network: Network
    shape: Shape
    matching: Matching
    match: Match

    def save(
        self, file: Path, class_names: Sequence[str] = (), inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Write the weights and their origin as safetensors.

        Args:
            file: The file to write.
            class_names: The names of the classes, in the order of the logits; empty if unknown.
            inputs: The `input_size`, `mean` and `std` that the network expects; None if unknown.

        Raises:
            PreflightError: The file cannot be written.
        """
        needed = self.network.state_dict()
        state = {name: tensor.to(needed[name].dtype) for name, tensor in self.match.state.items()}
        with self.checkpoint.file.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        origin = {
            "source": self.checkpoint.file.name,
            "sha256": checksum,
            "key": self.checkpoint.key,
            "matching": self.matching,
            "network": self.network.name,
            "classes": self.network.classes,
            "class_names": list(class_names),
            "inputs": dict(inputs or {}),
        }
        # one entry, because safetensors writes several in any order
        save_state(state, file, {PROVENANCE: json.dumps(origin, sort_keys=True)})


def convert_checkpoint(
    checkpoint: Checkpoint, wanted: Wanted, matching: Matching = "names"
) -> ImportedWeights:
    """Return the weights of a network from a checkpoint.

    Args:
        checkpoint: The checkpoint.
        wanted: The network.
        matching: Match by `names`, or by `order` and shape.

    Raises:
        ConfigurationError: The network or a setting does not exist, or tensors do not fit; the
            message lists all of them.
    """
    if matching == "order" and not checkpoint.is_ordered:
        raise ConfigurationError(
            f"--match order: {checkpoint.file} is a safetensors file, which sorts its tensors: "
            f"match by names, or give the PyTorch checkpoint"
        ).with_details("--match", matching, ("names",))
    match = match_by_name if matching == "names" else match_by_order
    classes = wanted.classes or _count_classes(checkpoint.tensors)
    attempts = []
    for shape in _list_shapes(checkpoint.tensors, wanted):
        network = build_on_meta(wanted.name, classes, shape, wanted.settings)
        needed = _needed(network)
        attempts.append(
            ImportedWeights(checkpoint, network, shape, matching, match(needed, checkpoint.tensors))
        )
    imported = min(attempts, key=lambda attempt: len(attempt.match.misfits))
    if imported.match.misfits:
        raise _misfit_refusal(imported, attempts)
    return imported


def _needed(network: Network) -> dict[str, Tensor]:
    """Return the state of a network without the constants of its input adapter."""
    state = network.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(ADAPTER)}


def _misfit_refusal(
    imported: ImportedWeights, attempts: Sequence[ImportedWeights]
) -> ConfigurationError:
    checkpoint, misfits = imported.checkpoint, imported.match.misfits
    fits_in_order = (
        imported.matching == "names"
        and checkpoint.is_ordered
        and any(
            not match_by_order(_needed(each.network), checkpoint.tensors).misfits
            for each in attempts
        )
    )
    if fits_in_order:
        step = "add --match order, because their kinds and shapes fit in the order of the file"
    else:
        step = "check --network, its settings (--set), --classes and --image-size"
        if keys := ", ".join(checkpoint.other_keys):
            step += f", or choose other tensors with --from ({keys})"
    count = f"{len(misfits)} tensor{'s do' if len(misfits) > 1 else ' does'} not fit"
    channels, height, width = imported.shape
    images = f"{channels}x{height}x{width} images"
    return ConfigurationError(
        f"{checkpoint.file}: {count} {imported.network} for {images}: {step}\n"
        f"{misfit_table(list(misfits))}"
    ).with_details("FILE", str(checkpoint.file), f"weights of {imported.network}")


def _count_classes(tensors: Mapping[str, Tensor]) -> int:
    """Return the number of outputs of the classifier in a file, or 1 if it has none."""
    classifier = find_classifier(tensors)
    return len(tensors[f"{classifier}.weight"]) if classifier else 1


def _list_shapes(tensors: Mapping[str, Tensor], wanted: Wanted) -> Iterator[Shape]:
    """Yield the shapes of images for which the network is built."""
    if wanted.shape:
        yield wanted.shape
        return
    weights = [tensor for name, tensor in tensors.items() if name.endswith("weight")]
    inputs = [tensor.shape[1] for tensor in weights if tensor.dim() == 4]
    if not inputs and wanted.side is None:
        inputs_of_linear = next((tensor.shape[1] for tensor in weights if tensor.dim() == 2), 1)
        yield _shape_of_pixels(inputs_of_linear, wanted.channels)
        return
    # depth-wise convolutions have one input channel, so 3 is searched first
    channels = wanted.channels or (3 if 3 in inputs or not inputs else inputs[0])
    for side in (wanted.side,) if wanted.side else SIDES:
        yield channels, side, side


def _shape_of_pixels(pixels: int, channels: int | None) -> Shape:
    """Return a shape with so many values for a network without convolutions, square if possible."""
    for count in (channels,) if channels else (3, 1):
        side = math.isqrt(pixels // count)
        if count * side * side == pixels:
            return count, side, side
    return 1, 1, pixels
