"""Define the section `data` of the configuration."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.config.fields import Choice as Choice
from orchestrator.config.fields import (
    Epochs,
    GivenPath,
    OpenShare,
    Samples,
    Seed,
    Share,
)
from orchestrator.config.fields import Section as Section
from orchestrator.core.errors import FieldError


class Limit(Section):
    """Number of samples to keep of each split, stratified; null keeps all."""

    train: Samples | None = Field(
        None, description="Training samples to keep, stratified; null keeps all."
    )
    validation: Samples | None = Field(
        None, description="Validation samples to keep, stratified; null keeps all."
    )
    test: Samples | None = Field(
        None, description="Test samples to keep, stratified; null keeps all."
    )


class Data(Section):
    """Data set, and the augmentation of its training images."""

    name: str = Field("digits", description="Data set: digits, a torchvision set, npz or folder.")
    path: GivenPath | None = Field(
        None,
        description="Path of the data: the file for npz, the root folder for folder and "
        "torchvision sets.",
    )
    download: bool = Field(False, description="Let torchvision download a set that is not on disk.")
    size: Annotated[int, Field(ge=4, le=4096)] | None = Field(
        None, description="Side of the square images that are cut from the files (folder)."
    )
    validation: OpenShare = Field(
        0.15, description="Share of the training part that is held out for validation."
    )
    limit: Limit = Limit()
    seed: Seed = Field(0, description="Seed of the split, the limits and the label noise.")
    label_noise: Share = Field(
        0.0, description="Share of the training labels that are replaced by another class."
    )
    labelled: Samples | None = Field(
        None,
        description="Training samples that keep their label, stratified; null keeps all labels.",
    )
    labelled_share: OpenShare = Field(
        0.25,
        description="Share of labelled samples in a batch, drawn with repetition; used with "
        "data.labelled only.",
    )
    validation_in_training: bool = Field(
        False,
        description="Train on the validation part too. This is the baseline for methods that "
        "weight "
        "samples by its labels; sweeps refuse it.",
    )
    augmentation: Literal["auto", "none", "crop", "crop_flip", "resized_crop_flip"] = Field(
        "auto",
        description="Augmentation of training images; auto chooses by the data set, and the "
        "plan gives the reason.",
    )
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None,
        description="Mean of each channel, subtracted from pixels in 0..1; null takes that of the "
        "training images (folder: of ImageNet).",
    )
    std: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="Standard deviation of each channel, given together with data.mean."
    )
    mixing: Literal["none", "mixup", "cutmix"] = Field(
        "none",
        description="Blend each training image with another image of its view, for students "
        "and the teacher.",
    )
    mix_alpha: Annotated[float, Field(ge=0.001, le=1000)] = Field(
        1.0,
        description="Parameter of the Beta(alpha, alpha) distribution that the share of an "
        "image is drawn from.",
    )
    views: Epochs | None = Field(
        None,
        json_schema_extra={"unit": "views"},
        description="Augmented versions of the training set; null makes one per epoch.",
    )
    on_device: bool | None = Field(
        None,
        description="Keep the arrays in the memory of the device; null does so on a GPU if "
        "they take at most a quarter of it.",
    )
    loader_workers: Annotated[int, Field(ge=0, le=256)] = Field(
        2,
        description="Processes that decode images for each worker; 0 decodes in the worker "
        "(folder).",
    )

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> "Data":
        mean, std = ("null" if values is None else list(values) for values in (self.mean, self.std))
        if len(self.mean or ()) != len(self.std or ()) or () in (self.mean, self.std):
            raise FieldError(
                f"mean = {mean} with std = {std} is not allowed: give both, one value for each "
                f"channel, or neither",
                field="mean",
                value=self.mean,
                allowed="as many values as std has",
            )
        return self
