"""One pass over a part in a view: pictures, normalised and blended, on the device. Knows no epochs, ranks or models."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods import Mix
from orchestrator.data import pictures
from orchestrator.data._mixing import blended
from orchestrator.data.dataset import Dataset
from orchestrator.data.memory import on_device, to_device
from orchestrator.data.views import Views

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Inputs:
    """`index` (B,) int64 into the split, `inputs` (B, C, H, W) float32 normalised, `labels` (B,) int64, all on the device.

    Unless the data are resident, `index` is on the CPU: who looks something up by it there must not wait for the device.
    `mix` says with whom the samples are blended.
    """

    index: Tensor
    inputs: Tensor
    labels: Tensor
    mix: Mix | None = None


@dataclass(frozen=True)
class Place:
    """Where batches are made: on `device`, from arrays that lie there when `on_device`, channels last when `layout` says so.

    `loader_workers` processes decode the images of folder data; for a batch of theirs nobody waits longer than `loader_wait_s`.
    """

    device: torch.device = CPU
    on_device: bool = False
    layout: torch.memory_format = torch.contiguous_format
    loader_workers: int = 0
    loader_wait_s: float = math.inf


class Pass:
    """Makes the inputs of a part in a view; whatever holds for the whole pass goes to the device when it is built."""

    def __init__(self, dataset: Dataset, part: str, views: Views, view: int | None, place: Place) -> None:
        self.dataset, self.part, self.split, self.views, self.place = dataset, part, dataset.split(part), views, place
        self.view, self.device = view, place.device
        self.on_device = place.on_device and dataset.root is None
        self.cut = dataset.root is not None and views.policy == "resized_crop_flip"  # by whoever decodes
        height, width = dataset.shape[1:]
        places = None if self.cut else views.places(view, height, width)
        self.places = None if places is None else to_device(places, self.device)
        mixing = views.mixing(view, height, width)
        self.partner = None if mixing is None else self._at_home(mixing.partner)
        self.share = None if mixing is None else to_device(mixing.share, self.device)
        self.boxes = None if mixing is None or mixing.boxes is None else to_device(mixing.boxes, self.device)
        self.labels = to_device(torch.from_numpy(self.split.labels), self.device)
        self.mean, self.std = (self._plane(values) for values in (dataset.mean, dataset.std))

    def inputs(self, order: NDArray[np.int64], size: int) -> Generator[Inputs, None, None]:
        """The samples of `order` (n,) in batches of `size`, the last one shorter where they do not go up."""
        batches = torch.split(self._at_home(torch.from_numpy(order)), size) if len(order) else ()
        for wanted, images in self._images(batches):
            count = len(wanted) if self.partner is None else len(wanted) // 2
            yield self._made(wanted[:count], to_device(wanted, self.device), to_device(images, self.device))

    def _made(self, index: Tensor, wanted: Tensor, images: Tensor) -> Inputs:
        """From the own pictures and those of the partners behind them, if any: `wanted` (B or 2 B,), `images` alike."""
        if self.places is not None:
            images = self.views.augment(images, self.places.index_select(0, wanted))
        planes, labels = self._normalised(images), self.labels.index_select(0, wanted)
        if self.share is None:
            return Inputs(index, planes, labels)
        (own, other), own_numbers = planes.chunk(2), wanted[: len(index)]
        share = self.share.index_select(0, own_numbers)
        boxes = None if self.boxes is None else self.boxes.index_select(0, own_numbers)
        mix = Mix(labels[len(index) :], share)
        return Inputs(index, blended(own, other, share, boxes), labels[: len(index)], mix)

    def _images(self, batches: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each batch the samples whose pictures it takes, partners last, and these pictures (., H, W, C) uint8."""
        if self.dataset.root is not None:
            wanted = [self._with_partners(index) for index in batches]
            return zip(wanted, self._decoded(wanted), strict=True)
        if self.on_device:
            held = on_device(self.dataset, self.part, self.device)
            return ((samples, held.index_select(0, samples)) for samples in map(self._with_partners, batches))
        mapped = np.asarray(self.split.inputs)
        return ((samples, torch.from_numpy(mapped[samples.numpy()])) for samples in map(self._with_partners, batches))

    def _with_partners(self, index: Tensor) -> Tensor:
        return index if self.partner is None else torch.cat([index, self.partner.index_select(0, index)])

    def _decoded(self, wanted: list[Tensor]) -> Iterator[Tensor]:
        """From files; blending decodes two for every sample, which doubles the work of the processes that decode."""
        root, side = self.dataset.root, self.dataset.shape[1]
        assert root is not None
        numbers = self.views.numbers(self.view) if self.cut and self.view is not None else None
        pin, samples = self.device.type == "cuda", [one.numpy() for one in wanted]
        place = self.place
        return pictures.decode(root, self.split.inputs, samples, side, numbers, place.loader_workers, pin, place.loader_wait_s)

    def _normalised(self, images: Tensor) -> Tensor:
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.place.layout)
        return planes.sub_(self.mean).div_(self.std)

    def _plane(self, values: tuple[float, ...]) -> Tensor:
        """(1, C, H, W) of 255 x `values` (C,): as large as a picture, or channels last would take five times as long."""
        each = (255 * torch.tensor(values, dtype=torch.float32)).view(1, -1, 1, 1)
        return to_device(each.expand(1, *self.dataset.shape).contiguous(memory_format=self.place.layout), self.device)

    def _at_home(self, tensor: Tensor) -> Tensor:
        """Where samples are looked up: on the device when the data lie there, else on the CPU."""
        return to_device(tensor, self.device) if self.on_device else tensor
