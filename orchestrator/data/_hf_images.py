"""Decode the images in a table column to one size, in their order and a few at a time."""

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.text import quote, shorten
from orchestrator.data._hf_files import HFTable
from orchestrator.data.decoding import (
    FORMATS,
    ImageError,
    decode_image,
    is_grey,
    resize_middle_square,
)
from orchestrator.data.preprocessing import MOST_SAMPLED

MOST_THREADS = 16


class Header(NamedTuple):
    """Width and height of an image in pixels, and whether it is grey."""

    width: int
    height: int
    is_grey: bool


class TableImages:
    """Images of all parts, addressed by row numbers that continue from part to part.

    Up to `MOST_SAMPLED` training images, evenly spaced, determine whether the images are grey, and
    their size if none is configured. An image that does not fit is refused when it is decoded.

    Args:
        where: Start of error messages.
        tables: The tables by part.
        column: The column of the images.
        size: Side of the images in pixels; None keeps their size.
    """

    def __init__(
        self, where: str, tables: Mapping[str, HFTable], column: str, size: int | None
    ) -> None:
        self.where, self.tables, self.column, self.size = where, dict(tables), column, size
        counts = [table.rows for table in tables.values()]
        ends = np.cumsum(counts, dtype=np.int64)
        self.ends = dict(zip(tables, ends.tolist(), strict=True))

    def rows_of(self, part: str) -> NDArray[np.int64]:
        """Return the row numbers of a part."""
        return np.arange(self.ends[part] - self.tables[part].rows, self.ends[part])

    def sample(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return at most `MOST_SAMPLED` of the rows, evenly spaced."""
        index = np.linspace(0, len(rows) - 1, min(len(rows), MOST_SAMPLED))
        return rows[index.astype(np.int64)]

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Return (H, W, C) of the decoded images.

        Raises:
            ConfigurationError: The images have different sizes, and none is configured.
        """
        headers: set[Header] = set()
        for rows, values in self._iterate(self.sample(self.rows_of("train"))):
            headers.update(
                self._read_header(row, value) for row, value in zip(rows, values, strict=True)
            )
        channels = 1 if all(header.is_grey for header in headers) else 3
        if self.size is not None:
            return self.size, self.size, channels
        sizes = sorted({(header.width, header.height) for header in headers})
        if len(sizes) > 1:
            both = " and ".join(f"{width} x {height}" for width, height in sizes[:2])
            raise ConfigurationError(
                f"data.size is missing: the images of {self.where} have different sizes, such as "
                f"{both} pixels; set the side length with --set data.size=224"
            ).with_details("data.size", None, int)
        return sizes[0][1], sizes[0][0], channels

    def decode(
        self, rows: NDArray[np.int64], notes: Counter[str] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the images (B, H, W, C) of the rows, in their order.

        Args:
            rows: Row numbers in any order; fast if they mostly increase.
            notes: Counter of the conversions, which is updated.

        Raises:
            ConfigurationError: An image cannot be decoded, or does not fit.
        """
        shape, threads = self.shape, min(os.cpu_count() or 1, MOST_THREADS)
        with ThreadPoolExecutor(threads) as pool:
            for batch, values in self._iterate(rows):
                decoded = list(
                    pool.map(lambda row, value: self._decode(row, value, shape), batch, values)
                )
                if notes is not None:
                    notes.update(note for _, each in decoded for note in each)
                yield np.stack([pixels for pixels, _ in decoded])

    def _iterate(self, rows: NDArray[np.int64]) -> Iterator[tuple[list[int], list[bytes]]]:
        """Yield a few row numbers and their encoded images."""
        turns = np.flatnonzero(np.diff(rows) <= 0) + 1
        for increasing in np.split(rows, turns):
            for part, end in self.ends.items():
                first = end - self.tables[part].rows
                own = increasing[(increasing >= first) & (increasing < end)]
                done = 0
                for values in self.tables[part].iterate(self.column, own - first):
                    batch = own[done : done + len(values)].tolist()
                    done += len(values)
                    yield (
                        batch,
                        [
                            self._read_bytes(row, value)
                            for row, value in zip(batch, values, strict=True)
                        ],
                    )

    def _read_bytes(self, row: int, value: Any) -> bytes:
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(encoded, bytes):
            return encoded
        path = value.get("path") if isinstance(value, dict) else None
        if path:
            raise ConfigurationError(
                f"{self._name(row)} is stored as the path {quote(path)} without its bytes: save "
                f"the data set with save_to_disk or to_parquet, which embed the files"
            ).with_details("data.path", path, "the bytes of the image")
        raise ConfigurationError(f"{self._name(row)} is missing: remove the row").with_details(
            "data.path", None, "the bytes of an image"
        )

    def _read_header(self, row: int, encoded: bytes) -> Header:
        try:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                return Header(*image.size, is_grey(image))
        except Exception as error:  # Pillow has no common error for damage
            reason = f"its format is none of {', '.join(FORMATS)}, or its header is damaged"
            raise self._refuse(row, reason) from error

    def _decode(
        self, row: int, encoded: bytes, shape: tuple[int, int, int]
    ) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        height, width, channels = shape
        if channels == 1 and not self._read_header(row, encoded).is_grey:
            raise ConfigurationError(
                f"{self._name(row)} has colours, and the first images are grey: convert all images "
                f"to one of the two"
            ).with_details("data.path", 3, 1)
        try:
            image, notes = decode_image(encoded, channels)
        except ImageError as error:
            raise self._refuse(row, str(error)) from error
        if self.size is not None:
            image = resize_middle_square(image, self.size)
        elif image.size != (width, height):
            raise ConfigurationError(
                f"{self._name(row)} has {image.width} x {image.height} pixels, and others have "
                f"{width} x {height}: set the side length with --set data.size={width}"
            ).with_details("data.size", None, int)
        return np.asarray(image).reshape(shape), notes

    def _refuse(self, row: int, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._name(row)} cannot be decoded ({shorten(reason)}): replace or remove it"
        ).with_details("data.path", reason, "an image that can be decoded")

    def _name(self, row: int) -> str:
        """Return the start of an error message about a row."""
        part = next(part for part, end in self.ends.items() if row < end)
        local = row - (self.ends[part] - self.tables[part].rows)
        return f"{self.where}: the image in row {local} of the {part} part"
