"""Read prepared data: memory-mapped splits and their summary."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from orchestrator.data._parts import UNLABELLED
from orchestrator.data.packed import PackedImages
from orchestrator.store.record_file import STRICT, Count, DamagedRecordError, Finite, RecordSchema

SUMMARY_FILE = "data.json"  # in a folder of prepared data, and in that of a sweep


@dataclass(frozen=True)
class Sizes:
    """Number of samples in each part."""

    __pydantic_config__ = STRICT
    train: Count
    validation: Count
    test: Count


Side = Annotated[int, Field(ge=1, le=10**6)]


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """Summary of prepared data.

    Attributes:
        shape: (C, H, W) of an image.
        mean: Mean of each channel, in 0..1; `std` likewise.
        class_sizes: Training samples per label; older files lack them.
        augmentation: Policy of the run. Only older files have one: that of `auto` at their time.
        labelled: Number of labelled training samples, if not all are.
        root: Folder of the images of folder data, else None.
        packed_side: Shorter side of packed images in pixels, None if images are not packed.
        fingerprint: Hash of the source and the cuts.
        decoded: Number of images for each conversion.
        contents: Hash of the image files of folder data.
        sha256: Checksum of each array file.
    """

    __pydantic_config__ = STRICT
    name: str
    classes: Annotated[list[str], Field(min_length=1)]
    shape: tuple[Side, Side, Side]
    mean: list[Finite]
    std: list[Annotated[Finite, Field(gt=0)]]
    sizes: Sizes
    class_sizes: list[Count] = field(default_factory=list)
    augmentation: str = ""
    labelled: Count | None = None
    label_noise: Finite | None = None
    validation_in_training: bool = False
    root: str | None
    packed_side: Side | None = None
    fingerprint: str
    decoded: dict[str, Count] = field(default_factory=dict)
    contents: str = ""
    sha256: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the summary as JSON values, without defaults."""
        return SUMMARY.plain(self)


ADVICE = "remove it, and the next run prepares the data again"
SUMMARY = RecordSchema[DataSummary](DataSummary, advice=ADVICE, other_keys=True)


@dataclass(frozen=True)
class Split:
    """Samples and labels of one part.

    Attributes:
        inputs: Memory-mapped, (n, H, W, C) uint8. For folder data (n,) bytes: paths below
            `Dataset.root`, to be decoded with `os.fsdecode`.
        labels: (n,) int64, -1 for an unlabelled training sample.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Prepared data set.

    Attributes:
        shape: (C, H, W) of an image.
        mean: Mean of each channel, in 0..1.
        std: Standard deviation of each channel, in 0..1.
        fingerprint: Hash of the source and the cuts.
        content: Hash of the training images and their normalisation.
        clean_labels: (n,) true labels of the training samples, before label noise and hiding.
        root: Folder of the images of folder data, else None.
        packed: Reduced images of the files, else None.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    content: str
    train: Split
    validation: Split
    test: Split
    clean_labels: NDArray[np.int64]
    root: Path | None = None
    packed: PackedImages | None = None

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """Open the data that `prepare` wrote to `folder`; inputs are mapped and not read.

        Raises:
            DamagedRecordError: The data are missing or damaged.
        """
        summary = read_summary(folder)
        with _convert_damage(folder):
            channels, height, width = summary.shape
            sizes, classes = asdict(summary.sizes), len(summary.classes)
            shape = () if summary.root else (height, width, channels)
            return cls(
                name=summary.name,
                classes=tuple(summary.classes),
                shape=summary.shape,
                mean=tuple(summary.mean),
                std=tuple(summary.std),
                fingerprint=summary.fingerprint,
                content=_content(summary),
                **{
                    name: _open_split(folder, name, size, classes, shape)
                    for name, size in sizes.items()
                },
                clean_labels=read_labels(folder, "train_clean_labels", sizes["train"], classes),
                root=Path(summary.root) if summary.root else None,
                packed=PackedImages(folder) if summary.packed_side else None,
            )

    def split(self, name: str) -> Split:
        """Return the part `train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def labelled(self) -> "Dataset":
        """Return the data without unlabelled training samples, or itself if all are labelled.

        The inputs of the copy are in memory. It has its own `fingerprint` and `content`, because
        its samples have other indices.
        """
        labelled_index = np.flatnonzero(self.train.labels != UNLABELLED)
        if len(labelled_index) == len(self.train):
            return self
        return replace(
            self,
            fingerprint=_hash_subset(self.fingerprint, labelled_index),
            content=_hash_subset(self.content, labelled_index),
            train=Split(
                np.asarray(self.train.inputs[labelled_index]), self.train.labels[labelled_index]
            ),
            clean_labels=self.clean_labels[labelled_index],
        )


def read_summary(folder: Path) -> DataSummary:
    """Return the content of `data.json` in `folder`.

    Raises:
        DamagedRecordError: The file is missing or damaged.
    """
    file = folder / SUMMARY_FILE
    summary = SUMMARY.read(file)
    channels = summary.shape[0]
    for name, values in (("mean", summary.mean), ("std", summary.std)):
        if len(values) != channels:
            raise DamagedRecordError(
                file, f"{name} has {len(values)} values for {channels} channels"
            )
    return summary


def _content(summary: DataSummary) -> str:
    """Return a hash of the training images and their normalisation.

    Arrays are identified by their bytes. Files are identified by their names, and by the sizes and
    times in the fingerprint.
    """
    determining = [summary.sha256["train_inputs.npy"], summary.shape, summary.mean, summary.std]
    determining += [summary.fingerprint] if summary.root else []
    return hashlib.sha256(json.dumps(determining).encode()).hexdigest()[:16]


def _hash_subset(fingerprint: str, labelled_index: NDArray[np.int64]) -> str:
    return hashlib.sha256(fingerprint.encode() + labelled_index.tobytes()).hexdigest()[:16]


def read_labels(folder: Path, name: str, size: int, classes: int) -> NDArray[np.int64]:
    """Return the labels (size,) of prepared data, in memory.

    Raises:
        DamagedRecordError: The labels are missing or damaged.
    """
    with _convert_damage(folder):
        # mapped, so that a damaged header allocates nothing
        labels = np.array(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False))
        if labels.dtype != np.int64 or labels.shape != (size,):
            raise ValueError(
                f"{name} are {labels.dtype} of shape {labels.shape}, not int64 of shape ({size},)"
            )
        if size and not UNLABELLED <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"{name} range from {labels.min()} to {labels.max()} for {classes} classes"
            )
        return labels


def _open_split(folder: Path, name: str, size: int, classes: int, shape: tuple[int, ...]) -> Split:
    inputs = np.load(folder / f"{name}_inputs.npy", mmap_mode="r", allow_pickle=False)
    if inputs.dtype.kind != ("u" if shape else "S") or inputs.shape != (size, *shape):
        raise ValueError(
            f"{name} are {inputs.dtype} of shape {inputs.shape}, not of shape {(size, *shape)}"
        )
    return Split(inputs, read_labels(folder, f"{name}_labels", size, classes))


@contextlib.contextmanager
def _convert_damage(folder: Path) -> Iterator[None]:
    """Convert any error within the block to a DamagedRecordError about the folder."""
    try:
        yield
    except DamagedRecordError:
        raise
    except Exception as error:  # numpy has no common error for damage
        raise DamagedRecordError(
            folder, f"it does not hold prepared data ({error})", ADVICE
        ) from error
