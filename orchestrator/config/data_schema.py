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

    train: Samples | None = Field(None, description="training samples that are kept, stratified; null: all")
    validation: Samples | None = Field(None, description="validation samples that are kept, stratified; null: all")
    test: Samples | None = Field(None, description="test samples that are kept, stratified; null: all")


class Data(Section):
    """Data set, and the augmentation of its training images."""

    name: str = Field("digits", description="digits, a torchvision set, npz or folder")
    path: GivenPath | None = Field(None, description="npz: the file; folder and torchvision sets: the root folder")
    download: bool = Field(False, description="let torchvision download a set that is not on disk")
    size: Annotated[int, Field(ge=4, le=4096)] | None = Field(None, description="folder: side in pixels of the images that are cut")
    validation: OpenShare = Field(0.15, description="share of the training part held out for validation")
    limit: Limit = Limit()
    seed: Seed = Field(0, description="of the split, the limits and the label noise")
    label_noise: Share = Field(0.0, description="share of training labels flipped to another class, seeded")
    labelled: Samples | None = Field(
        None, description="training samples that keep their label, stratified; the others are unlabelled. null: all"
    )
    labelled_share: OpenShare = Field(
        0.25, description="labelled: share of every batch that has labels, drawn again and again; no meaning where all have"
    )
    validation_in_training: bool = Field(
        False,
        description="train on the validation part too: the baseline that has the labels which others weigh by; not for sweeps",
    )
    augmentation: Literal["auto", "none", "crop", "crop_flip", "resized_crop_flip"] = Field(
        "auto", description="auto: by the data set, as the plan says with the reason; npz: none"
    )
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None, description="of each channel, subtracted from pixels in 0..1; null: of the training images, folder: ImageNet's"
    )
    std: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="of each channel, by which the rest is divided; null as for mean, with which it is given"
    )
    mixing: Literal["none", "mixup", "cutmix"] = Field(
        "none", description="blend each training image with another one of its view; the teacher is fitted so too"
    )
    mix_alpha: Annotated[float, Field(ge=0.001, le=1000)] = Field(
        1.0, description="of the Beta(alpha, alpha) that an image's own share is drawn from"
    )
    views: Epochs | None = Field(
        None, json_schema_extra={"unit": "views"}, description="augmented versions of the training set; null: one per epoch"
    )
    on_device: bool | None = Field(
        None, description="arrays in the device's memory; null: on a GPU of which they take a quarter at most"
    )
    loader_workers: Annotated[int, Field(ge=0, le=256)] = Field(2, description="folder: decoding processes of a worker; 0: itself")

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> "Data":
        mean, std = ("null" if values is None else list(values) for values in (self.mean, self.std))
        if len(self.mean or ()) != len(self.std or ()) or () in (self.mean, self.std):
            raise FieldError(
                f"mean = {mean} with std = {std} is not allowed: give both, one value for each channel, or neither",
                field="mean",
                value=self.mean,
                allowed="as many values as std has",
            )
        return self
