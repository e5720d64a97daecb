"""The batches of an epoch as normalised tensors, for one rank of a group. Knows no models, and no Ray."""

import weakref
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.data import pictures
from orchestrator.data.dataset import Dataset, Split
from orchestrator.data.views import Views
from orchestrator.errors import ConfigurationError

CPU = torch.device("cpu")
ORDER = 1  # keeps the order of epoch e apart from the crops of view e, which are drawn from (seed, e)


@dataclass(frozen=True)
class Inputs:
    """`index` (B,) int64 into the split, `inputs` (B, C, H, W) float32 normalised, `labels` (B,) int64.

    `index` is on the CPU: who looks logits up by it must not wait for the device. The others are on the device.
    """

    index: torch.Tensor
    inputs: torch.Tensor
    labels: torch.Tensor


class Batches:
    """This rank's share of every global batch of `batch_size` samples.

    `loader_workers` processes decode the images of folder data; arrays need none. Raises ConfigurationError when
    `batch_size` is no multiple of `world_size`, or more than there are training samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        views: Views,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device = CPU,
        loader_workers: int = 0,
        channels_last: bool = False,
    ) -> None:
        assert 0 <= rank < world_size and views.count == len(dataset.train)
        _require_batch(len(dataset.train), batch_size, world_size)
        self.dataset, self.views, self.batch_size, self.seed = dataset, views, batch_size, seed
        self.rank, self.world_size, self.device = rank, world_size, device
        self.loader_workers = loader_workers
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        channels = (1, -1, 1, 1)
        self._mean = (255 * torch.tensor(dataset.mean, dtype=torch.float32)).view(channels).to(device)
        self._std = (255 * torch.tensor(dataset.std, dtype=torch.float32)).view(channels).to(device)
        self._open: weakref.WeakSet[Generator[Inputs, None, None]] = weakref.WeakSet()

    def steps(self) -> int:
        """Batches in a training epoch; the last incomplete one is dropped."""
        return len(self.dataset.train) // self.batch_size

    def train(self, epoch: int, view: int | None) -> Iterator[Inputs]:
        """The batches of an epoch, from 0, in a view; None is the clean one.

        The order is drawn from (seed, epoch), the same on all ranks, and each global batch is split into `world_size`
        contiguous parts.
        """
        order = np.random.default_rng([self.seed, epoch, ORDER]).permutation(len(self.dataset.train))
        batches = order[: self.steps() * self.batch_size].reshape(self.steps(), self.world_size, -1)[:, self.rank]
        return self._pass(self.dataset.train, list(batches), view)

    def ordered(self, split: Literal["train", "validation", "test"], view: int | None = None) -> Iterator[Inputs]:
        """Every sample of this rank's contiguous block of a split once, in order; the last batch may be short.

        Only the training part has views.
        """
        assert view is None or split == "train", "views are of the training part"
        block = np.array_split(np.arange(len(self.dataset.split(split))), self.world_size)[self.rank]
        size = self.batch_size // self.world_size
        batches = [block[start : start + size] for start in range(0, len(block), size)]
        return self._pass(self.dataset.split(split), batches, view)

    def close(self) -> None:
        """End the passes that were left before their end, and the processes that decode for them."""
        for running in list(self._open):
            running.close()

    def _pass(self, split: Split, batches: list[NDArray[np.int64]], view: int | None) -> Iterator[Inputs]:
        running = self._inputs(split, batches, view)
        self._open.add(running)
        return running

    def _inputs(self, split: Split, batches: list[NDArray[np.int64]], view: int | None) -> Generator[Inputs, None, None]:
        cut = self.dataset.root is not None and self.views.policy == "resized_crop_flip"  # by whoever decodes
        for numbers, images in zip(batches, self._images(split, batches, view if cut else None), strict=True):
            index = torch.from_numpy(numbers)
            images = self.views.apply(None if cut else view, index, images.to(self.device, non_blocking=True))
            labels = torch.from_numpy(split.labels[numbers]).to(self.device, non_blocking=True)
            yield Inputs(index, self._normalised(images), labels)

    def _images(self, split: Split, batches: list[NDArray[np.int64]], view: int | None) -> Iterator[torch.Tensor]:
        root = self.dataset.root
        if root is None:
            return (torch.from_numpy(np.asarray(split.inputs[index])) for index in batches)
        numbers = None if view is None else self.views.numbers(view)
        pin = self.device.type == "cuda"
        return pictures.decode(root, split.inputs, batches, self.dataset.shape[1], numbers, self.loader_workers, pin)

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=self._format)
        return planes.sub_(self._mean).div_(self._std)


def _require_batch(samples: int, batch_size: int, world_size: int) -> None:
    if batch_size % world_size:
        raise ConfigurationError(
            f"training.batch_size = {batch_size} cannot be shared by {world_size} workers: give a multiple of {world_size}"
        )
    if samples < batch_size:
        raise ConfigurationError(
            f"the training part has {samples} samples, fewer than one batch of {batch_size // world_size} for each of {world_size} "
            f"workers ({world_size} x {batch_size // world_size} = {batch_size}): lower training.batch_size or give more data"
        )
