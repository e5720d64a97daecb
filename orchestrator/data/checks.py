"""Validate images, labels and class names before they are used.

A failed check raises ConfigurationError with one sentence that begins with `where`. `field` is the
setting or file that the error is about.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.text import control_character, quote
from orchestrator.data._parts import Labels, Part, Parts

MOST_CHANNELS = 4
MULTI_LABEL = "multi-label data are not supported, only one class for each image"
Shape = tuple[int, ...]


def require_path(data: Data, kind: str, example: str) -> Path:
    """Return `data.path`.

    Args:
        data: The data section of the configuration.
        kind: What the path must be, for example "a CSV file".
        example: Value for the command in the message.

    Raises:
        ConfigurationError: It is missing.
    """
    if data.path is None:
        raise ConfigurationError(
            f"data.path is missing: data.name = {data.name} needs {kind}; set it with "
            f"--set data.path={example}"
        ).with_details("data.path", None, kind)
    return data.path


def require_size(data: Data) -> int:
    """Return `data.size` in pixels.

    Raises:
        ConfigurationError: It is missing.
    """
    if data.size is None:
        raise ConfigurationError(
            f"data.size is missing: data.name = {data.name} needs the side length of the resized "
            f"images in pixels; set it with --set data.size=224"
        ).with_details("data.size", None, int)
    return data.size


def require_images(where: str, shape: Shape, dtype: np.dtype[Any], field: str) -> Shape:
    """Return the shape (n, H, W, C) of images.

    Raises:
        ConfigurationError: The images are not (n, H, W) or (n, H, W, C) uint8, or have no pixel.
    """
    if dtype != np.uint8:
        raise ConfigurationError(
            f"{where} has type {dtype}: only uint8 (0 to 255) is allowed; convert the images "
            "before saving them"
        ).with_details(field, str(dtype), "uint8")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] > MOST_CHANNELS) or 0 in shape:
        raise ConfigurationError(
            f"{where} has shape {shape}: give at least one image as (n, height, width) or "
            f"(n, height, width, channels) with 1 to {MOST_CHANNELS} channels"
        ).with_details(
            field, shape, f"(n, height, width) or (n, height, width, 1 to {MOST_CHANNELS})"
        )
    return (*shape, 1) if len(shape) == 3 else shape


def require_labels(where: str, shape: Shape, dtype: np.dtype[Any], count: int, field: str) -> None:
    """Require one integer label, (n,) or (n, 1), for each of `count` images."""
    if dtype.kind not in "iu":
        raise ConfigurationError(
            f"{where} has type {dtype}: only integers (class numbers from 0) are allowed"
        ).with_details(field, str(dtype), int)
    if len(shape) == 2 and shape[0] == count and shape[1] > 1:
        raise ConfigurationError(
            f"{where} has shape {shape}, {shape[1]} labels for each image: {MULTI_LABEL}; give "
            f"labels of shape ({count},), for one-hot labels those of numpy.argmax(labels, axis=1)"
        ).with_details(field, shape, (count,))
    if shape not in ((count,), (count, 1)):
        raise ConfigurationError(
            f"{where} has shape {shape} for {count} images: give one label for each image, "
            f"({count},)"
        ).with_details(field, shape, (count,))


def require_names(where: str, shape: Shape, dtype: np.dtype[Any], count: int, field: str) -> None:
    """Require a one-dimensional array of text, no longer than the `count` training images."""
    if len(shape) != 1 or dtype.kind not in "US":
        raise ConfigurationError(
            f"{where} has shape {shape} and type {dtype}: give one name for each class, as text"
        ).with_details(field, (shape, str(dtype)), str)
    if shape[0] > count:
        raise ConfigurationError(
            f"{where} holds {shape[0]} names for {count} training images: every class needs "
            f"an image; remove names"
        ).with_details(field, shape[0], (2, count))


def require_same_shape(where: str, name: str, shape: Shape, train: Shape, field: str) -> None:
    """Require that the images of a part have the (H, W, C) of the training images."""
    if shape != train:
        raise ConfigurationError(
            f"{where}: the {name} images have shape {shape} and the training images {train}: "
            "give all images the same height, width and channels"
        ).with_details(f"{field}[{name}]", shape, train)


def convert_images(where: str, array: NDArray[Any], field: str) -> NDArray[np.uint8]:
    """Return images as (n, H, W, C) uint8.

    Raises:
        ConfigurationError: The array is not (n, H, W) or (n, H, W, C) uint8.
    """
    return array.reshape(require_images(where, array.shape, array.dtype, field))


def convert_labels(where: str, array: NDArray[Any], count: int, field: str) -> Labels:
    """Return labels as (n,) int64.

    Every class needs a sample, so labels are below `count`. This check comes before any list of
    names or histogram gets its size from a label.

    Raises:
        ConfigurationError: The array is not one integer, (n,) or (n, 1), for each of `count`
            images, or a label is not below `count`.
    """
    require_labels(where, array.shape, array.dtype, count, field)
    if count and (largest := int(array.max())) >= count:
        raise ConfigurationError(
            f"{where} contains the label {largest} for {count} images: labels are class numbers "
            "from 0, and every class needs an image, so the largest allowed label is "
            f"{count - 1}; renumber the classes"
        ).with_details(field, largest, (0, count - 1))
    return array.reshape(count).astype(np.int64)


def decode_names(where: str, array: NDArray[Any], count: int, field: str) -> tuple[str, ...]:
    """Return class names from a one-dimensional array of text, or of bytes in UTF-8.

    Raises:
        ConfigurationError: There are more names than the `count` training images, or one is not
            allowed.
    """
    require_names(where, array.shape, array.dtype, count, field)
    text = array.astype(array.dtype.newbyteorder("<"))
    # numpy's text may hold code points outside Unicode, which only decoding finds
    data, size = text.tobytes(), text.itemsize
    encoding = "utf-8" if array.dtype.kind == "S" else "utf-32-le"
    try:
        class_names = tuple(
            data[index * size : (index + 1) * size].decode(encoding).rstrip("\0")
            for index in range(len(text))
        )
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{where} contains a name that is not Unicode ({error}): give text, or bytes in UTF-8"
        ).with_details(
            field, error.object[error.start : error.end], "text, or bytes in UTF-8"
        ) from error
    require_class_names(where, class_names, field)
    return class_names


def require_class_names(where: str, class_names: Sequence[str], field: str) -> None:
    """Require that each class name is not empty, is unique, and prints in one line."""
    first: dict[str, int] = {}
    for index, name in enumerate(class_names):
        if not name.strip():
            raise ConfigurationError(
                f"{where}[{index}] is empty: give each class a name"
            ).with_details(f"{field}[{index}]", name, "a name")
        if odd := control_character(name, allowed=""):
            raise ConfigurationError(
                f"{where}[{index}] = {quote(name)} contains the character {odd}: give a name of "
                f"printable characters"
            ).with_details(f"{field}[{index}]", name, "printable characters")
        if first.setdefault(name, index) != index:
            raise ConfigurationError(
                f"{where}[{first[name]}] and [{index}] are both {quote(name)}: give each class "
                f"a unique name"
            ).with_details(f"{field}[{index}]", name, "a unique name")


def require_printable(where: str, text: str, field: str) -> str:
    """Return a class name; require that it encodes as UTF-8 and prints in one line."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{where} has a name that is not UTF-8: rename it").with_details(
            field, text, "UTF-8"
        ) from error
    if odd := control_character(text, allowed=""):
        raise ConfigurationError(
            f"{where} contains the character {odd} in its name: rename it"
        ).with_details(field, text, "printable characters")
    return text


