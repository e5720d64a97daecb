"""Measure folders of images: our loader (ours) against torchvision's ImageFolder (theirs).

    python benchmarks/folder.py [--kinds jpeg_500x375] [--images 256] [--workers 1] [--rounds 5]
        [--json]

The images are generated: smooth shapes, edges and noise, saved as JPEG of quality 90 or PNG. Values
are images per CPU second, over this process and its decoding processes, so that another load on the
machine matters little. All sides of a round run one after the other; each value is the median of
the rounds.

    loader      random resized crop and flip to --size pixels, batches of 64: `pictures.decode`
                against ImageFolder, DataLoader and transforms v2 on PIL images
    decoder     files to cropped pixels without a loader: Pillow (ours) against torchvision.io and
                `resized_crop` of tensors; the mean difference of a pixel, of 255, is shown
    packed      the loader with packed images (ours) against the loader with files (theirs)
    packing     images per CPU second that are packed, once
"""

import math
import resource
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image, features
from torch.utils.data import DataLoader
from torchvision import io
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from benchmarks.common import Result, compare_results, make_parser, make_result, print_results
from orchestrator.config.data_schema import Data
from orchestrator.data import pictures
from orchestrator.data._augmentation import SMALLEST_AREA_FOLDER, draw_crop_boxes
from orchestrator.data.dataset import Dataset
from orchestrator.data.decoding import decode_image
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views

KINDS = ("jpeg_500x375", "jpeg_256x256", "png_256x256", "jpeg_2000x1500")
BATCH, QUALITY, UNIT = 64, 90, "images/CPU s"


def make_image(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return an image with the spectrum of a photograph: shapes, edges and fine noise."""
    pixels = np.zeros((height, width, 3), dtype=np.float32)
    for octave in range(2, 9):
        side = 2**octave
        coarse = generator.normal(0, 1, (side, side, 3)).astype(np.float32)
        layers = [
            np.asarray(
                Image.fromarray(coarse[..., channel]).resize(
                    (width, height), Image.Resampling.BICUBIC
                )
            )
            for channel in range(3)
        ]
        pixels += np.stack(layers, axis=2) / octave
    for _ in range(6):  # edges
        top, left = (int(generator.integers(0, side)) for side in (height, width))
        tall, wide = (int(generator.integers(side // 8, side // 2)) for side in (height, width))
        pixels[top : top + tall, left : left + wide] += generator.normal(0, 1, 3)
    return Image.fromarray(np.clip(128 + 45 * pixels, 0, 255).astype(np.uint8))


def make_folder(root: Path, kind: str, images: int) -> None:
    """Write a folder with `images` training images in two classes, and two test images."""
    suffix, _, shape = kind.partition("_")
    width, height = map(int, shape.split("x"))
    generator = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 2), ("test", 2)):
        for index in range(count):
            folder = root / split / f"class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            image = make_image(generator, width, height)
            if suffix == "jpeg":
                image.save(folder / f"{index}.jpg", quality=QUALITY)
            else:
                image.save(folder / f"{index}.png")


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def rate(run: Callable[[], object], images: int) -> float:
    """Return the images per CPU second of one run."""
    before = cpu_seconds()
    run()
    return images / (cpu_seconds() - before)


def prepared(root: Path, store: Path, size: int, pack: bool) -> Dataset:
    """Return the prepared folder."""
    return Dataset.open(prepare(Data(name="folder", path=root, size=size, pack=pack), store, 0))


def run_ours(dataset: Dataset, workers: int) -> None:
    """Decode one epoch of a view with our loader."""
    views = Views("resized_crop_flip", 0, len(dataset.train), 0)
    order = np.random.default_rng(0).permutation(len(dataset.train))
    batches = np.split(order, range(BATCH, len(order), BATCH))
    assert dataset.root is not None
    for images in pictures.decode(
        dataset.root,
        dataset.train.inputs,
        batches,
        dataset.shape[1],
        views.numbers(0),
        workers,
        False,
        packed=dataset.packed,
    ):
        assert images.dtype == torch.uint8


def run_theirs(root: Path, size: int, workers: int) -> None:
    """Decode one epoch with torchvision's ImageFolder and a DataLoader."""
    transform = v2.Compose(
        [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )
    folder = ImageFolder(root / "train", transform)
    for images, _ in DataLoader(folder, BATCH, shuffle=True, num_workers=workers):
        assert images.dtype == torch.uint8


def crop_with_pillow(file: Path, numbers: np.ndarray, size: int) -> torch.Tensor:
    """Return a crop (size, size, 3) as our loader decodes it."""
    image = decode_image(file, 3).image
    box = draw_crop_boxes(numbers, image.height, image.width, SMALLEST_AREA_FOLDER)[0].round()
    cut = image.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box.tolist()))
    return torch.from_numpy(np.array(cut))


