"""Predict the likeliest classes of image files with an exported student."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from orchestrator.core import privacy
from orchestrator.core.errors import BAD_CONFIGURATION, OK, ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.core.text import shorten
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.export.check import normalize
from orchestrator.export.loading import load_predictions
from orchestrator.export.settings import Input, StudentSettings, read_settings

ARRAYS = ".npy"
TOGETHER, VALUES = 256, 2**26  # most images of one batch, and most values in them


@dataclass(frozen=True)
class Picture:
    """Image (C, H, W) uint8 with its name.

    `note` describes changes to the image that a user may not expect.
    """

    name: str
    pixels: NDArray[np.uint8]
    note: str = ""


def predict(folder: Path, images: list[str], top: int, as_json: bool) -> int:
    """Print the likeliest classes of each image, and an error for each unreadable file.

    Args:
        folder: Folder of the export.
        images: Paths of image files or arrays.
        top: Number of classes to print.
        as_json: Print JSON instead of text.

    Returns:
        The exit code; 2 if no file could be read.
    """
    folder = read_path(folder, "EXPORT")
    settings = read_settings(folder)
    student = load_predictions(folder)
    pictures: list[Picture] = []
    for name in images:
        try:
            pictures += read(read_path(name, "IMAGES", only_read=True), settings.input)
        except ConfigurationError as error:
            print(privacy.sanitize(f"error: {error}"), file=sys.stderr)
    if not pictures:
        return BAD_CONFIGURATION
    rows = probabilities(student, pictures, settings)
    predictions = [
        (picture, likeliest(row, settings.classes, top))
        for picture, row in zip(pictures, rows, strict=True)
    ]
    if as_json:
        print(json.dumps([_plain(picture, classes) for picture, classes in predictions], indent=1))
    else:
        for picture, classes in predictions:
            print(privacy.sanitize(picture.name + (f" ({picture.note})" if picture.note else "")))
            for one in classes:
                print(privacy.sanitize(f"  {one['probability']:7.2%}  {one['class']}"))
    return OK


def _plain(picture: Picture, classes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "image": picture.name,
        **({"note": picture.note} if picture.note else {}),
        "classes": classes,
    }


def read(file: Path, input_settings: Input) -> list[Picture]:
    """Return the images of a file, in the form that `input` in settings.json demands.

    Raises:
        ConfigurationError: The file is unreadable, or of another shape.
    """
    if not file.is_file():
        raise ConfigurationError(
            f"{file} does not exist or is not a file: give an image, or an array in a {ARRAYS} file"
        ).with_details(str(file), None, f"an image, or an array in a {ARRAYS} file")
    if file.suffix.lower() == ARRAYS:
        return _read_array(file, input_settings)
    return [_read_image(file, input_settings)]


@torch.no_grad()
def probabilities(student: Any, pictures: list[Picture], settings: StudentSettings) -> Tensor:
    """Return the probabilities (n, K) of the classes for each image.

    Raises:
        ConfigurationError: The student does not fit its settings.
    """
    mean, std, shape = settings.input.mean, settings.input.std, list(settings.input.shape)
    together, rows = max(1, min(TOGETHER, VALUES // math.prod(shape))), []
    for start in range(0, len(pictures), together):
        pixels = np.stack([picture.pixels for picture in pictures[start : start + together]])
        images = normalize(torch.from_numpy(pixels).float() / 255, mean, std)
        try:
            logits = student(images)
        # torch.export and onnxruntime raise errors of their own for a program of another shape
        except Exception as error:
            raise ConfigurationError(
                f"the student does not accept images of shape {shape}, the shape in its settings: "
                f"export it again"
            ).with_details("input.shape", tuple(shape)) from error
        if logits.shape != (len(images), len(settings.classes)):
            raise ConfigurationError(
                f"the student has {logits.shape[-1]} classes, but its settings name "
                f"{len(settings.classes)}: export it again"
            ).with_details("classes", logits.shape[-1], len(settings.classes))
        rows.append(logits.softmax(1))
    return torch.cat(rows)


def likeliest(row: Tensor, classes: list[str], top: int) -> list[dict[str, Any]]:
    """Return the `top` classes of one image, the likeliest first."""
    values, indices = row.topk(min(top, len(classes)))
    return [
        {"class": classes[index], "probability": value}
        for value, index in zip(values.tolist(), indices.tolist(), strict=True)
    ]


def _read_image(file: Path, input_settings: Input) -> Picture:
    channels, height, width = input_settings.shape
    if channels not in (1, 3):
        raise ConfigurationError(
            f"{file} cannot be used, because the student takes {channels} channels: give an array "
            f"in a {ARRAYS} file"
        ).with_details(str(file), channels, f"an array in a {ARRAYS} file")
    try:
        image, done = decode_image(file, channels)
    except ImageError as error:
        raise ConfigurationError(
            f"{file} cannot be decoded ({error}): give another image"
        ).with_details(str(file), str(error), "an image") from error
    notes = list(done)
    if input_settings.cut or image.size != (width, height):
        notes += (
            []
            if input_settings.cut
            else [f"scaled from {image.width} x {image.height} to {width} x {height} pixels"]
        )
        image = image.resize(
            (width, height),
            Image.Resampling.BILINEAR,
            box=_box(image, width / height, input_settings.cut or 1.0),
        )
    pixels = np.array(image)
    return Picture(
        str(file),
        pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1)),
        "; ".join(notes),
    )


def _box(image: Image.Image, ratio: float, share: float) -> tuple[float, float, float, float]:
    """Return the box of the middle of an image, as wide as `ratio` times its height.

    It is the largest such box, or `share` of it on each side.
    """
    height = min(image.height, image.width / ratio) * share
    width = height * ratio
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return left, top, left + width, top + height


def _read_array(file: Path, input_settings: Input) -> list[Picture]:
    channels, height, width = input_settings.shape
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of several arrays")
    except Exception as error:  # numpy defines no error of damage: each kind has its own
        reason = shorten(" ".join(str(error).split())) or type(error).__name__
        raise ConfigurationError(
            f"{file} is not a readable array ({reason}): give a uint8 array written by numpy.save"
        ).with_details(str(file), reason, "a uint8 array written by numpy.save") from error
    single = array.shape == (height, width, channels) or (
        channels == 1 and array.shape == (height, width)
    )
    one = array[None] if single else array
    if channels == 1 and one.ndim == 3:
        one = one[..., None]
    if array.dtype != np.uint8 or one.shape[1:] != (height, width, channels):
        shape = " x ".join(str(size) for size in array.shape) or "a single number"
        wanted = f"{height} x {width} x {channels}"
        raise ConfigurationError(
            f"{file} is {array.dtype} of {shape}: give uint8 of {wanted}, or of n x {wanted} "
            f"for several images"
        ).with_details(
            str(file), (str(array.dtype), array.shape), ("uint8", (height, width, channels))
        )
    if not len(one):
        raise ConfigurationError(
            f"{file} holds no image: give one or more of {height} x {width} x {channels}"
        ).with_details(str(file), 0, (1, None))
    names = [str(file)] if one.shape[0] == 1 else [f"{file}[{index}]" for index in range(len(one))]
    return [Picture(name, row.transpose(2, 0, 1)) for name, row in zip(names, one, strict=True)]
