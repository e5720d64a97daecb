"""Describe the data of a run: a data set by name, or objects of Python."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from orchestrator.config.data_schema import Data as DataSettings
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.data import checks
from orchestrator.data.conversion import convert_dataset
from orchestrator.data.datasets import DATASETS
from orchestrator.data.objects import describe_parts, digest_parts, parts_source
from orchestrator.data.preprocessing import AUTOMATIC, Automatic
from orchestrator.extensions.registry import PREFIX, Entry, Origin

LONGEST_NAME = 40  # characters of the name of a class; the identity follows
IDENTITY = 8  # digits of the identity in the name of data
REASON = "the content of the images is unknown, and a shift or a flip may change their meaning"


@dataclass(frozen=True)
class Data:
    """Data of a run.

    Attributes:
        section: The section `data` of the configuration.
        description: The data in words.
        entry: Their entry in the registry; None for a data set that has a name already.
    """

    section: dict[str, Any]
    description: str
    entry: Entry | None = None

    def __repr__(self) -> str:
        return f"Data({self.description})"

    def _repr_html_(self) -> str:
        """Return the description for a notebook."""
        return f"<p>{escape(self.description)}</p>"


def data(
    train: Any,
    test: Any = None,
    *,
    classes: int | Sequence[str] | None = None,
    validation: Any = 0.15,
    size: int | None = None,
    **settings: Any,
) -> Data:
    """Describe the data of a run.

    Objects are converted once to arrays of uint8, which every worker maps from the store.

    Args:
        train: The training part: a map-style data set of pairs (image, label), or a pair of arrays
            (images, labels). An image is (H, W) or (H, W, C), a tensor (C, H, W), or a picture of
            Pillow; numbers are uint8, or floats in [0, 1]. Or the name of a data set: digits, the
            name of a torchvision data set, npz, folder or my/NAME.
        test: The test part; None for a name.
        classes: Number or names of the classes; None for `train.classes`, or else the numbers up to
            the largest training label.
        validation: Fraction of the training part that is held out for validation, or a part.
        size: Side in pixels to which pictures are resized.
        settings: Further keys of the section `data`, such as augmentation="crop_flip".

    Returns:
        The data, for `distil` and `sweep`.

    Raises:
        ConfigurationError: The data cannot be used, or a key is unknown.

    Examples:
        >>> import numpy as np
        >>> import orchestrator as od
        >>> images = np.zeros((60, 8, 8), np.uint8)
        >>> labels = np.arange(60) % 3
        >>> od.data((images, labels), (images[:30], labels[:30]), classes=["a", "b", "c"])
        Data(arrays-cdbf74d3: 60 training and 30 test images, 3 classes, 1x8x8)
        >>> od.data("digits", limit={"train": 300})
        Data(digits)
    """
    known = set(DataSettings.model_fields) - {"name", "validation", "size"}
    if unknown := sorted(set(settings) - known):
        raise ConfigurationError(
            f"data has no argument {unknown[0]!r}: {suggest_name(unknown[0], known)}"
        ).with_details(unknown[0], settings[unknown[0]], tuple(sorted(known)))
    section: dict[str, Any] = dict(settings)
    if isinstance(train, str):
        return _named_data(train, test, classes, validation, size, section)
    if test is None:
        raise ConfigurationError(
            "data: the test part is missing: give data(train, test)"
        ).with_details("data[test]", None, "a map-style data set, or (images, labels)")
    share = isinstance(validation, int | float)
    parts = convert_dataset(train, test, None if share else validation, classes, size)
    checks.require_consistent_parts("the data", parts, "data")
    identity = digest_parts(parts)
    short = f"{_kind(train)}-{identity[:IDENTITY]}"
    name = f"{PREFIX}{short}"
    section |= {"name": name} | ({"validation": validation} if share else {})
    automatic = Automatic("none", REASON)
    entry = Entry(
        kind="dataset",
        name=name,
        target=parts,
        location=name,
        origin=Origin("Python", identity),  # it is not sent to workers, which map the store
        slots=((DATASETS, name, parts_source(parts, identity)), (AUTOMATIC, name, automatic)),
    )
    return Data(section, f"{short}: {describe_parts(parts)}", entry)


def _named_data(
    name: str,
    test: Any,
    classes: Any,
    validation: Any,
    size: int | None,
    section: Mapping[str, Any],
) -> Data:
    """Return a data set by its name."""
    for argument, value in (("test", test), ("classes", classes)):
        if value is not None:
            raise ConfigurationError(
                f"data: {argument} cannot be given with the name {name!r}, which has it already: "
                f"leave it out"
            ).with_details(argument, value, None)
    chosen = {"name": name, "validation": validation} | ({} if size is None else {"size": size})
    return Data(chosen | dict(section), name)


def as_data(value: Any) -> Data:
    """Return the data of an argument: those of `data`, or a name.

    Raises:
        ConfigurationError: The value is neither.
    """
    if isinstance(value, Data):
        return value
    if isinstance(value, str):
        return data(value)
    raise ConfigurationError(
        f"data is {type(value).__name__}: give orchestrator.data(train, test), or the name of a "
        f"data set"
    ).with_details("data", type(value).__name__, "orchestrator.data(...) or a name")


def _kind(train: Any) -> str:
    """Return the name of the class of a data set, or `arrays`."""
    if isinstance(train, tuple | list):
        return "arrays"
    name = re.sub(r"[^A-Za-z0-9]+", "", type(train).__name__)[:LONGEST_NAME]
    return name if name[:1].isalpha() else "data"
