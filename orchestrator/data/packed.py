"""Write and read packed images: reduced images of files, in one memory-mapped file."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.data.decoding import FORMATS

PIXELS_FILE, PATHS_FILE, INDEX_FILE = "packed_pixels.bin", "packed_paths.npy", "packed_index.npy"
CHANNELS = 3
MEASURED = 256  # files whose sizes are read for an estimate


class PackedImages:
    """Packed images of a folder, (H, W, 3) uint8 of any height and width.

    Args:
        folder: The folder that a `PackWriter` filled.

    Raises:
        ValueError: The files do not fit each other.
        OSError: A file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = np.load(folder / PATHS_FILE, mmap_mode="r", allow_pickle=False)
        self.index = np.load(folder / INDEX_FILE, mmap_mode="r", allow_pickle=False)
        self.pixels = np.memmap(folder / PIXELS_FILE, dtype=np.uint8, mode="r")
        if self.paths.dtype.kind != "S" or self.index.shape != (len(self.paths), 3):
            raise ValueError(f"{PATHS_FILE} and {INDEX_FILE} hold no packed images")
        offset, height, width = (int(value) for value in self.index[-1])
        if offset + height * width * CHANNELS != len(self.pixels):
            raise ValueError(f"{PIXELS_FILE} has {len(self.pixels)} bytes, other than its index")

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Map the files again in another process instead of sending them."""
        return type(self), (self.folder,)

    def read(self, path: bytes) -> NDArray[np.uint8]:
        """Return the image (H, W, 3) of a file, mapped and not copied."""
        row = int(np.searchsorted(self.paths, np.array(path, dtype=self.paths.dtype)))
        assert self.paths[row] == path, path
        offset, height, width = (int(value) for value in self.index[row])
        pixels: NDArray[np.uint8] = self.pixels[offset : offset + height * width * CHANNELS]
        return pixels.reshape(height, width, CHANNELS)


class PackWriter:
    """Write packed images to a folder, one at a time.

    Args:
        folder: The folder, which exists.
        paths: (n,), the paths of the images in ascending order, without duplicates.
    """

    def __init__(self, folder: Path, paths: NDArray[np.bytes_]) -> None:
        self.folder, self.paths = folder, paths
        self.index = np.zeros((len(paths), 3), dtype=np.int64)
        self.written = self.bytes = 0
        self._stream = (folder / PIXELS_FILE).open("wb")

    def add(self, image: NDArray[np.uint8]) -> None:
        """Append the image (H, W, 3) of the next path."""
        self._stream.write(image.data)
        self.index[self.written] = self.bytes, *image.shape[:2]
        self.written, self.bytes = self.written + 1, self.bytes + image.nbytes

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file, and write the index unless there was an error."""
        self._stream.close()
        if kind is None:
            assert self.written == len(self.paths), "an image is missing"
            np.save(self.folder / PATHS_FILE, self.paths)
            np.save(self.folder / INDEX_FILE, self.index)


def packed_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return width and height of a packed image.

    The shorter side becomes `side` pixels, and the aspect is kept. A smaller image keeps its size.
    """
    scale = side / min(width, height)
    if scale >= 1:
        return width, height
    return max(side, round(width * scale)), max(side, round(height * scale))


def reduce_image(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Return an image of mode RGB as (H, W, 3) uint8 with the shorter side `side`."""
    size = packed_size(*image.size, side)
    reduced = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    return np.array(reduced)


def estimate_bytes(root: Path, paths: Sequence[bytes], side: int) -> int:
    """Return the approximate bytes of the packed images, from the sizes of a few files.

    Files whose header cannot be read count as squares.
    """
    step = max(1, len(paths) // MEASURED)
    sizes = []
    for path in paths[::step]:
        try:
            with Image.open(root / os.fsdecode(path), formats=FORMATS) as image:
                sizes.append(math.prod(packed_size(*image.size, side)))
        except Exception:  # Pillow has no common error for damage; decoding reports it
            sizes.append(side * side)
    return round(CHANNELS * len(paths) * sum(sizes) / len(sizes))
