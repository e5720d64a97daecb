"""Yield normalised and blended batches of one part in one view, on the device."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods import Mix
from orchestrator.data import pictures
from orchestrator.data._image_source import ImageSource
from orchestrator.data._mixing import blend
from orchestrator.data.memory import to_device
from orchestrator.data.user_transforms import TRANSFORMS
from orchestrator.data.views import SHIFTING, Views

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
        strong: The same samples in a strong view; None unless the batches have strong views.
    """

    index: Tensor
    inputs: Tensor
    labels: Tensor
    mix: Mix | None = None
    strong: "Inputs | None" = None


@dataclass(frozen=True)
class LoaderOptions:
    """Processes that decode the images of folder data, and the longest wait for a batch of them."""

    workers: int = 0
    wait_s: float = math.inf


class Pass:
    """Pass over a part in a view.

    The constructor copies all values that are constant during the pass to the device.
    """

    def __init__(
        self, source: ImageSource, part: str, views: Views, view: int | None, loader: LoaderOptions
    ) -> None:
        dataset = source.dataset
        self.source, self.dataset, self.part = source, dataset, part
        self.split = dataset.split(part)
        self.views, self.view = views, view
        self.device, self.loader = source.device, loader
        # the decoding processes crop and transform, unless the batch is cropped after them
        self.augments_in_loader = dataset.root is not None and views.policy not in SHIFTING
        height, width = dataset.shape[1:]
        self.transforms = views.draw_transforms(view, height, width)
        augmentation_params = (
            None if self.augments_in_loader else views.augmentation_params(view, height, width)
        )
        self.augmentation_params = (
            None if augmentation_params is None else to_device(augmentation_params, self.device)
        )
        mixing = views.mixing(view, height, width)
        self.partner = None if mixing is None else self._to_index_device(mixing.partner)
        self.host_partner = None if mixing is None else mixing.partner.numpy()
        self.share = None if mixing is None else to_device(mixing.share, self.device)
        self.boxes = (
            None if mixing is None or mixing.boxes is None else to_device(mixing.boxes, self.device)
        )
        self.labels = to_device(torch.from_numpy(self.split.labels), self.device)
        self.is_clean = view is None or not views.varies

    def inputs(self, order: NDArray[np.int64], size: int) -> Generator[Inputs, None, None]:
        """Yield the samples of `order` (n,) in batches of `size`; the last one may be shorter."""
        batches = (
            torch.split(self._to_index_device(torch.from_numpy(order)), size) if len(order) else ()
        )
        if self.is_clean and self.source.keeps_normalised:
            for index in batches:
                images = self.source.select_normalised(self.part, index)
                yield Inputs(index, images, self.labels.index_select(0, index))
            return
        for (samples, images), host_samples in zip(
            self._images(batches), self._host_samples(order, size), strict=False
        ):
            count = len(samples) if self.partner is None else len(samples) // 2
            yield self._assemble(
                samples[:count],
                to_device(samples, self.device),
                host_samples,
                to_device(images, self.device),
            )

    def _assemble(
        self, index: Tensor, samples: Tensor, host_samples: NDArray[np.int64] | None, images: Tensor
    ) -> Inputs:
        """Return a batch from its images and, behind them, those of the partners, if any.

        `samples` is (B,) or (2 B,), and `images` has as many rows.
        `host_samples` are the same on the host, or None if nothing is left to transform.
        """
        if self.augmentation_params is not None:
            images = self.views.augment(images, self.augmentation_params.index_select(0, samples))
        if self.transforms is not None and host_samples is not None:
            images = self.transforms.apply(images, host_samples)
        planes, labels = self.source.normalise(images), self.labels.index_select(0, samples)
        if self.share is None:
            return Inputs(index, planes, labels)
        (own, partners), own_index = planes.chunk(2), samples[: len(index)]
        share = self.share.index_select(0, own_index)
        boxes = None if self.boxes is None else self.boxes.index_select(0, own_index)
        mix = Mix(labels[len(index) :], share)
        return Inputs(index, blend(own, partners, share, boxes), labels[: len(index)], mix)

    def _host_samples(
        self, order: NDArray[np.int64], size: int
    ) -> Iterator[NDArray[np.int64] | None]:
        """Return the samples of each batch as `_images` does, but on the host.

        They are None if the decoding processes transform the images, or nobody does.
        """
        if self.transforms is None or self.augments_in_loader:
            return repeat(None)
        batches = (order[start : start + size] for start in range(0, len(order), size))
        partner = self.host_partner
        if partner is None:
            return batches
        return (np.concatenate([index, partner[index]]) for index in batches)

    def _images(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the samples of each batch, partners last, and their images (., H, W, C) uint8."""
        if self.dataset.root is not None:
            samples = [self._with_partners(index) for index in batches]
            return zip(samples, self._decode(samples), strict=True)
        images = self.source.images(self.part)
        return (
            (index, images.index_select(0, index)) for index in map(self._with_partners, batches)
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
        if self.view is not None and self.views.policy in TRANSFORMS:
            transform = self.views.image_transform(self.view)
        elif self.view is not None and self.views.policy == "resized_crop_flip":
            numbers = self.views.numbers(self.view)
        pin = self.device.type == "cuda"
        return pictures.decode(
            root,
            self.split.inputs,
            [index.numpy() for index in samples],
            side,
            numbers,
            self.loader.workers,
            pin,
            self.loader.wait_s,
            user_transform=transform,
            transforms=self.transforms if self.augments_in_loader else None,
            packed=self.dataset.packed,
        )

    def _to_index_device(self, tensor: Tensor) -> Tensor:
        """Return the tensor on the device if the arrays are there, else on the CPU."""
        return to_device(tensor, self.device) if self.source.on_device else tensor