def crop_with_torchvision(file: Path, numbers: np.ndarray, size: int) -> torch.Tensor:
    """Return the same crop, decoded by torchvision.io and resized as a tensor."""
    planes = io.decode_image(io.read_file(str(file)), io.ImageReadMode.RGB)
    height, width = planes.shape[1:]
    box = draw_crop_boxes(numbers, height, width, SMALLEST_AREA_FOLDER)[0].round()
    left, top, right, bottom = box.astype(int).tolist()
    cut: torch.Tensor = functional.resized_crop(
        planes, top, left, bottom - top, right - left, [size, size]
    )
    return cut.permute(1, 2, 0).contiguous()


def measure(kind: str, folder: Path, options: Namespace) -> Iterator[Result]:
    """Yield the results of one kind of files."""
    root, size, workers = folder / kind, options.size, options.workers
    images = max(BATCH, options.images // 8) if "2000" in kind else options.images
    make_folder(root, kind, images)
    files = prepared(root, folder / "store", size, False)
    before, start = cpu_seconds(), time.monotonic()
    packed = prepared(root, folder / "store", size, True)
    packing, wall = cpu_seconds() - before, time.monotonic() - start
    assert files.root is not None and packed.packed is not None
    paths = [files.root / bytes(path).decode() for path in files.train.inputs]
    numbers = Views("resized_crop_flip", 0, len(paths), 0).numbers(0)

    def decode(crop: Callable[[Path, np.ndarray, int], torch.Tensor]) -> list[torch.Tensor]:
        return [crop(path, numbers[[index]], size) for index, path in enumerate(paths)]

    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: run_ours(files, workers),
        "theirs": lambda: run_theirs(root, size, workers),
        "packed": lambda: run_ours(packed, workers),
        "pillow": lambda: decode(crop_with_pillow),
        "torchvision.io": lambda: decode(crop_with_torchvision),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, run in sides.items():
            value = rate(run, len(paths))
            if number:  # the first round fills the file cache
                rates[name].append(value)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    pairs = zip(decode(crop_with_pillow), decode(crop_with_torchvision), strict=True)
    difference = statistics.mean(float((a.float() - b.float()).abs().mean()) for a, b in pairs)
    yield compare_results(f"{kind}: loader", medians["ours"], medians["theirs"], UNIT, True)
    yield compare_results(
        f"{kind}: decoder", medians["pillow"], medians["torchvision.io"], UNIT, True
    )
    yield make_result(f"{kind}: difference of the decoders", difference, "of 255")
    yield compare_results(f"{kind}: packed", medians["packed"], medians["ours"], UNIT, True)
    yield make_result(f"{kind}: packing ({wall:.1f} s)", len(packed.packed.paths) / packing, UNIT)
    stored = len(packed.packed.pixels) / len(packed.packed.paths) / 2**10
    yield make_result(f"{kind}: packed size", stored, "KiB/image")


def main() -> None:
    """Measure all kinds, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--images", type=int, default=256, help="an eighth of the largest files")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert features.check("libjpeg_turbo"), "this Pillow has no libjpeg-turbo"
    assert options.images >= BATCH and math.isfinite(options.size)
    with tempfile.TemporaryDirectory() as name:
        results = [each for kind in options.kinds for each in measure(kind, Path(name), options)]
    print_results(results, options.json)


if __name__ == "__main__":
    main()
