"""Decode image files to one size in worker processes."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils import data

from orchestrator.core.errors import ConfigurationError, LoaderError
from orchestrator.data._augmentation import SMALLEST_AREA_FOLDER, draw_crop_boxes, is_mirrored
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.packed import PackedImages
from orchestrator.data.shared_memory import SHARED, can_pass_memory, has_room

if TYPE_CHECKING:
    from orchestrator.data._transforms import Transforms

POLL_S = 5.0  # interval at which the loader checks that its processes are alive
CLEAN_SHARE = 224 / 256  # the clean view is the middle square, as 224 pixels of a short side of 256
ImageTransform = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]
Box = tuple[float, float, float, float]


class Damage(NamedTuple):
    """Image that cannot be decoded, and the reason."""

    path: str
    reason: str


# images, or the damage of one
Stack = torch.Tensor | NDArray[np.uint8] | Damage | ConfigurationError


def decode(
    root: Path,
    paths: NDArray[np.bytes_],
    batches: Sequence[NDArray[np.int64]],
    size: int,
    numbers: NDArray[np.float64] | None,
    workers: int,
    pin: bool,
    wait_s: float = math.inf,
    user_transform: ImageTransform | None = None,
    transforms: "Transforms | None" = None,
    packed: PackedImages | None = None,
) -> Iterator[torch.Tensor]:
    """Yield a (B, size, size, 3) uint8 tensor for each batch.

    The images do not depend on `workers`.

    Args:
        root: The folder of the images.
        paths: (n,), paths below `root`.
        batches: Indices into `paths`, one array for each batch.
        size: Side of the images in pixels.
        numbers: (n, 5), random numbers of a view, for a resized crop. None gives the clean middle.
        workers: Number of decoding processes; 0 decodes in this process.
        pin: Whether batches are in pinned memory.
        wait_s: Longest wait for a batch in seconds.
        user_transform: Changes the image (size, size, 3) of a sample, given its index.
        transforms: Transforms of the view, applied after the crop.
        packed: Reduced images that are read instead of the files.

    Raises:
        ConfigurationError: A file cannot be decoded. The message names its path.
        LoaderError: A batch does not arrive within `wait_s`, or a process ends.
    """
    loader = data.DataLoader(
        _Images(root, paths, size, numbers, user_transform, transforms, packed),
        batch_sampler=cast("Any", [batch.tolist() for batch in batches]),
        num_workers=workers,
        collate_fn=partial(_collate, shared=workers > 0 and can_pass_memory()),
        pin_memory=pin,
        timeout=POLL_S if workers else 0,
        # otherwise each pass would draw the seed of its workers from the trial's random state
        generator=torch.Generator(),
        # user code is not importable in a new process, but a forked one has it
        multiprocessing_context="fork" if workers and user_transform else None,
    )
    for pictures in _enforce_wait(iter(loader), workers, wait_s):
        if isinstance(pictures, Damage):
            raise ConfigurationError(
                f"{pictures.path} cannot be decoded ({pictures.reason}): replace or remove "
                f"this image, then start again"
            ).with_details(pictures.path, pictures.reason, "an image that can be decoded")
        if isinstance(pictures, ConfigurationError):
            raise pictures
        yield torch.from_numpy(pictures) if isinstance(pictures, np.ndarray) else pictures


def _enforce_wait(loaded: Iterator[Stack], workers: int, wait_s: float) -> Iterator[Stack]:
    """Yield the batches of a loader, and enforce `wait_s`.

    The loader's own timeout is short: after it, the loader is polled again until `wait_s` is over.
    """
    last = time.monotonic()
    while True:
        try:
            yield next(loaded)
        except StopIteration:
            return
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            if not reason.startswith("DataLoader"):
                raise
            if "timed out" not in reason:
                raise LoaderError(
                    f"a process that decodes images has ended ({reason}), usually because memory "
                    f"ran out: lower data.loader_workers = {workers}, or give this machine or "
                    f"container more memory"
                ).with_details("data.loader_workers", workers, (0, workers - 1)) from error
            if time.monotonic() - last >= wait_s:
                raise LoaderError(
                    f"the data.loader_workers = {workers} processes delivered no batch of images "
                    f"within {wait_s:g} s, half of resources.heartbeat_timeout_s: check that the "
                    f"disk of data.path responds and that {SHARED} has space, or set "
                    "data.loader_workers=0 to decode in the training process"
                ).with_details("resources.heartbeat_timeout_s", 2 * wait_s) from error
        else:
            last = time.monotonic()


class _Images(data.Dataset[torch.Tensor | Damage | ConfigurationError]):
    """Resized images as a data set for a loader.

    Errors are returned, because an exception would reach the parent as a traceback.
    """

    def __init__(
        self,
        root: Path,
        paths: NDArray[np.bytes_],
        size: int,
        numbers: NDArray[np.float64] | None,
        user_transform: ImageTransform | None,
        transforms: "Transforms | None",
        packed: PackedImages | None,
    ) -> None:
        self.root, self.paths, self.size, self.numbers = root, paths, size, numbers
        self.user_transform, self.transforms, self.packed = user_transform, transforms, packed

    def __getitem__(self, index: int) -> torch.Tensor | Damage | ConfigurationError:
        path = bytes(self.paths[index])
        numbers = None if self.numbers is None else self.numbers[[index]]
        try:
            if self.packed is None:
                image = decode_image(self.root / os.fsdecode(path), 3).image
            else:
                image = Image.fromarray(self.packed.read(path))
        except ImageError as error:
            return Damage(str(self.root / os.fsdecode(path)), str(error))
        if numbers is None:
            box = _middle(image.height, image.width)
        else:
            box = _crop(numbers, image.height, image.width)
        picture = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if numbers is not None and is_mirrored(numbers)[0]:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = np.array(picture)
        if self.user_transform is not None:
            try:
                pixels = self.user_transform(pixels, index)
            except ConfigurationError as error:
                return error
        changed = torch.from_numpy(pixels)
        if self.transforms is None:
            return changed
        return self.transforms.apply(changed[None], np.array([index]))[0]


def _middle(height: int, width: int) -> Box:
    side = min(height, width) * CLEAN_SHARE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _crop(numbers: NDArray[np.float64], height: int, width: int) -> Box:
    left, top, right, bottom = draw_crop_boxes(numbers, height, width, SMALLEST_AREA_FOLDER)[
        0
    ].tolist()
    # a sum may exceed the side by one rounding
    return left, top, min(right, width), min(bottom, height)


def _collate(pictures: list[torch.Tensor | Damage | ConfigurationError], shared: bool) -> Stack:
    """Return one tensor, in shared memory if there is room; else an array, sent through a pipe.

    If shared memory had no room, the loader would lose the batch.
    """
    damaged = [picture for picture in pictures if isinstance(picture, Damage | ConfigurationError)]
    if damaged:
        return damaged[0]
    stacked = torch.stack(cast("list[torch.Tensor]", pictures))
    if not shared:
        return stacked if data.get_worker_info() is None else stacked.numpy()
    if has_room(stacked.nbytes):
        with contextlib.suppress(RuntimeError):  # another process took the memory meanwhile
            stacked.share_memory_()  # type: ignore[no-untyped-call]
            return stacked
    return stacked.numpy()
