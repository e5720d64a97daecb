"""Compute the bytes of caches, checkpoints and retrieved neighbours."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.config.schema import Configuration, Resources, Teacher

if TYPE_CHECKING:  # it imports torch
    from methods.feature_maps import MapShape

BYTES = {"float16": 2, "float32": 4}


EXACT_SAMPLES = 200_000  # the most samples that `auto` searches exactly on a CPU


def views(configuration: Configuration) -> int:
    """Return the number of augmented versions of the training set that a trial uses."""
    return min(
        configuration.data.views or configuration.training.epochs, configuration.training.epochs
    )


def varies(configuration: Configuration, augmentation: str) -> bool:
    """Return whether the views differ.

    Without augmentation, transforms and mixing each view is the clean one.

    Args:
        configuration: The configuration of the run.
        augmentation: The resolved augmentation policy.
    """
    data = configuration.data
    return augmentation != "none" or data.mixing != "none" or bool(data.transforms)


def cache_bytes(configuration: Configuration, samples: int, classes: int, augmentation: str) -> int:
    """Return the bytes of the teacher's logits on disk.

    There is one array of samples x classes for each view, and one for the clean view. If the views
    do not differ, there is only the clean one. Several teachers are counted together. Without a
    teacher the result is 0.
    """
    files = views(configuration) + 1 if varies(configuration, augmentation) else 1
    bytes_each = [BYTES[teacher.dtype] for teacher in configuration.named_teachers.values()]
    return files * samples * classes * sum(bytes_each)


def is_approximate(resources: Resources, samples: int, gpu: bool) -> bool:
    """Return whether neighbours among this many labelled samples are searched approximately."""
    return resources.retrieval == "approximate" or (
        resources.retrieval == "auto" and samples > EXACT_SAMPLES and not gpu
    )


def neighbours_bytes(samples: int, neighbours: int) -> int:
    """Return the bytes on disk of the neighbours that are retrieved for each sample.

    Positions are int32 and similarities float32.
    """
    return samples * neighbours * (4 + 4)


def map_bytes(teacher: Teacher, samples: int, shapes: Iterable["MapShape"]) -> int:
    """Return the bytes on disk of the teacher's feature maps on the clean view."""
    return samples * sum(math.prod(shape) for shape in shapes) * BYTES[teacher.dtype]


def maps_fit(teacher: Teacher, samples: int, shapes: Iterable["MapShape"]) -> bool:
    """Return whether feature maps are cached: they take at most half of `teacher.cache_gib`."""
    return map_bytes(teacher, samples, shapes) <= teacher.cache_gib * 2**30 / 2


def format_bytes(count: float) -> str:
    """Return a number of bytes as text with a unit, such as `1.5 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def checkpoint_bytes(parameters: int, copies: int) -> int:
    """Return the bytes of so many checkpoints.

    A checkpoint has the last and the best weights, and up to two moments of the optimizer, in
    float32.
    """
    return 4 * 4 * parameters * copies
