"""Write small CSV files and Hugging Face data sets of images."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from data_made import images
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet


def encode(pixels: NDArray[np.uint8], form: str = "PNG") -> bytes:
    """Return the bytes of an image file; grey for one channel."""
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, form)
    return stream.getvalue()


def write_csv(folder: Path, rows: Sequence[Sequence[str]], header: str = "path,label") -> Path:
    """Write `data.csv`, and an image of SIDE pixels for each path that does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (path, *_) in enumerate(rows):
        if not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(encode(images(1, first=number)[0]))
    separator = "\t" if "\t" in header else ","
    file = folder / "data.csv"
    file.write_text("\n".join([header, *(separator.join(row) for row in rows)]) + "\n")
    return file


def write_parquet(file: Path, pixels: NDArray[np.uint8], labels: Any, **columns: Any) -> Path:
    """Write a parquet file with the columns image, label and `columns`, in row groups of 7."""
    cells = [{"bytes": encode(each), "path": None} for each in pixels]
    table = pyarrow.table({"image": cells, "label": labels, **columns})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file, row_group_size=7)
    return file
