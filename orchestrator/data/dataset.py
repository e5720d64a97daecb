"""Prepared data as they are read: memory-mapped splits and what describes them. Knows no sources and no batches."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.parts import UNLABELLED
from orchestrator.errors import ConfigurationError


@dataclass(frozen=True)
class Split:
    """Samples and labels (n,) int64, -1 where a training sample is unlabelled.

    `inputs` is memory-mapped: (n, H, W, C) uint8, or (n,) bytes for folder data, `os.fsdecode`d paths below `Dataset.root`.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """One prepared data set. `shape` is (C, H, W); `mean` and `std` are of each channel, in 0..1.

    `fingerprint` is of where they come from and how they were cut, `content` of the training images and their normalisation.
    `clean_labels` (n,) are the true labels of the training samples, before noise and hiding; `root` is the folder of images of
    folder data, else None.
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

    @classmethod
    def open(cls, folder: Path) -> "Dataset":
        """The data that `prepare` wrote to `folder`, mapped and not read; ConfigurationError when they are damaged."""
        summary = read_summary(folder)
        with _damage_told(folder):
            channels, height, width = summary["shape"]
            return cls(
                name=summary["name"],
                classes=tuple(summary["classes"]),
                shape=(channels, height, width),
                mean=tuple(summary["mean"]),
                std=tuple(summary["std"]),
                fingerprint=summary["fingerprint"],
                content=_content(summary),
                **{name: _open_split(folder, name, summary["sizes"][name]) for name in ("train", "validation", "test")},
                clean_labels=np.load(folder / "train_clean_labels.npy", allow_pickle=False),
                root=Path(summary["root"]) if summary["root"] else None,
            )

    def split(self, name: str) -> Split:
        """`train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def labelled(self) -> "Dataset":
        """The data without the unlabelled training samples, whose inputs are then in memory; itself where all are labelled.

        `fingerprint` and `content` are of its own: its samples have other places.
        """
        kept = np.flatnonzero(self.train.labels != UNLABELLED)
        if len(kept) == len(self.train):
            return self
        return replace(
            self,
            fingerprint=_of_part(self.fingerprint, kept),
            content=_of_part(self.content, kept),
            train=Split(np.asarray(self.train.inputs[kept]), self.train.labels[kept]),
            clean_labels=self.clean_labels[kept],
        )


def read_summary(folder: Path) -> dict[str, Any]:
    """What `data.json` in `folder` says; ConfigurationError when it is missing or damaged."""
    with _damage_told(folder):
        summary = json.loads((folder / "data.json").read_text())
        if not isinstance(summary, dict):
            raise ValueError("data.json holds no keys")
        return summary


def _content(summary: dict[str, Any]) -> str:
    """Of the bytes of arrays; of files by their names, and by the sizes and times that are in the fingerprint."""
    decides = [summary["sha256"]["train_inputs.npy"], summary["shape"], summary["mean"], summary["std"]]
    decides += [summary["fingerprint"]] if summary["root"] else []
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def _of_part(whole: str, kept: NDArray[np.int64]) -> str:
    return hashlib.sha256(whole.encode() + kept.tobytes()).hexdigest()[:16]


def _open_split(folder: Path, name: str, size: int) -> Split:
    inputs = np.load(folder / f"{name}_inputs.npy", mmap_mode="r", allow_pickle=False)
    labels = np.load(folder / f"{name}_labels.npy", allow_pickle=False)
    if len(inputs) != size or len(labels) != size:
        raise ValueError(f"{name} has {len(inputs)} samples and {len(labels)} labels, and {size} were written")
    return Split(inputs, labels)


@contextlib.contextmanager
def _damage_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
        raise ConfigurationError(
            f"{folder} is no prepared data or damaged ({error}): remove it and prepare the data again"
        ) from error
