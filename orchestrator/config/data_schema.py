"""Define the section `data` of the configuration."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.config.fields import Choice as Choice
from orchestrator.config.fields import Epochs, GivenPath, OpenShare, Samples, Seed, Share
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


class Data(Section):
    """Data set, its splits and the augmentation of training images."""

    name: str = Field(
        "digits", description="Data set: digits, the name of a torchvision data set, npz or folder."
    )
    path: GivenPath | None = Field(
        None,
        description="Path of the data: a file for npz, the root folder for folder and for "
        "torchvision data sets.",
    )
    download: bool = Field(
        False, description="Download a torchvision data set that is not on disk."
    )
    size: Annotated[int, Field(ge=4, le=4096)] | None = Field(
        None,
        json_schema_extra={"unit": "pixels"},
        description="Side length of the square images that are cropped from the files (folder).",
    )
    validation: OpenShare = Field(
        0.15, description="Fraction of the training data that is held out for validation."
    )
    limit: Limit = Limit()
    seed: Seed = Field(0, description="Random seed of the split, the limits and the label noise.")
    label_noise: Share = Field(
        0.0, description="Fraction of the training labels that are replaced by another class."
    )
    labelled: Samples | None = Field(
        None,
        description="Training samples that keep their label, drawn with stratification; null keeps "
        "all labels.",
    )
    labelled_share: OpenShare = Field(
        0.25,
        description="Fraction of labelled samples in a batch, drawn with replacement; used only "
        "with data.labelled.",
    )
    validation_in_training: bool = Field(
        False,
        description="Also train on the validation data, as a baseline for methods that weight "
        "samples by its labels; not allowed in sweeps.",
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
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None,
        description="Mean of each channel, subtracted from pixel values in [0, 1]; null uses that "
        "of the training images, or of ImageNet for folder.",
    )
    std: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="Standard deviation of each channel; required if data.mean is given."
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
    loader_workers: Annotated[int, Field(ge=0, le=256)] = Field(
        2,
        json_schema_extra={"unit": "processes"},
        description="Image decoding processes per worker; 0 decodes in the worker itself (folder).",
    )

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> "Data":
        mean, std = ("null" if values is None else list(values) for values in (self.mean, self.std))
        if len(self.mean or ()) != len(self.std or ()) or () in (self.mean, self.std):
            raise FieldError(
                f"mean = {mean} with std = {std} is not allowed: give both with one value for each "
                f"channel, or neither"
            ).with_details("mean", self.mean, "as many values as std has")
        return self
