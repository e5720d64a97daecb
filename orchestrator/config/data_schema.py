"""Define the section `data` of the configuration."""

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from orchestrator.config.fields import Choice as Choice
from orchestrator.config.fields import (
    Deviation,
    Epochs,
    GivenPath,
    Labelled,
    Mean,
    OpenShare,
    Samples,
    Seed,
    Share,
    require_mean_with_std,
)
from orchestrator.config.fields import Section as Section
from orchestrator.core.errors import FieldError

AUGMENTATIONS = ("auto", "none", "crop", "crop_flip", "resized_crop_flip")


def _check_augmentation(name: str) -> str:
    if name not in AUGMENTATIONS and not name.startswith("my/"):
        raise FieldError(
            f"{name!r} is not allowed: give one of {', '.join(AUGMENTATIONS)}, or a transform "
            f"my/NAME of --code"
        ).with_details(None, name, AUGMENTATIONS)
    return name


Augmentation = Annotated[str, AfterValidator(_check_augmentation)]
FILE_SOURCES = ("folder", "csv")  # images stay files, which every epoch decodes
UNLABELLED_SOURCES = ("npz", "folder")  # may have training images without a label
COLUMN_SOURCES = ("csv", "hf")  # samples are rows of a table with named columns
OWN_SOURCES = ("npz", *FILE_SOURCES, "hf")  # files of the user, whose content is unknown
KnownName = Literal["digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN"]
Weight = Annotated[float, Field(gt=0, le=1e6)]


class Limit(Section):
    """Maximum number of samples of each split, drawn with stratification."""

    train: Samples | None = Field(
        None, description="Training samples to keep, drawn with stratification; null keeps all."
    )
    validation: Samples | None = Field(
        None, description="Validation samples to keep, drawn with stratification; null keeps all."
    )
    test: Samples | None = Field(
        None, description="Test samples to keep, drawn with stratification; null keeps all."
    )


class RandAugment(Section):
    """Random operations of RandAugment (arXiv 1909.13719), after crop and flip."""

    operations: Annotated[int, Field(ge=1, le=8)] = Field(
        2, description="Number of operations for each image, one after the other."
    )
    magnitude: Annotated[int, Field(ge=0, le=30)] = Field(
        9, description="Strength of every operation, as in torchvision; 0 is the weakest."
    )


