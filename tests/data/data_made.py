"""Generate small data in which every image is different."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from orchestrator.config.data_schema import Data, Limit
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare

CLASSES, SIDE = 4, 8


def images(count: int, first: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    """Return (count, SIDE, SIDE, channels) of noise; two pixels of image i hold first + i."""
    drawn = np.random.default_rng([first, count]).integers(
        1, 256, (count, SIDE, SIDE, channels), dtype=np.uint8
    )
    drawn[:, 0, 0, 0], drawn[:, 0, 1, 0] = np.divmod(np.arange(first, first + count), 256)
    return drawn


def identities(inputs: NDArray[Any]) -> set[int]:
    """Return the numbers that `images` wrote into the inputs."""
    return set((inputs[:, 0, 0, 0].astype(int) * 256 + inputs[:, 0, 1, 0]).tolist())


def arrays(train: int = 120, test: int = 40, **changed: Any) -> dict[str, NDArray[Any]]:
    """Return arrays with MedMNIST's keys; `changed` replaces values or, by None, removes them."""
    made: dict[str, Any] = {
        "train_images": images(train),
        "train_labels": np.arange(train) % CLASSES,
        "test_images": images(test, first=train),
        "test_labels": np.arange(test) % CLASSES,
    }
    return {key: value for key, value in (made | changed).items() if value is not None}


def npz(folder: Path, **changed: Any) -> Path:
    """Write an .npz file of `arrays`."""
    file = folder / "data.npz"
    np.savez(file, **arrays(**changed))  # type: ignore[arg-type]
    return file


def folder(
    root: Path,
    splits: tuple[str, ...] = ("train", "test"),
    each: int = 6,
    sizes: tuple[int, ...] = (20, 31, 44),
) -> Path:
    """Write an ImageFolder: per split two classes of `each` smooth images of various sizes."""
    generator = np.random.default_rng(7)
    for split in splits:
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                coarse = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
                size = (sizes[number % len(sizes)], sizes[(number + 1) % len(sizes)])
                Image.fromarray(coarse).resize(size).save(root / split / name / f"{number}.png")
    return root


def opened(store: Path, file: Path, **settings: Any) -> Dataset:
    """Prepare and open an .npz file."""
    limit = Limit(**settings.pop("limit", {}))
    return Dataset.open(prepare(Data(name="npz", path=file, limit=limit, **settings), store, 0))
