"""Yield normalised and blended batches of one part in one view, on the device."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods import Mix
from orchestrator.data import pictures
from orchestrator.data._mixing import blend
from orchestrator.data.dataset import Dataset
from orchestrator.data.memory import images_on_device, to_device
from orchestrator.data.transforms import TRANSFORMS
from orchestrator.data.views import Views

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Inputs:
    """Batch of samples on the device.

    Attributes:
        index: (B,) int64, indices into the split. It is on the CPU unless the arrays are on the
            device: a lookup on the CPU must not wait for the device.
        inputs: (B, C, H, W) float32, normalised.
        labels: (B,) int64.
        mix: Labels of the partners and shares of the samples; None without blending.
    """

    index: Tensor
    inputs: Tensor
    labels: Tensor
    mix: Mix | None = None


@dataclass(frozen=True)
class BatchPlacement:
    """Device and memory layout of batches.

    Attributes:
        device: The device of the batches.
        on_device: Whether the arrays are kept in the device's memory.
        layout: The memory format of the inputs.
        loader_workers: Processes that decode the images of folder data.
        loader_wait_s: Longest wait for a decoded batch in seconds.
    """

    device: torch.device = CPU
    on_device: bool = False
    layout: torch.memory_format = torch.contiguous_format
    loader_workers: int = 0
    loader_wait_s: float = math.inf


class Pass:
    """Pass over a part in a view.

    The constructor copies all values that are constant during the pass to the device.
    """

    def __init__(
        self, dataset: Dataset, part: str, views: Views, view: int | None, place: BatchPlacement
    ) -> None:
        self.dataset = dataset
        self.part = part
        self.split = dataset.split(part)
        self.views = views
        self.place = place
        self.view, self.device = view, place.device
        self.on_device = place.on_device and dataset.root is None
        # the decoding processes apply the crops
        self.crops_in_loader = dataset.root is not None and (
            views.policy == "resized_crop_flip" or views.policy in TRANSFORMS
        )
        height, width = dataset.shape[1:]
        augmentation_params = (
            None if self.crops_in_loader else views.augmentation_params(view, height, width)
        )
        self.augmentation_params = (
            None if augmentation_params is None else to_device(augmentation_params, self.device)
        )
        mixing = views.mixing(view, height, width)
        self.partner = None if mixing is None else self._to_index_device(mixing.partner)
        self.share = None if mixing is None else to_device(mixing.share, self.device)
        self.boxes = (
            None if mixing is None or mixing.boxes is None else to_device(mixing.boxes, self.device)
        )
        self.labels = to_device(torch.from_numpy(self.split.labels), self.device)
        self.mean, self.std = (self._plane(values) for values in (dataset.mean, dataset.std))

    def inputs(self, order: NDArray[np.int64], size: int) -> Generator[Inputs, None, None]:
        """Yield the samples of `order` (n,) in batches of `size`; the last one may be shorter."""
        batches = (
            torch.split(self._to_index_device(torch.from_numpy(order)), size) if len(order) else ()
        )
        for samples, images in self._images(batches):
            count = len(samples) if self.partner is None else len(samples) // 2
            yield self._assemble(
                samples[:count], to_device(samples, self.device), to_device(images, self.device)
            )

    def _assemble(self, index: Tensor, samples: Tensor, images: Tensor) -> Inputs:
        """Return a batch from its images and, behind them, those of the partners, if any.

        `samples` is (B,) or (2 B,), and `images` has as many rows.
        """
        if self.augmentation_params is not None:
            images = self.views.augment(images, self.augmentation_params.index_select(0, samples))
        planes, labels = self._normalise(images), self.labels.index_select(0, samples)
        if self.share is None:
            return Inputs(index, planes, labels)
        (own, partners), own_index = planes.chunk(2), samples[: len(index)]
        share = self.share.index_select(0, own_index)
        boxes = None if self.boxes is None else self.boxes.index_select(0, own_index)
        mix = Mix(labels[len(index) :], share)
        return Inputs(index, blend(own, partners, share, boxes), labels[: len(index)], mix)

    def _images(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the samples of each batch, partners last, and their images (., H, W, C) uint8."""
        if self.dataset.root is not None:
            samples = [self._with_partners(index) for index in batches]
            return zip(samples, self._decode(samples), strict=True)
        if self.on_device:
            images = images_on_device(self.dataset, self.part, self.device)
            return (
                (index, images.index_select(0, index))
                for index in map(self._with_partners, batches)
            )
        mapped = np.asarray(self.split.inputs)
        return (
            (index, torch.from_numpy(mapped[index.numpy()]))
            for index in map(self._with_partners, batches)
        )

    def _with_partners(self, index: Tensor) -> Tensor:
        if self.partner is None:
            return index
        return torch.cat([index, self.partner.index_select(0, index)])

    def _decode(self, samples: list[Tensor]) -> Iterator[Tensor]:
        """Return decoded images from files.

        Blending decodes two images for each sample, which doubles the work of the loader processes.
        """
        root, side = self.dataset.root, self.dataset.shape[1]
        assert root is not None
        numbers, transform = None, None
        if self.crops_in_loader and self.view is not None:
            transform = self.views.image_transform(self.view)
            numbers = None if transform else self.views.numbers(self.view)
        pin = self.device.type == "cuda"
        place = self.place
        return pictures.decode(
            root,
            self.split.inputs,
            [index.numpy() for index in samples],
            side,
            numbers,
            place.loader_workers,
            pin,
            place.loader_wait_s,
            transform,
        )

    def _normalise(self, images: Tensor) -> Tensor:
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.place.layout)
        return planes.sub_(self.mean).div_(self.std)

    def _plane(self, values: tuple[float, ...]) -> Tensor:
        """Return (1, C, H, W) of 255 x `values` (C,).

        It has the size of an image: broadcasting with channels last would take five times as long.
        """
        each = (255 * torch.tensor(values, dtype=torch.float32)).view(1, -1, 1, 1)
        return to_device(
            each.expand(1, *self.dataset.shape).contiguous(memory_format=self.place.layout),
            self.device,
        )

    def _to_index_device(self, tensor: Tensor) -> Tensor:
        """Return the tensor on the device if the arrays are there, else on the CPU."""
        return to_device(tensor, self.device) if self.on_device else tensor
