"""Resolve the augmentation and the normalisation of a data set, and explain both."""

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import DataSummary

Statistics = tuple[list[float], list[float]]
# the values that pretrained weights expect; no image needs to be decoded
IMAGENET: Statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
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
}


def resolve_augmentation(data: Data, summary: DataSummary | None = None) -> str:
    """Return the augmentation policy in effect.

    Args:
        data: The data section of the configuration; `auto` stands for the policy of its data set.
        summary: The `data.json` of a run. Runs of earlier versions have their policy only there.
    """
    recorded = summary.augmentation if summary else ""
    automatic = recorded or AUTOMATIC[data.name].policy
    return automatic if data.augmentation == "auto" else data.augmentation


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
    policy, (automatic, reason) = resolve_augmentation(data), AUTOMATIC[data.name]
    shifted = f"shifted by up to {_count(shift_pixels(shape), 'pixel')}"
    effect = {
        "none": "unchanged images",
        "crop": shifted,
        "crop_flip": f"{shifted}, half of them mirrored",
        "resized_crop_flip": "random crops, resized, half of them mirrored",
    }[policy]
    effect = ", ".join([effect, *_describe_transforms(data)])
    if policy == automatic:
        return (
            f"{policy} ({effect}): chosen for {data.name}, as {reason}; set data.augmentation "
            f"to change it"
        )
    return (
        f"{policy} ({effect}): set by data.augmentation; auto is {automatic} for {data.name}, "
        f"as {reason}"
    )


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
    if summary.root:
        source = "those of ImageNet, as the files are not decoded beforehand"
    else:
        source = "those of the training images"
    return f"{values}: {source}; set data.mean and data.std to change them"


def explain(data: Data, summary: DataSummary) -> dict[str, str]:
    """Return the lines of a plan about augmentation and normalisation, by their titles."""
    return {
        "augmentation": explain_augmentation(data, summary.shape),
        "normalisation": explain_normalization(data, summary),
    }


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
