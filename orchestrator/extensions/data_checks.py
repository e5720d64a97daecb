"""Check registered data sets, transforms and metrics."""

import random
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.data import checks
from orchestrator.data.conversion import Parts
from orchestrator.data.datasets import DATASETS
from orchestrator.data.user_transforms import TRANSFORMS
from orchestrator.extensions._checking import Checks, check_settings, require
from orchestrator.training.metrics import USER_METRICS

SAMPLES = 24
SEEDS = range(5)


def dataset_checks(name: str, path: Path | None = None, size: int | None = None) -> Checks:
    """Return the checks of a data set, by their names.

    Args:
        name: A key of `DATASETS`.
        path: `data.path`.
        size: `data.size`.
    """
    config = Data(name=name, path=path, size=size)
    settings = DATASETS[name].settings
    return {
        **({"settings": partial(check_settings, settings)} if settings else {}),
        "parts": partial(check_parts, config),
        "repeatability": partial(check_repeated_load, config),
    }


def _load(config: Data) -> Parts:
    with TemporaryDirectory() as folder:
        return DATASETS[config.name].load(config, Path(folder))


def check_parts(config: Data) -> None:
    """Check that the parts have images of one shape and labels of every class."""
    parts = _load(config)
    checks.require_consistent_parts("it", parts, "data.name")
    for name, part in parts.splits().items():
        checks.require_every_class("it", name, part, parts.classes, "data.name")


def check_repeated_load(config: Data) -> None:
    """Check that the data set is the same each time."""
    torch.manual_seed(0)
    first = _load(config)
    _change_global_generators(1)
    second = _load(config)
    require(first.classes == second.classes, "its classes differ when it is loaded again")
    for name, part in first.splits().items():
        again = second.splits()[name]
        require(
            np.array_equal(part.inputs, again.inputs) and np.array_equal(part.labels, again.labels),
            f"the {name} part differs when it is loaded again: seed its random numbers",
        )


def transform_checks(name: str, shape: tuple[int, int, int]) -> Checks:
    """Return the checks of a transform, by their names.

    Args:
        name: A key of `TRANSFORMS`.
        shape: (C, H, W) of the images.
    """
    channels, height, width = shape
    image = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return {
        "images": partial(check_transformed_image, name, image),
        "seed, view and index": partial(check_transform_is_function, name, image),
    }


def check_transformed_image(name: str, image: NDArray[np.uint8]) -> None:
    """Check that a transform returns images of the same shape."""
    for index in SEEDS:
        TRANSFORMS[name].apply(image, index, 0, 0)


def check_transform_is_function(name: str, image: NDArray[np.uint8]) -> None:
    """Check that seed, view and index determine the image of a transform."""
    for index in SEEDS:
        images = []
        for state in range(2):
            _change_global_generators(state)
            images.append(TRANSFORMS[name].apply(image, index, 3, 1))
        require(
            np.array_equal(images[0], images[1]),
            "its result varies for the same seed, view and index: draw all random numbers from "
            "the given generator",
        )


def metric_checks(name: str, classes: int) -> Checks:
    """Return the checks of a metric, by their names.

    Args:
        name: A key of `USER_METRICS`.
        classes: Number of classes K.
    """
    return {
        "value": partial(check_metric_value, name, classes),
        "repeatability": partial(check_metric_is_function, name, classes),
    }


def _metric(name: str, classes: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(SAMPLES, classes, generator=generator)
    return USER_METRICS[name].compute(logits, torch.arange(SAMPLES) % classes)


def check_metric_value(name: str, classes: int) -> None:
    """Check that a metric is a finite number, for perfect logits too."""
    for seed in SEEDS:
        _metric(name, classes, seed)
    labels = torch.arange(SAMPLES) % classes
    perfect = 20 * torch.nn.functional.one_hot(labels, classes).float()
    USER_METRICS[name].compute(perfect, labels)


def check_metric_is_function(name: str, classes: int) -> None:
    """Check that a metric is the same for the same logits and labels."""
    values = set()
    for state in range(2):
        _change_global_generators(state)
        values.add(_metric(name, classes, 0))
    require(len(values) == 1, "its value varies for the same logits and labels")


def _change_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
