"""Read the images of array data, and keep small ones normalised in memory."""

import functools
import math

import torch
from torch import Tensor

from orchestrator.data.dataset import Dataset
from orchestrator.data.memory import CHUNK, SMALL_BYTES, images_on_device, map_array, to_device

PARTS = ("train", "validation", "test")


class ImageSource:
    """Images of the parts of a data set.

    Args:
        dataset: The data set.
        device: The device of the batches.
        layout: The memory format of normalised images.
        on_device: Whether the arrays are kept in the device's memory.
    """

    def __init__(
        self, dataset: Dataset, device: torch.device, layout: torch.memory_format, on_device: bool
    ) -> None:
        self.dataset, self.device, self.layout, self.on_device = dataset, device, layout, on_device
        samples = sum(len(dataset.split(part)) for part in PARTS)
        size = samples * math.prod(dataset.shape) * torch.float32.itemsize
        is_local = on_device or device.type == "cpu"
        self.keeps_normalised = dataset.root is None and is_local and size <= SMALL_BYTES
        self._normalised: dict[str, Tensor] = {}

    def images(self, part: str) -> Tensor:
        """Return the images of a part, (n, H, W, C) uint8: on the device, or memory-mapped."""
        if self.on_device:
            return images_on_device(self.dataset, part, self.device)
        return map_array(self.dataset.split(part).inputs)

    def select_normalised(self, part: str, index: Tensor) -> Tensor:
        """Return the normalised images (B, C, H, W) at `index` (B,), if they are kept."""
        if part not in self._normalised:
            self._normalised[part] = self._normalise_part(part)
        images = self._normalised[part].index_select(0, index)
        return images if self.layout == torch.contiguous_format else images.permute(0, 3, 1, 2)

    def _normalise_part(self, part: str) -> Tensor:
        """Return the normalised images in the order of their memory.

        They are (n, H, W, C) with channels last, else (n, C, H, W).
        """
        images = self.images(part)
        shape = (len(images), *self.dataset.shape)
        planes = torch.empty(shape, device=self.device, memory_format=self.layout)
        for start in range(0, len(images), CHUNK):
            planes[start : start + CHUNK] = self.normalise(images[start : start + CHUNK])
        return planes if self.layout == torch.contiguous_format else planes.permute(0, 2, 3, 1)

    def normalise(self, images: Tensor) -> Tensor:
        """Return normalised planes (B, C, H, W) float32 of images (B, H, W, C) on the device."""
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.layout)
        return planes.sub_(self._mean).div_(self._std)

    @functools.cached_property
    def _mean(self) -> Tensor:
        return self._plane(self.dataset.mean)

    @functools.cached_property
    def _std(self) -> Tensor:
        return self._plane(self.dataset.std)

    def _plane(self, values: tuple[float, ...]) -> Tensor:
        """Return (1, C, H, W) of 255 x `values` (C,).

        It has the size of an image: broadcasting with channels last would take five times as long.
        """
        each = (255 * torch.tensor(values, dtype=torch.float32)).view(1, -1, 1, 1)
        return to_device(
            each.expand(1, *self.dataset.shape).contiguous(memory_format=self.layout), self.device
        )
