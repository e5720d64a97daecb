"""Resolve the augmentation and the normalisation of a data set, and explain both."""

from collections.abc import Sequence
from typing import NamedTuple

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import DataSummary
from orchestrator.data.transforms import require_transform

Statistics = tuple[list[float], list[float]]
# the values that pretrained weights expect; no image needs to be decoded
IMAGENET: Statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


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
        return recorded or AUTOMATIC[name or data.name].policy
    require_transform(data.augmentation)
    return data.augmentation


def shift_pixels(shape: Sequence[int]) -> int:
    """Return the largest shift of `crop` and `crop_flip` in pixels, for `shape` (C, H, W).

    It is an eighth of the shorter side.
    """
    return min(shape[1:]) // 8


def explain_augmentation(data: Data, shape: Sequence[int]) -> str:
    """Return a sentence on the policy for images of `shape` (C, H, W).

    It names the policy, its effect, the reason, and the setting to change it.
    """
    policy, (automatic, reason) = resolve_augmentation(data), AUTOMATIC[data.name]
    shifted = f"shifted by up to {_count(shift_pixels(shape), 'pixel')}"
    effects = {
        "none": "unchanged images",
        "crop": shifted,
        "crop_flip": f"{shifted}, half of them mirrored",
        "resized_crop_flip": "random crops, resized, half of them mirrored",
    }
    effect = effects.get(policy, "the transform of --code")
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


def _format_values(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