class Data(Section):
    """Data set, its splits and the augmentation of training images."""

    name: str = Field(
        "digits",
        description="Data set: digits, the name of a torchvision data set, or your own as npz, "
        "folder, csv or hf.",
    )
    path: GivenPath | None = Field(
        None,
        description="Path of the data: a file for npz and csv, a folder or a parquet file for hf, "
        "the root folder for folder and for torchvision data sets.",
    )
    download: bool = Field(
        False, description="Download a torchvision data set that is not on disk."
    )
    size: Annotated[int, Field(ge=4, le=4096)] | None = Field(
        None,
        json_schema_extra={"unit": "pixels"},
        description="Side length of the square images that are cropped from the files (folder, "
        "csv, hf); null keeps the size of hf images if all have the same.",
    )
    image_column: str | None = Field(
        None,
        description="Column of the images: for csv that of their paths, null is path; for hf null "
        "is the only column of images.",
    )
    label_column: str | None = Field(
        None,
        description="Column of the labels: for csv null is label, for hf the only column of class "
        "labels, or else of numbers or names.",
    )
    test_share: OpenShare | None = Field(
        None,
        description="Fraction of the samples that becomes the test part if the source has none "
        "(csv, hf), drawn with stratification and a fixed seed; null is 0.2.",
    )
    validation: OpenShare = Field(
        0.15, description="Fraction of the training data that is held out for validation."
    )
    limit: Limit = Limit()
    seed: Seed = Field(0, description="Random seed of the split, the limits and the label noise.")
    label_noise: Share = Field(
        0.0, description="Fraction of the training labels that are replaced by another class."
    )
    labelled: Labelled | None = Field(
        None,
        description="Training samples that keep their label, drawn with stratification; null keeps "
        "all labels, 0 none: students then learn from a teacher with given weights alone.",
    )
    labelled_share: OpenShare = Field(
        0.25,
        description="Fraction of labelled samples in a batch, drawn with replacement; used only "
        "if some samples are labelled and others are not.",
    )
    validation_in_training: bool = Field(
        False,
        description="Also train on the validation data: the whole training part, as publications "
        "do, or a baseline for methods that weight samples by its labels. Validation metrics are "
        "then those of trained samples; not allowed in a search.",
    )
    settings: dict[str, Any] = Field(
        {}, description="Settings of a data set my/NAME, which a file of --code registers."
    )
    augmentation: Augmentation = Field(
        "auto",
        description="Augmentation of training images: auto, none, crop, crop_flip, "
        "resized_crop_flip, or a transform my/NAME of --code; auto depends on the data set, and "
        "the plan gives the reason.",
    )
    like: KnownName | None = Field(
        None,
        description="Named data set whose augmentation, mean and standard deviation your own "
        "images get; they must have its size and channels.",
    )
    randaugment: RandAugment | None = Field(
        None,
        description="Random operations of RandAugment, after crop and flip; null for none, {} for "
        "its defaults.",
    )
    trivial_augment: bool = Field(
        False,
        description="Apply one random operation with a random strength to each image, as "
        "TrivialAugmentWide (arXiv 2103.10158) does; not together with data.randaugment.",
    )
    color_jitter: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Strength s of colour jitter: brightness, contrast and saturation are "
        "multiplied by factors in [1 - s, 1 + s], in random order; 0 for none.",
    )
    random_erasing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="Probability of erasing a rectangle of 2 to 33 % of an image (arXiv "
        "1708.04896), filled with the mean of the data; 0 for none.",
    )
    mean: Mean | None = Field(
        None,
        description="Mean of each channel, subtracted from pixel values in [0, 1]; null uses that "
        "of data.like, of the training images, or of ImageNet for folder and csv.",
    )
    std: Deviation | None = Field(
        None, description="Standard deviation of each channel; required if data.mean is given."
    )
    class_weights: Literal["balanced"] | tuple[Weight, ...] | None = Field(
        None,
        description="Weight of each class in the cross entropy of the labels: balanced (inversely "
        "proportional to its labelled training samples) or one positive number for each class; "
        "null weights all alike.",
    )
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="Drawing of training samples: uniform takes each once per epoch; balanced "
        "draws equally many of each class, in as many steps.",
    )
    mixing: Literal["none", "mixup", "cutmix"] = Field(
        "none",
        description="Mix each training image with another image of its view, for students and "
        "teacher alike.",
    )
    mix_alpha: Annotated[float, Field(ge=0.001, le=1000)] = Field(
        1.0,
        description="Parameter alpha of the Beta(alpha, alpha) distribution of the mixing ratio.",
    )
    views: Epochs | None = Field(
        None,
        json_schema_extra={"unit": "views"},
        description="Number of augmented versions of the training set; null uses one per epoch.",
    )
    on_device: bool | None = Field(
        None,
        description="Keep the data in device memory; null does so on a GPU if it takes at most a "
        "quarter of the memory.",
    )
    pack: bool = Field(
        False,
        description="Decode all image files once before the first training, and read reduced "
        "images from one memory-mapped file; crops differ from those of the files.",
    )
    pack_size: Annotated[int, Field(ge=4, le=8192)] | None = Field(
        None,
        json_schema_extra={"unit": "pixels"},
        description="Shorter side of packed images, smaller ones stay as they are; null is 8/7 of "
        "data.size, so that the middle of a packed image is the clean view.",
    )
    loader_workers: Annotated[int, Field(ge=0, le=256)] = Field(
        2,
        json_schema_extra={"unit": "processes"},
        description="Image decoding processes per worker; 0 decodes in the worker itself (folder, "
        "csv).",
    )

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> "Data":
        require_mean_with_std(self.mean, self.std)
        return self

    @field_validator("class_weights", mode="before")
    @classmethod
    def _check_class_weights(cls, value: Any) -> Any:
        is_list = isinstance(value, list | tuple) and value
        if value not in (None, "balanced") and not (is_list and all(map(_is_positive, value))):
            raise FieldError(
                f"{value} is not allowed: give balanced, or a list with one number above 0 for "
                f"each class, for example [1, 2.5]"
            ).with_details(None, value, "balanced, or one positive number for each class")
        return value

    @model_validator(mode="after")
    def _check_source(self) -> "Data":
        allowed = {
            "image_column": self.name in COLUMN_SOURCES,
            "label_column": self.name in COLUMN_SOURCES,
            "test_share": self.name in COLUMN_SOURCES,
            "like": self.name not in get_args(KnownName),
        }
        for key, is_allowed in allowed.items():
            value = getattr(self, key)
            if value is not None and not is_allowed:
                names = OWN_SOURCES if key == "like" else COLUMN_SOURCES
                raise FieldError(
                    f"{key} = {value} has no effect with name = {self.name}: remove it, or set "
                    f"data.name to one of {', '.join(names)}"
                ).with_details(key, value, f"with data.name = {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _check_sampling(self) -> "Data":
        if self.sampling != "balanced":
            return self
        conflicts = {
            "labelled": (self.labelled, None, "unlabelled samples have no class"),
            "mixing": (self.mixing, "none", "the partners of blended images are drawn uniformly"),
            "class_weights": (
                self.class_weights == "balanced" and "balanced",
                False,
                "both would correct the same imbalance",
            ),
        }
        for key, (value, allowed, reason) in conflicts.items():
            if value != allowed:
                raise FieldError(
                    f"sampling = balanced is not allowed with {key} = {value}, because {reason}: "
                    f"remove one of the two"
                ).with_details("sampling", "balanced", ("uniform",))
        return self

    @property
    def is_decoded_each_epoch(self) -> bool:
        """Return whether the images stay files that loader processes decode."""
        return self.name in FILE_SOURCES

    @model_validator(mode="after")
    def _one_automatic_augmentation(self) -> "Data":
        if self.randaugment and self.trivial_augment:
            raise FieldError(
                "trivial_augment = true is not allowed together with randaugment: remove one"
            ).with_details("trivial_augment", True, (False,))
        return self

    @model_validator(mode="after")
    def _pack_size_goes_with_pack(self) -> "Data":
        if self.pack_size is not None and not self.pack:
            raise FieldError(
                f"pack_size = {self.pack_size} is not allowed without pack = true: set both, or "
                f"remove pack_size"
            ).with_details("pack_size", self.pack_size, None)
        if self.pack_size is not None and self.size is not None and self.pack_size < self.size:
            raise FieldError(
                f"pack_size = {self.pack_size} is not allowed: give at least size = {self.size}, "
                f"or packed images would be enlarged again"
            ).with_details("pack_size", self.pack_size, (self.size, None))
        return self

    @property
    def transforms(self) -> dict[str, Any]:
        """Return the transforms after crop and flip that are set, by their keys."""
        values = {
            "randaugment": self.randaugment and self.randaugment.model_dump(),
            "trivial_augment": self.trivial_augment,
            "color_jitter": self.color_jitter,
            "random_erasing": self.random_erasing,
        }
        return {name: value for name, value in values.items() if value}

    @property
    def packed_side(self) -> int | None:
        """Return the shorter side of packed images in pixels, None if images are not packed."""
        if not self.pack or self.size is None:
            return None
        return self.pack_size or math.ceil(self.size * 8 / 7)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1e6
