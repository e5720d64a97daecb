"""Convert data sets that are given as Python objects to the parts of a data source."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from orchestrator.core.errors import ConfigurationError
from orchestrator.data import checks
from orchestrator.data._parts import Labels, Part
from orchestrator.data._parts import Parts as Parts
from orchestrator.data.decoding import ImageError, is_grey, resize_middle_square, to_8_bits

ROUNDED = "floats rounded to 255 levels"
READ_TWICE = 8  # samples of a part whose two readings are compared


def convert_dataset(
    train: Any,
    test: Any,
    validation: Any = None,
    classes: int | Sequence[str] | None = None,
    size: int | None = None,
    folder: Path | None = None,
) -> Parts:
    """Return the parts of a data set as uint8 arrays.

    A part is a pair of arrays (images, labels), or a map-style data set of pairs (image, label).
    Its first samples are read twice, because a random transform would be frozen.
    An image is (H, W) or (H, W, C), or a tensor (C, H, W), or a picture of Pillow. Numbers are
    uint8, or floats in [0, 1], which are rounded to 255 levels. A label is a whole number from 0.

    Args:
        train: The training part.
        test: The test part.
        validation: The validation part; None to cut one from the training part later.
        classes: Names of the classes, or their number; None for `train.classes`, or else the
            numbers up to the largest training label.
        size: Side in pixels to which pictures of Pillow are resized, the middle square of each.
        folder: Folder for images that are read one by one; they are memory-mapped there, in a file
            without a name. None is the system's folder of temporary files.

    Raises:
        ConfigurationError: A part cannot be used: its images have different shapes or types, its
            labels are not class numbers, or a sample differs when it is read again.
    """
    sources = {"train": train, "validation": validation, "test": test}
    notes = Counter[str]()
    parts = {
        name: _convert_part(name, part, size, folder, notes)
        for name, part in sources.items()
        if part is not None or name != "validation"
    }
    shape = parts["train"].inputs.shape[1:]
    for name, part in parts.items():
        checks.require_same_shape("the data set", name, part.inputs.shape[1:], shape, "data")
    names = _class_names(train, classes, parts["train"].labels)
    for name, part in parts.items():
        largest = int(part.labels.max())
        if largest >= len(names):
            raise ConfigurationError(
                f"the {name} part has the label {largest}, and only 0 to {len(names) - 1} are "
                f"allowed for {len(names)} classes: correct the labels or the classes"
            ).with_details(f"data[{name}]", largest, (0, len(names) - 1))
    notes[ROUNDED] = sum(map(_count_floats, sources.values()))
    return Parts(
        parts["train"], parts.get("validation"), parts["test"], names, converted=dict(+notes)
    )


def _count_floats(part: Any) -> int:
    """Return how many images of a part are floats, which the first image shows."""
    if part is None:
        return 0
    is_pair = isinstance(part, tuple | list) and len(part) == 2 and _is_array(part[0])
    first = part[0] if is_pair else part[0][0]
    count = len(part[0]) if is_pair else len(part)
    return count if _is_array(first) and _to_array(first).dtype.kind == "f" else 0


def _class_names(
    train: Any, classes: int | Sequence[str] | None, labels: Labels
) -> tuple[str, ...]:
    if classes is None:
        classes = getattr(train, "classes", None)
    if classes is None:
        return checks.default_class_names(labels)
    if isinstance(classes, int):
        names = tuple(map(str, range(classes)))
    else:
        names = tuple(map(str, classes))
    checks.require_class_names("classes", names, "classes")
    return names


def _convert_part(
    name: str, part: Any, size: int | None, folder: Path | None, notes: Counter[str]
) -> Part:
    where = f"the {name} part"
    if isinstance(part, tuple | list) and len(part) == 2 and _is_array(part[0]):
        images, labels = _to_array(part[0]), _to_array(part[1])
        if not len(images):
            raise _empty(where, name)
        return Part(
            _convert_images(where, name, images, isinstance(part[0], torch.Tensor)),
            _convert_labels(where, name, labels, len(images)),
        )
    if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")):
        kind = type(part).__name__
        raise ConfigurationError(
            f"{where} is a {kind}: give a map-style data set with __getitem__ and __len__, or a "
            f"pair of arrays (images, labels)"
        ).with_details(f"data[{name}]", kind, "a map-style data set, or (images, labels)")
    return _read_items(where, name, part, size, folder, notes)


def _read_items(
    where: str, name: str, part: Any, size: int | None, folder: Path | None, notes: Counter[str]
) -> Part:
    """Read the samples one after another into a memory-mapped array, and count conversions."""
    count = len(part)
    if not count:
        raise _empty(where, name)
    mapped: NDArray[np.uint8] | None = None
    labels: list[Any] = []
    for index, (image, label) in enumerate(_pairs(where, name, part, count)):
        converted = _convert_image(f"{where}, sample {index}", name, image, size, notes)
        if mapped is None:
            mapped = _map_array((count, *converted.shape), folder)
        if converted.shape != mapped.shape[1:]:
            raise ConfigurationError(
                f"{where}: sample {index} has shape {converted.shape} and sample 0 "
                f"{mapped.shape[1:]}: give all images one shape, or set data.size for pictures"
            ).with_details(f"data[{name}]", converted.shape, mapped.shape[1:])
        mapped[index] = converted
        labels.append(_one_label(f"{where}, sample {index}", name, label))
    assert mapped is not None
    for index, (image, label) in enumerate(_pairs(where, name, part, min(count, READ_TWICE))):
        sample = f"{where}, sample {index}"
        repeated = _convert_image(sample, name, image, size, Counter())
        same_label = _one_label(sample, name, label) == labels[index]
        if not same_label or not np.array_equal(repeated, mapped[index]):
            raise ConfigurationError(
                f"{where}: sample {index} differs when it is read again: remove the random "
                f"transform from the data set, and set data.augmentation, such as crop_flip"
            ).with_details(f"data[{name}]", index, "the same sample at every reading")
    return Part(mapped, _convert_labels(where, name, np.asarray(labels), count))


def _pairs(where: str, name: str, part: Any, count: int) -> Iterator[tuple[Any, Any]]:
    for index in range(count):
        item = part[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            got = f"{type(item).__name__}" + (
                f" of {len(item)}" if isinstance(item, tuple | list | dict) else ""
            )
            raise ConfigurationError(
                f"{where}: sample {index} is a {got}: each sample must be a pair (image, label)"
            ).with_details(f"data[{name}]", got, "(image, label)")
        yield item[0], item[1]


def _convert_image(
    where: str, name: str, image: Any, size: int | None, notes: Counter[str]
) -> NDArray[np.uint8]:
    """Return one image as (H, W, C) uint8."""
    if isinstance(image, Image.Image):
        picture = _convert_picture(where, name, image, notes)
        picture = picture if size is None else resize_middle_square(picture, size)
        return _single(_convert_images(where, name, np.asarray(picture)[None], False))
    if not _is_array(image):
        kind = type(image).__name__
        raise ConfigurationError(
            f"{where} is a {kind}: give an array, a tensor or a picture of Pillow"
        ).with_details(f"data[{name}]", kind, "an array, a tensor or a picture")
    array = _to_array(image)
    return _single(_convert_images(where, name, array[None], isinstance(image, torch.Tensor)))


def _convert_picture(
    where: str, name: str, picture: Image.Image, notes: Counter[str]
) -> Image.Image:
    """Return a picture of mode L or RGB, as files of these modes are decoded."""
    own_notes: list[str] = []
    try:
        converted = to_8_bits(picture, own_notes)
    except ImageError as error:
        raise ConfigurationError(
            f"{where} is a picture of mode {picture.mode} that cannot be used ({error})"
        ).with_details(f"data[{name}]", picture.mode, ("L", "RGB")) from error
    notes.update(own_notes)
    mode = "L" if is_grey(picture) else "RGB"
    # transparent grey is composited to RGB with equal channels
    return converted if converted.mode == mode else converted.convert(mode)


def _single(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the only image of (1, H, W, C)."""
    return images.reshape(images.shape[1:])


