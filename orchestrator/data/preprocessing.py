"""Resolve the augmentation and the normalisation of a data set, and explain both."""

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.class_balance import explain_balance
from orchestrator.data.dataset import DataSummary
from orchestrator.data.user_transforms import require_transform

Statistics = tuple[list[float], list[float]]
# the values that pretrained weights expect; no image needs to be decoded
IMAGENET: Statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
MOST_SAMPLED = 10_000  # training images of a table that determine its statistics
# they compute grey values
COLOUR_TRANSFORMS = ("randaugment", "trivial_augment", "color_jitter")


class Automatic(NamedTuple):
    """Policy of `data.augmentation = auto` for a data set, and the reason."""

    policy: str
    reason: str


_DIGIT = "a shifted digit keeps its meaning, and a mirrored one does not"
AUTOMATIC = {
    "digits": Automatic(
        "none", "a shift by one of 8x8 pixels lowers the accuracy of small students"
    ),
    "MNIST": Automatic("crop", _DIGIT),
    "FashionMNIST": Automatic("crop_flip", "usual for these images"),
    "CIFAR10": Automatic("crop_flip", "usual for these images"),
    "CIFAR100": Automatic("crop_flip", "usual for these images"),
    "SVHN": Automatic("crop", _DIGIT),
    "npz": Automatic(
        "none",
        "the content of the images is unknown, and a shift or a flip may change the meaning of "
        "a label",
    ),
    "folder": Automatic("resized_crop_flip", "usual for photographs"),
    "csv": Automatic("resized_crop_flip", "usual for photographs"),
    "hf": Automatic(
        "none",
        "the content of the images is unknown, and a shift or a flip may change the meaning of "
        "a label",
    ),
}


class Known(NamedTuple):
    """Shape (C, H, W) of a named data set, and its mean and deviation of each channel in 0..1."""

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


