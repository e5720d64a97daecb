"""Re-normalise and resize images inside a network."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from orchestrator.core.errors import ConfigurationError
from orchestrator.models.network import Shape

KEYS = ("input_size", "mean", "std")  # of a configured network


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, in 0..1, by which images are normalised."""

    mean: Sequence[float]
    std: Sequence[float]


class InputAdapter(nn.Module):
    """Convert images (B, C, H, W) that the data normalise to the images that a network expects.

    The constants are buffers, so they are part of the weights. There are no parameters.

    Args:
        size: Side of the output in pixels; None keeps the size.
        scale: Factor of each channel.
        shift: Value that is added to each channel afterwards.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, size: int | None, scale: Sequence[float], shift: Sequence[float]) -> None:
        super().__init__()
        self.size = size
        for name, values in (("scale", scale), ("shift", shift)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("side", torch.tensor(size or 0))

    def forward(self, images: Tensor) -> Tensor:
        """Return the images with another normalisation, and bilinearly resized."""
        images = images * self.scale + self.shift
        if self.size is None or images.shape[-2:] == (self.size, self.size):
            return images
        reduces = self.size < max(images.shape[-2:])  # otherwise antialiasing has no effect
        return functional.interpolate(
            images, (self.size, self.size), mode="bilinear", antialias=reduces
        )


def adapted_shape(shape: Shape, inputs: dict[str, Any]) -> Shape:
    """Return the shape (C, H, W) of the images that a network with these inputs receives."""
    side = inputs.get("input_size")
    return shape if side is None else (shape[0], side, side)


def build_adapter(
    inputs: dict[str, Any], shape: Shape, statistics: Statistics | None
) -> InputAdapter | None:
    """Return the adapter of a network; None if it takes the images as they are.

    Args:
        inputs: The given ones of `input_size` (pixels), `mean` and `std` (per channel, in 0..1).
        shape: (C, H, W) of the images.
        statistics: The normalisation of the images. None if only shapes matter, or if the
            adapter's constants are loaded afterwards.

    Raises:
        ConfigurationError: `mean` and `std` do not have one value for each channel; three values
            are averaged for one channel.
    """
    if not inputs:
        return None
    channels = shape[0]
    normalisation = [_for_channels(key, inputs[key], channels) for key in KEYS[1:] if key in inputs]
    scale, shift = [1.0] * channels, [0.0] * channels
    if statistics is not None and "mean" in inputs:
        pairs = list(zip(*statistics, *normalisation, strict=True))
        scale = [std / own_std for _, std, _, own_std in pairs]
        shift = [(mean - own_mean) / own_std for mean, _, own_mean, own_std in pairs]
    return InputAdapter(inputs.get("input_size"), scale, shift)


def _for_channels(key: str, values: Sequence[float], channels: int) -> Sequence[float]:
    """Return one value for each channel."""
    if channels == 1 and len(values) == 3:  # a grey image of a network that was trained on colours
        return [sum(values) / 3]
    if len(values) != channels:
        raise ConfigurationError(
            f"{key} = {list(values)} has {len(values)} values, and the images have {channels} "
            f"channels: give one value for each channel"
        ).with_details(key, tuple(values), f"{channels} values")
    return values