def _convert_images(
    where: str, name: str, images: NDArray[Any], channels_first: bool
) -> NDArray[np.uint8]:
    """Return images (n, H, W), (n, H, W, C) or (n, C, H, W) as (n, H, W, C) uint8.

    Floats in [0, 1] are rounded to 255 levels. Channels are first in tensors, and in arrays whose
    second side alone can be one of channels.
    """
    if images.ndim == 4:
        most = checks.MOST_CHANNELS
        first, last = images.shape[1] <= most, images.shape[3] <= most
        if first and (channels_first or not last):
            images = images.transpose(0, 2, 3, 1)
    if images.dtype.kind == "f":
        low, high = float(images.min()), float(images.max())
        if not (0 <= low <= high <= 1):
            raise ConfigurationError(
                f"{where} has numbers from {low:g} to {high:g}: give uint8, or floats in [0, 1] "
                f"without normalisation"
            ).with_details(f"data[{name}]", (low, high), (0, 1))
        images = np.rint(images * 255).astype(np.uint8)
    return checks.convert_images(where, images, f"data[{name}]")


def _one_label(where: str, name: str, label: Any) -> int:
    array = _to_array(label) if _is_array(label) else np.asarray(label)
    if array.size != 1:
        raise _multi_label(where, name, array.shape)
    if array.dtype.kind not in "iu":
        raise ConfigurationError(
            f"{where} has the label {label!r}: only whole numbers from 0 are allowed"
        ).with_details(f"data[{name}]", repr(label), int)
    return int(array.reshape(()))


def _convert_labels(where: str, name: str, labels: NDArray[Any], count: int) -> Labels:
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise _multi_label(where, name, labels.shape)
    if labels.dtype.kind in "iu" and labels.size and int(labels.min()) < 0:
        low = int(labels.min())
        raise ConfigurationError(
            f"{where} has the label {low}: labels are class numbers from 0"
        ).with_details(f"data[{name}]", low, (0, None))
    return checks.convert_labels(where, labels, count, f"data[{name}]")


def _multi_label(where: str, name: str, shape: tuple[int, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"{where} has labels of shape {shape}: several labels for an image are not supported; give "
        f"one class number for each image"
    ).with_details(f"data[{name}]", shape, "one class number for each image")


def _empty(where: str, name: str) -> ConfigurationError:
    return ConfigurationError(f"{where} is empty: give at least one sample").with_details(
        f"data[{name}]", 0, (1, None)
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic | torch.Tensor)


def _to_array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _map_array(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.uint8]:
    """Return an array in a file that is removed when the array is."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    handle, file = tempfile.mkstemp(prefix=".convert.", dir=folder)
    os.close(handle)
    try:
        return np.memmap(file, np.uint8, "w+", shape=shape)
    finally:
        os.unlink(file)  # the mapping stays valid
