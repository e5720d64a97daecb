"""Select and order the samples of an epoch, and yield the batches of one rank."""

import contextlib
import copy
import math
import weakref
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.core.errors import ConfigurationError
from orchestrator.data._image_source import ImageSource
from orchestrator.data._parts import UNLABELLED
from orchestrator.data._streams import Stream, open_stream
from orchestrator.data.class_balance import draw_balanced
from orchestrator.data.dataset import Dataset
from orchestrator.data.passes import CPU, Inputs, LoaderOptions, Pass
from orchestrator.data.shared_memory import describe_shortage
from orchestrator.data.views import Views

Part = Literal["train", "validation", "test"]


class Batches:
    """This rank's share of every global batch.

    Args:
        dataset: The prepared data.
        views: The augmented views of the training part.
        batch_size: Samples of a global batch, over all ranks.
        seed: Seed of the orders.
        rank: This process.
        world_size: Number of ranks.
        device: Device of the batches.
        loader_workers: Processes that decode the images of folder data; arrays need none.
        channels_last: Whether batches have that memory format.
        on_device: Keep arrays in the device's memory, where a step neither copies nor waits; folder
            data ignore it.
        labelled_share: Share of labelled samples in every batch of an epoch, if some samples are
            labelled and others are not. With None, both are drawn at the same rate.
        loader_wait_s: Longest wait for a decoded batch in seconds.
        balanced: Draw equally many samples of each class; all samples have a label.
        strong: Strong views of the training part, which training batches then have in addition.

    Attributes:
        strong: The same batches in the strong views alone, or None.

    Raises:
        ConfigurationError: `batch_size` is no multiple of `world_size`, exceeds the training part,
            or has no room for both labelled and unlabelled samples.
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
        on_device: bool = False,
        labelled_share: float | None = None,
        loader_wait_s: float = math.inf,
        balanced: bool = False,
        strong: Views | None = None,
    ) -> None:
        assert 0 <= rank < world_size and views.count == len(dataset.train)
        _require_batch(len(dataset.train), batch_size, world_size)
        self.dataset, self.views, self.batch_size, self.seed = dataset, views, batch_size, seed
        self.rank, self.world_size, self.device = rank, world_size, device
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.loader = LoaderOptions(loader_workers, loader_wait_s)
        self.source = ImageSource(dataset, device, layout, on_device and dataset.root is None)
        known = dataset.train.labels != UNLABELLED
        self._labelled_index, self._unlabelled_index = np.flatnonzero(known), np.flatnonzero(~known)
        partly = len(self._labelled_index) and len(self._unlabelled_index)
        if labelled_share is not None and partly:
            self.labelled = labelled_per_batch(
                batch_size, labelled_share, world_size, len(self._unlabelled_index)
            )
        else:
            self.labelled = 0
        assert not balanced or self.all_labelled
        self.balanced = balanced
        self._running: weakref.WeakSet[Generator[Inputs, None, None]] = weakref.WeakSet()
        self.strong: Batches | None = None
        if strong is not None:
            self.strong = copy.copy(self)  # shares the images, and is closed together
            self.strong.views = strong

    @property
    def on_device(self) -> bool:
        """Return whether the arrays, and `Inputs.index`, are in the device's memory."""
        return self.source.on_device

    @property
    def all_labelled(self) -> bool:
        """Return whether every training sample has a label."""
        return not len(self._unlabelled_index)

    @property
    def class_sizes(self) -> list[int]:
        """Return the number of labelled training samples of each class."""
        labels = self.dataset.train.labels[self._labelled_index]
        counts: list[int] = np.bincount(labels, minlength=len(self.dataset.classes)).tolist()
        return counts

    def shortage(self) -> str:
        """Return why decoded images cannot pass through shared memory, empty if they can."""
        if self.dataset.root is None:
            return ""
        images_each = 2 if self.views.mix != "none" or self.strong else 1
        images = self.batch_size // self.world_size * images_each
        return describe_shortage(images * math.prod(self.dataset.shape), self.loader.workers)

    def steps(self) -> int:
        """Return the number of batches in a training epoch.

        An epoch takes every sample once, or every unlabelled sample if labelled ones have a share.
        The last incomplete batch is dropped. Balanced draws take as many steps.
        """
        return len(self._unlabelled_index if self.labelled else self.dataset.train) // (
            self.batch_size - self.labelled
        )

    def train(self, epoch: int, view: int | None) -> Iterator[Inputs]:
        """Return the training batches of one epoch.

        The order is drawn from (seed, epoch) and is the same on all ranks. Each global batch is
        split into `world_size` contiguous parts. If labelled samples have a share, they and the
        unlabelled ones are split separately. Each sample is drawn once for both its views.

        Args:
            epoch: The epoch, from 0.
            view: The view; None is the clean one.
        """
        rank_parts = [
            part.reshape(self.steps(), self.world_size, -1)[:, self.rank]
            for part in self._draw_batches(epoch)
        ]
        order = np.concatenate(rank_parts, axis=1).ravel()
        size = self.batch_size // self.world_size
        batches = self._pass("train", order, size, view)
        if self.strong is None:
            return batches
        return _pair(batches, self.strong._pass("train", order, size, view))

    def drawn_last(self, epoch: int, count: int) -> NDArray[np.int64]:
        """Return the last `count` distinct samples that all ranks drew in an epoch, latest first.

        The result is shorter if the epoch drew fewer.
        """
        latest = np.concatenate(self._draw_batches(epoch), axis=1).ravel()[::-1]
        return latest[np.sort(np.unique(latest, return_index=True)[1])[:count]]

    def _draw_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the samples of every global batch of an epoch, (steps, batch_size).

        If labelled samples have a share, return two arrays: labelled and unlabelled samples.
        """
        if self.balanced:
            count = self.steps() * self.batch_size
            order = draw_balanced(self.dataset.train.labels, count, epoch, self.seed)
            return [order.reshape(self.steps(), self.batch_size)]
        draw = open_stream(self.seed, epoch, Stream.ORDER)
        if self.labelled:
            orders = [
                (self._repeat_labelled(epoch), self.labelled),
                (draw.permutation(self._unlabelled_index), self.batch_size - self.labelled),
            ]
        else:
            orders = [(draw.permutation(len(self.dataset.train)), self.batch_size)]
        return [order[: self.steps() * size].reshape(self.steps(), size) for order, size in orders]

    def _repeat_labelled(self, epoch: int) -> NDArray[np.int64]:
        """Return the labelled samples of an epoch.

        They come from consecutive permutations of all labelled samples, continued from the previous
        epoch.
        """
        count, total = self.steps() * self.labelled, len(self._labelled_index)
        first, skipped = divmod(epoch * count, total)
        rounds = range(first, first + -(-(skipped + count) // total))
        orders = [
            open_stream(self.seed, each, Stream.LABELLED).permutation(self._labelled_index)
            for each in rounds
        ]
        return np.concatenate(orders)[skipped : skipped + count]

    def iterate_in_order(
        self, split: Part, view: int | None = None, size: int | None = None
    ) -> Iterator[Inputs]:
        """Return this rank's contiguous block of a split in order; the last batch may be short.

        Args:
            split: The part of the data.
            view: The view; only the training part has views.
            size: Batch size; None stands for that of training.
        """
        assert view is None or split == "train", "only the training part has views"
        block = np.array_split(np.arange(len(self.dataset.split(split))), self.world_size)[
            self.rank
        ]
        return self._pass(split, block, size or self.batch_size // self.world_size, view)

    def rates(self) -> NDArray[np.float32]:
        """Return the relative draw rate of each training sample, (n,), with mean one.

        Labelled samples are drawn more often if they have a share, and samples of small classes if
        the draws are balanced.
        """
        rates = np.ones(len(self.dataset.train), dtype=np.float32)
        if self.balanced:
            sizes = np.array(self.class_sizes)
            own_sizes = np.count_nonzero(sizes) * sizes[self.dataset.train.labels]
            return np.asarray(len(rates) / own_sizes, dtype=np.float32)
        if self.labelled:
            share = self.labelled / self.batch_size
            rates[self._labelled_index] = share * len(rates) / len(self._labelled_index)
            rates[self._unlabelled_index] = (1 - share) * len(rates) / len(self._unlabelled_index)
        return rates

    def draw_validation_batches(self, epoch: int, count: int) -> Iterator[Inputs]:
        """Return `count` batches of the validation part, as this rank's share of each.

        The order is drawn from (seed, epoch). A new permutation starts at the end of the part. A
        part that is smaller than a batch gives smaller batches. A small part alone
        never gives a batch of a single sample, which batch norm refuses.
        """
        total = len(self.dataset.validation)
        size = max(
            min(self.batch_size, total) // self.world_size,
            min(2, self.batch_size // self.world_size),
        )
        draw = open_stream(self.seed, epoch, Stream.HELD_OUT)
        rounds = -(-count * size * self.world_size // total)
        order = np.concatenate([draw.permutation(total) for _ in range(rounds)])[
            : count * size * self.world_size
        ]
        return self._pass(
            "validation",
            order.reshape(count, self.world_size, size)[:, self.rank].ravel(),
            size,
            None,
        )

    def spaced_samples(self, split: Part, count: int) -> Iterator[Inputs]:
        """Return batches of at most `count` evenly spaced samples, the same on every rank."""
        total = len(self.dataset.split(split))
        return self.select_samples(
            split, np.linspace(0, total - 1, min(count, total)).astype(np.int64)
        )

    def select_samples(self, split: Part, index: NDArray[np.int64]) -> Iterator[Inputs]:
        """Return batches of the clean samples at the indices `index`, the same on all ranks."""
        return self._pass(split, index, self.batch_size // self.world_size, None)

    def full_blocks(
        self, view: int | None, rank: int, world_size: int, together: int = 1
    ) -> Iterator[Inputs]:
        """Return the training part in order, in blocks of `batch_size`, dealt to the ranks in turn.

        All ranks get equally many blocks: a rank without a block repeats the last one. The last
        block is filled with samples from the start. Networks then see the shapes of a single
        worker's step, and give bit-identical results.

        Args:
            view: The view; None is the clean one.
            rank: The rank, which may differ from that of the batches.
            world_size: The number of ranks that share the blocks.
            together: The number of blocks of a rank that are returned as one; the last are fewer.
        """
        blocks = -(-len(self.dataset.train) // self.batch_size)
        turns = -(-blocks // world_size)
        rank_blocks = np.minimum(np.arange(turns) * world_size + rank, blocks - 1)
        order = (rank_blocks[:, None] * self.batch_size + np.arange(self.batch_size)) % len(
            self.dataset.train
        )
        return self._pass("train", order.ravel(), self.batch_size * together, view)

    def close(self) -> None:
        """Close the unfinished passes, and end their decoding processes."""
        for running in list(self._running):
            running.close()

    def _pass(
        self, part: Part, order: NDArray[np.int64], size: int, view: int | None
    ) -> Generator[Inputs, None, None]:
        running = self._inputs(part, order, size, view)
        self._running.add(running)
        return running

    def _inputs(
        self, part: Part, order: NDArray[np.int64], size: int, view: int | None
    ) -> Generator[Inputs, None, None]:
        """Yield the inputs of a pass.

        Nothing is drawn before the first batch is requested, so that its time is measured at the
        consumer.
        """
        yield from Pass(self.source, part, self.views, view, self.loader).inputs(order, size)


def _pair(
    batches: Generator[Inputs, None, None], strong: Generator[Inputs, None, None]
) -> Iterator[Inputs]:
    """Yield each batch together with its strong view; an early end closes both passes."""
    with contextlib.closing(batches), contextlib.closing(strong):
        for batch, strong_batch in zip(batches, strong, strict=True):
            yield replace(batch, strong=strong_batch)


def _require_batch(samples: int, batch_size: int, world_size: int) -> None:
    if batch_size % world_size:
        raise ConfigurationError(
            f"training.batch_size = {batch_size} cannot be divided among {world_size} workers: "
            f"give a multiple of {world_size}"
        ).with_details("training.batch_size", batch_size, f"a multiple of {world_size}")
    if samples < batch_size:
        raise ConfigurationError(
            f"the training part has {samples} samples, fewer than one batch of "
            f"{batch_size // world_size} for each of {world_size} "
            f"workers ({world_size} x {batch_size // world_size} = {batch_size}): lower "
            f"training.batch_size or give more data"
        ).with_details("training.batch_size", batch_size, (world_size, samples))


def labelled_per_batch(batch_size: int, share: float, world_size: int, unlabelled: int) -> int:
    """Return the number of labelled samples in a global batch.

    The share is rounded so that all ranks have equally many, at least one and never all.

    Raises:
        ConfigurationError: A rank's part has no room for both kinds, or the `unlabelled` samples do
            not fill one batch.
    """
    each = batch_size // world_size
    if each < 2:
        raise ConfigurationError(
            f"training.batch_size = {batch_size} gives each of {world_size} workers {each} "
            f"sample, and data.labelled needs a labelled and an unlabelled one: "
            f"give at least {2 * world_size}"
        ).with_details("training.batch_size", batch_size, (2 * world_size, None))
    labelled = world_size * min(max(round(share * each), 1), each - 1)
    if unlabelled < batch_size - labelled:
        raise ConfigurationError(
            f"data.labelled leaves {unlabelled} training samples unlabelled, fewer than the "
            f"{batch_size - labelled} of a batch (training.batch_size = {batch_size}, "
            f"data.labelled_share = {share:g}): lower training.batch_size or data.labelled"
        ).with_details(
            "training.batch_size", batch_size, f"at most {unlabelled} unlabelled samples in a batch"
        )
    return labelled