# Over all pixels of the training part, in four digits. Computed with `channel_statistics`, except
# MNIST (those of pytorch/examples) and SVHN (those of its usual benchmarks).
KNOWN = {
    "digits": Known((1, 8, 8), (0.3055,), (0.3759,)),
    "MNIST": Known((1, 28, 28), (0.1307,), (0.3081,)),
    "FashionMNIST": Known((1, 28, 28), (0.2860,), (0.3530,)),
    "CIFAR10": Known((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR100": Known((3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "SVHN": Known((3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


def resolve_augmentation(
    data: Data, summary: DataSummary | None = None, name: str | None = None
) -> str:
    """Return the augmentation policy in effect.

    Args:
        data: The data section of the configuration; `auto` stands for the policy of its data set.
        summary: The `data.json` of a run. Runs of earlier versions have their policy only there.
        name: The name of the prepared data; None for `data.name`.

    Raises:
        ConfigurationError: The policy is a transform of user code that is not registered.
    """
    if data.augmentation == "auto":
        recorded = summary.augmentation if summary else ""
        return recorded or AUTOMATIC[data.like or name or data.name].policy
    require_transform(data.augmentation)
    return data.augmentation


def shift_pixels(shape: Sequence[int]) -> int:
    """Return the largest shift of `crop` and `crop_flip` in pixels, for `shape` (C, H, W).

    It is an eighth of the shorter side.
    """
    return min(shape[1:]) // 8


def require_suitable(data: Data, summary: DataSummary) -> None:
    """Require that transforms and packing suit the data.

    Raises:
        ConfigurationError: Transforms of colours are set for images without colours, or packing is
            set for arrays.
    """
    channels = summary.shape[0]
    for name in COLOUR_TRANSFORMS:
        if name in data.transforms and channels not in (1, 3):
            raise ConfigurationError(
                f"data.{name} = {data.transforms[name]} needs grey or RGB images, and these have "
                f"{channels} channels: remove the setting"
            ).with_details(f"data.{name}", data.transforms[name], "images of 1 or 3 channels")
    if data.pack and summary.root is None:
        raise ConfigurationError(
            f"data.pack = true is for image files, and data.name = {data.name} consists of arrays, "
            f"which are memory-mapped already: remove the setting"
        ).with_details("data.pack", True, (False,))


def explain_augmentation(data: Data, shape: Sequence[int]) -> str:
    """Return a sentence on the policy for images of `shape` (C, H, W).

    It names the policy, its effect, the reason, and the setting to change it.
    """
    name = data.like or data.name
    policy, (automatic, reason) = resolve_augmentation(data), AUTOMATIC[name]
    shifted = f"shifted by up to {_count(shift_pixels(shape), 'pixel')}"
    effects = {
        "none": "unchanged images",
        "crop": shifted,
        "crop_flip": f"{shifted}, half of them mirrored",
        "resized_crop_flip": "random crops, resized, half of them mirrored",
    }
    effect = effects.get(policy, "a transform of your code")
    effect = ", ".join([effect, *_describe_transforms(data)])
    if policy == automatic:
        return (
            f"{policy} ({effect}): chosen for {name}{_like(data)}, as {reason}; set "
            f"data.augmentation to change it"
        )
    return (
        f"{policy} ({effect}): set by data.augmentation; auto is {automatic} for {name}, "
        f"as {reason}"
    )


def require_like(data: Data, shape: Sequence[int]) -> None:
    """Require that images of `shape` (C, H, W) have that of the data set `data.like`.

    Raises:
        ConfigurationError: The shapes differ.
    """
    if data.like and tuple(shape) != KNOWN[data.like].shape:
        sides, like_sides = ("x".join(map(str, each)) for each in (shape, KNOWN[data.like].shape))
        raise ConfigurationError(
            f"data.like = {data.like} does not fit: its images have the shape {like_sides} "
            f"(channels, height, width) and these {sides}; remove it, or set data.augmentation, "
            f"data.mean and data.std instead"
        ).with_details("data.like", data.like, f"images of shape {like_sides}")


def needs_no_statistics(data: Data) -> bool:
    """Return whether settings alone give mean and deviation."""
    return data.mean is not None or data.like is not None


def _like(data: Data) -> str:
    return " (data.like)" if data.like else ""


def choose_normalization(data: Data, channels: int, statistics: Statistics | None) -> Statistics:
    """Return the mean and the standard deviation of each channel, in 0..1.

    Args:
        data: The data section; its `mean` and `std` take precedence.
        channels: The number of values that each must have.
        statistics: Statistics of the training images. None for image files, which get ImageNet's.

    Raises:
        ConfigurationError: `data.mean` and `data.std` do not have one value for each channel.
    """
    if data.mean is None or data.std is None:
        if data.like:
            return list(KNOWN[data.like].mean), list(KNOWN[data.like].std)
        return statistics or IMAGENET
    if len(data.mean) != channels:
        raise ConfigurationError(
            f"data.mean = {list(data.mean)} and data.std = {list(data.std)} have "
            f"{_count(len(data.mean), 'value')} each, and the images have "
            f"{_count(channels, 'channel')}: give {channels} values each, or remove both"
        ).with_details("data.mean", data.mean, f"{channels} values")
    return list(data.mean), list(data.std)


def explain_normalization(data: Data, summary: DataSummary) -> str:
    """Return a sentence on the normalisation.

    It names mean and deviation of each channel, their source, and the settings to change them.
    """
    values = f"mean {_format_values(summary.mean)}, std {_format_values(summary.std)}"
    if data.mean is not None:
        return f"{values}: set by data.mean and data.std"
    if data.like:
        source = f"those of {data.like}{_like(data)}"
    elif summary.root:
        source = "those of ImageNet, as the files are not decoded beforehand"
    else:
        source = "those of the training images"
        if data.name == "hf" and summary.sizes.train > MOST_SAMPLED:
            source += f" (of {MOST_SAMPLED} of them)"
    return f"{values}: {source}; set data.mean and data.std to change them"


def explain(data: Data, summary: DataSummary) -> dict[str, str]:
    """Return the lines of a plan about images and classes, by their titles."""
    return {
        "augmentation": explain_augmentation(data, summary.shape),
        "normalisation": explain_normalization(data, summary),
    } | explain_balance(data, summary)


def _describe_transforms(data: Data) -> list[str]:
    """Return the transforms after crop and flip in words."""
    words = []
    if data.randaugment:
        words.append(
            f"{_count(data.randaugment.operations, 'operation')} of RandAugment of magnitude "
            f"{data.randaugment.magnitude}"
        )
    if data.trivial_augment:
        words.append("one operation of TrivialAugment")
    if data.color_jitter:
        words.append(f"colour jitter of {data.color_jitter:g}")
    if data.random_erasing:
        words.append(f"random erasing of {data.random_erasing:.3g} of the images")
    return words


def _format_values(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
