"""Measure what transforms cost: batches with transforms (ours) against torchvision's (theirs).

    python benchmarks/augmentation_cost.py [--cases arrays,files] [--rounds 5] [--json]

Values are images per CPU second. All variants of a round run one after the other; each value is the
median of the rounds.

    arrays    batches of 128 random images of 32 x 32, cropped and mirrored; theirs
              transforms image by image with transforms v2 and stacks them, as a data set does
    files     JPEG files of 500 x 375, cropped to 224 pixels in one decoding process; theirs is
              ImageFolder, DataLoader and transforms v2

The first row of a case has no transform. `share` is the images per second with a transform over
those without, on our side.
"""

import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.common import (
    Result,
    compare_results,
    make_images,
    make_parser,
    make_result,
    print_results,
)
from benchmarks.folder import UNIT, make_folder, prepared, rate
from orchestrator.config.data_schema import Data
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views

KIND, SIZE, PAD = "jpeg_500x375", 224, 4
VARIANTS: dict[str, tuple[dict[str, Any], list[Any]]] = {  # our settings, their transforms
    "none": ({}, []),
    "randaugment": ({"randaugment": {"operations": 2, "magnitude": 9}}, [v2.RandAugment()]),
    "trivial_augment": ({"trivial_augment": True}, [v2.TrivialAugmentWide()]),
    "color_jitter": ({"color_jitter": 0.4}, [v2.ColorJitter(0.4, 0.4, 0.4)]),
    "random_erasing": ({"random_erasing": 0.25}, []),
}


def run_ours(dataset: Dataset, policy: str, settings: dict[str, Any], workers: int) -> None:
    """Run one epoch of our batches."""
    views = Views(
        policy, 0, len(dataset.train), PAD, transforms=settings, fill=(128,) * dataset.shape[0]
    )
    size = 128 if dataset.root is None else 64
    for _ in Batches(dataset, views, size, 0, loader_workers=workers).train(0, 0):
        pass


def their_transforms(first: list[Any], name: str, dataset: Dataset) -> v2.Compose:
    """Return torchvision's transforms of a variant; erasing follows the normalisation."""
    last = [v2.RandomErasing(0.25)] if name == "random_erasing" else []
    return v2.Compose(
        [
            *first,
            *VARIANTS[name][1],
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(dataset.mean, dataset.std),
            *last,
        ]
    )


class _Arrays(torch.utils.data.Dataset[torch.Tensor]):
    """Images (n, H, W, C) as a data set that transforms each one."""

    def __init__(self, images: np.ndarray, transform: v2.Compose) -> None:
        self.planes = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.planes)

    def __getitem__(self, index: int) -> torch.Tensor:
        transformed: torch.Tensor = self.transform(self.planes[index])
        return transformed


def run_their_arrays(dataset: Dataset, name: str) -> None:
    """Run one epoch of torchvision's transforms on arrays."""
    first = [v2.RandomCrop(32, PAD), v2.RandomHorizontalFlip()]
    images = _Arrays(dataset.train.inputs, their_transforms(first, name, dataset))
    for _ in DataLoader(images, 128, shuffle=True, drop_last=True):
        pass


def run_their_files(dataset: Dataset, name: str, workers: int) -> None:
    """Run one epoch of ImageFolder."""
    assert dataset.root is not None
    first = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    images = ImageFolder(dataset.root / "train", their_transforms(first, name, dataset))
    for _ in DataLoader(images, 64, shuffle=True, drop_last=True, num_workers=workers):
        pass


def measure(case: str, folder: Path, options: Namespace) -> Iterator[Result]:
    """Yield the results of a case."""
    sides: dict[tuple[str, str], Callable[[], object]]
    if case == "arrays":
        make_images(folder / "images.npz", options.arrays, 10, 100)
        config = Data(name="npz", path=folder / "images.npz")
        dataset = Dataset.open(prepare(config, folder / "store", 0))
        sides = {
            (name, side): run
            for name, (settings, _) in VARIANTS.items()
            for side, run in (
                ("ours", lambda s=settings: run_ours(dataset, "crop_flip", s, 0)),
                ("theirs", lambda n=name: run_their_arrays(dataset, n)),
            )
        }
    else:
        make_folder(folder / KIND, KIND, options.files)
        dataset = prepared(folder / KIND, folder / "store", SIZE, False)
        sides = {
            (name, side): run
            for name, (settings, _) in VARIANTS.items()
            for side, run in (
                ("ours", lambda s=settings: run_ours(dataset, "resized_crop_flip", s, 1)),
                ("theirs", lambda n=name: run_their_files(dataset, n, 1)),
            )
        }
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in sides}
    for number in range(options.rounds + 1):
        for key, run in sides.items():
            value = rate(run, len(dataset.train))
            if number:  # the first round fills caches
                rates[key].append(value)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    for name in VARIANTS:
        ours, theirs = medians[name, "ours"], medians[name, "theirs"]
        yield compare_results(f"{case}: {name}", ours, theirs, UNIT, True)
        yield make_result(f"{case}: {name}", ours / medians["none", "ours"], "share")


def main() -> None:
    """Measure all cases, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=["arrays", "files"])
    parser.add_argument("--arrays", type=int, default=5000, help="images of the case arrays")
    parser.add_argument("--files", type=int, default=256, help="images of the case files")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        results = [each for case in options.cases for each in measure(case, Path(name), options)]
    print_results(results, options.json)


if __name__ == "__main__":
    main()
