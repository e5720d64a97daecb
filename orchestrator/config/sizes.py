"""Compute the bytes that caches, checkpoints and retrieved neighbours take."""

from orchestrator.config.schema import Configuration, Resources

BYTES = {"float16": 2, "float32": 4}


EXACT_SAMPLES = 200_000  # the most that `auto` searches exactly on a CPU


def views(configuration: Configuration) -> int:
    """Augmented versions of the training set that a trial sees."""
    return min(configuration.data.views or configuration.training.epochs, configuration.training.epochs)


def varies(configuration: Configuration, augmentation: str) -> bool:
    """Whether the views differ, given the resolved policy: without augmentation and mixing each is the clean one."""
    return augmentation != "none" or configuration.data.mixing != "none"


def cache_bytes(configuration: Configuration, samples: int, classes: int, augmentation: str) -> int:
    """Bytes of the teacher's logits on disk: an array of samples x classes per view, and one of the clean view."""
    if configuration.teacher is None:
        return 0
    files = views(configuration) + 1 if varies(configuration, augmentation) else 1
    return files * samples * classes * BYTES[configuration.teacher.dtype]


def approximate(resources: Resources, samples: int, gpu: bool) -> bool:
    """Whether neighbours among so many labelled samples are looked for approximately."""
    return resources.retrieval == "approximate" or (resources.retrieval == "auto" and samples > EXACT_SAMPLES and not gpu)


def neighbours_bytes(samples: int, neighbours: int) -> int:
    """Bytes of what is retrieved for each of the samples, on disk: positions int32 and similarities float32."""
    return samples * neighbours * (4 + 4)


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def checkpoint_bytes(parameters: int, copies: int) -> int:
    """Bytes of so many checkpoints: last and best weights, and up to two moments of the optimiser, in float32."""
    return 4 * 4 * parameters * copies