def default_class_names(train: Labels) -> tuple[str, ...]:
    """Return names for unnamed classes: 0 to the largest training label."""
    return tuple(str(label) for label in range(int(train.max()) + 1))


def require_consistent_parts(where: str, parts: Parts, field: str) -> None:
    """Require that the parts fit each other.

    Raises:
        ConfigurationError: There are too few classes, labels out of range, or different image
            shapes.
    """
    classes = len(parts.classes)
    if classes < 2:
        raise ConfigurationError(
            f"{where} has {classes} class: give data with at least two classes"
        ).with_details(field, classes, (2, None))
    for name, part in parts.splits().items():
        if len(part):  # all training samples may be unlabelled
            require_label_range(where, name, part, classes, field)
        require_same_shape(where, name, part.inputs.shape[1:], parts.train.inputs.shape[1:], field)


def require_label_range(where: str, name: str, part: Part, classes: int, field: str) -> None:
    """Require that the labels of a part are numbers of its classes."""
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ConfigurationError(
            f"{where}: the {name} labels contain {wrong}, and only 0 to {classes - 1} are allowed "
            f"for {classes} classes: correct the labels"
        ).with_details(f"{field}[{name}]", wrong, (0, classes - 1))


def require_every_class(
    where: str, name: str, part: Part, classes: tuple[str, ...], field: str
) -> None:
    """Require a sample of every class in a part."""
    counts = np.bincount(part.labels, minlength=len(classes))
    missing = int(counts.argmin())
    if counts[missing] == 0:
        raise ConfigurationError(
            f"{where}: class {classes[missing]!r} (label {missing}) has 0 of the {len(part)} "
            f"samples of the {name} part: "
            "every part needs samples of every class; add samples or remove the class"
        ).with_details(f"{field}[{name}]", classes[missing], "at least one sample of every class")
