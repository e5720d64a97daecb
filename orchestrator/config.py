"""The configuration of a run: typed, frozen, validated. Knows no torch, ray, mlflow or optuna.

Defaults < file < `--set key=value`. The resolved form is plain JSON and is stored with every run.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.errors import ConfigurationError, nearest

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Scheduler = Literal["asha", "hyperband", "median", "pbt", "none"]
PAUSING = ("hyperband", "pbt")  # schedulers under which trials wait for one another
CHOICES = (["method", "name"], ["student", "name"], ["teacher", "network", "name"])


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _on_top_of_defaults(cls, values: Any) -> Any:
        """A section that is given in part keeps the rest of its default; a choice that is named anew does not."""
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            given, default = values.get(name), field.default
            if isinstance(given, dict) and isinstance(default, Section) and not (isinstance(default, Choice) and "name" in given):
                merged[name] = default.model_dump(exclude_unset=True) | given
        return merged

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_type(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {getattr(kind, "__origin__", kind) for kind in (annotation, *get_args(annotation))}
        if kinds & {int, float} and isinstance(value, bool | str):
            raise PydanticCustomError("number", "input should be a number")
        if bool in kinds and not isinstance(value, bool | None):
            raise PydanticCustomError("truth", "input should be true or false")
        return value


class Choice(Section):
    """A name with settings of its own, which the thing that is named validates."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were given, without the name and the fields that every choice has."""
        return dict(self.model_extra or {})


class Limit(Section):
    """How many samples to keep of each split, stratified; null keeps all."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class Data(Section):
    """What is learned, and how its training images are varied."""

    name: str = Field("digits", description="digits, a torchvision set, npz or folder")
    path: Path | None = Field(None, description="npz: the file; folder and torchvision sets: the root folder")
    download: bool = Field(False, description="let torchvision download a set that is not on disk")
    size: Annotated[int, Field(ge=4)] | None = Field(None, description="folder: side in pixels of the images that are cut")
    validation: Annotated[float, Field(gt=0, lt=1)] = Field(0.15, description="share of the training part held out for validation")
    limit: Limit = Limit()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of the split, the limits and the label noise")
    label_noise: Share = Field(0.0, description="share of training labels flipped to another class, seeded")
    augmentation: Literal["auto", "none", "crop", "crop_flip", "resized_crop_flip"] = Field(
        "auto", description="auto takes what is usual for the data set"
    )
    mix: Literal["none", "mixup", "cutmix"] = Field(
        "none", description="blend each training image with another one of its view; the teacher is fitted so too"
    )
    mix_alpha: Annotated[float, Field(gt=0)] = Field(
        1.0, description="of the Beta(alpha, alpha) that an image's own share is drawn from"
    )
    views: Count | None = Field(None, description="different augmented versions of the training set; null: one per epoch")
    resident: bool | None = Field(
        None, description="arrays in the device's memory; null: on a GPU of which they take a quarter at most"
    )
    loader_workers: Annotated[int, Field(ge=0)] = Field(2, description="folder: processes that decode images, per worker")


class Network(Choice):
    """A network by name, with its settings (mlp: width, depth; cnn: width)."""

    weights: str | None = Field(None, description="a .safetensors file, or the name of torchvision weights")


class Training(Section):
    """The recipe of one training; `batch_size` is that of all workers of a group together."""

    epochs: Count = 12
    batch_size: Count = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["constant", "cosine", "multi_step"] = "cosine"
    milestones: tuple[Count, ...] = Field((), description="multi_step: epochs after which the rate is multiplied by gamma")
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    gradient_clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest norm of the gradient")
    precision: Precision = Field("auto", description="auto: bfloat16 on a GPU that has it")
    channels_last: bool | None = Field(None, description="null: for every network but the mlp")
    compile: bool = Field(False, description="torch.compile for the student and the teacher; needs a C++ compiler on a CPU")

    @model_validator(mode="after")
    def _schedules_fit(self) -> "Training":
        if self.schedule == "multi_step" and not self.milestones:
            raise ValueError("milestones = [] is not allowed with schedule multi_step: give epochs such as [150, 180, 210]")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} is not allowed: it must be below epochs = {self.epochs}")
        return self


class Teacher(Section):
    """Who is listened to: fitted here by `training`, or loaded from `network.weights`."""

    network: Network = Network.model_validate({"name": "mlp", "width": 256, "depth": 2})
    training: Training = Training(epochs=20)
    seed: Annotated[int, Field(ge=0)] = 0
    mode: Literal["auto", "cached", "online"] = Field(
        "auto", description="cached: one pass per view, kept on disk; online: at every step; auto: cached where that fits cache_gib"
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="of the cached logits and features")
    precision: Precision = Field("auto", description="of its forward; auto: bfloat16 on a GPU that has it")
    cache: Path | None = Field(
        None, description="folder of the cache, may be shared; null: in the store, on a running cluster ~/.cache of each node"
    )
    cache_gib: Annotated[float, Field(gt=0)] = Field(
        20.0, description="largest size of the cache folder; the least recently used goes"
    )


class Search(Section):
    """What is searched and how much. Settings given under `method` are held; the rest of its space is searched."""

    methods: tuple[str, ...] = Field((), description="search over these methods too; empty: the one under `method`")
    hold: tuple[str, ...] = Field((), description="keys that are not searched although a space would: training.learning_rate")
    trials: Count = 20
    time_budget: Annotated[float, Field(gt=0)] | None = Field(None, description="seconds after which no more is trained")
    scheduler: Scheduler = Field(
        "asha",
        description="asha, median: stop the poor while others train; hyperband: in brackets that wait for one another (a resume "
        "builds them anew from what is unfinished); pbt: the poor take over from the good of their own method; none: train all",
    )
    grace_epochs: Count = Field(2, description="asha, median: no trial is stopped before")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(3, description="asha, hyperband: one of so many goes on at each rung")
    finish_points: bool = Field(
        True,
        description="asha, median: the first points, which are the baselines, train all their epochs; no meaning for the others",
    )
    perturb_epochs: Count = Field(5, description="pbt: after every so many epochs the population is compared")
    quantile: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.25, description="pbt: the worst share takes over from the best share, each from one of its own method or from nobody"
    )
    resample_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="pbt: chance that a continuous setting is drawn anew; else it is multiplied by 0.8 or 1.2"
    )
    sampler: Literal["tpe", "random"] = "tpe"
    objective: str = Field("validation/accuracy", description="metric of an epoch's report; the last epoch counts")
    direction: Literal["maximize", "minimize"] = "maximize"


class Resources(Section):
    """Where it runs: groups of workers, each of which trains one trial at a time."""

    address: str | None = Field(None, description="of a running Ray cluster; null starts Ray here")
    workers: Count = Field(1, description="DDP workers per group")
    groups: Count | None = Field(None, description="null: as many as fit")
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    threads_per_worker: Count = Field(
        1, description="threads of torch; more than a worker's share of the cores makes all of them slow"
    )
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = Field(None, description="null: one where the cluster has GPUs")
    max_failures: Annotated[int, Field(ge=0)] = Field(2, description="worker deaths after which a trial is given up")
    wait_s: Annotated[float, Field(gt=0)] = Field(
        600.0, description="longest wait for a report, a group or a file before giving up"
    )


class Tracking(Section):
    """Where runs are written."""

    uri: str | None = Field(None, description="an MLflow server; null: SQLite in the store")


class Configuration(Section):
    """Everything that decides a run."""

    project: str = Field("distillation", min_length=1, description="MLflow's experiment")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data = Data()
    teacher: Teacher | None = Teacher()
    student: Network = Network.model_validate({"name": "mlp", "width": 16, "depth": 1})
    method: Choice = Choice(name="kd")
    training: Training = Training()
    search: Search = Search()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()

    def plain(self) -> dict[str, Any]:
        """The resolved configuration as JSON values."""
        return self.model_dump(mode="json")


def load(file: Path | None, overrides: list[str], **top: Any) -> Configuration:
    """The configuration from a YAML file (None: the defaults), `--set` pairs, and top-level values that are not None."""
    values = _read(file) if file else {}
    for pair in sorted(overrides, key=lambda pair: pair.partition("=")[0].split(".") not in CHOICES):  # names come first
        _apply(values, pair)
    values.update({key: value for key, value in top.items() if value is not None})
    return build(values)


def build(values: dict[str, Any]) -> Configuration:
    """A configuration from plain values; ConfigurationError says in one sentence what does not fit."""
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from error


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number: YAML 1.1 reads it as text, and a person means the number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def _parse(text: str) -> Any:
    """Plain values; yaml.YAMLError or, for a date that does not exist, ValueError."""
    return _Loader(text).get_single_data()


def _read(file: Path) -> dict[str, Any]:
    try:
        values = _parse(file.read_text())
    except OSError as error:
        raise ConfigurationError(f"--config {file} cannot be read ({error.strerror}): give the path of a YAML file") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"--config {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict | None):
        raise ConfigurationError(f"--config {file} holds a {type(values).__name__}: give keys such as `data:` and `method:`")
    return values or {}


def _apply(values: dict[str, Any], pair: str) -> None:
    key, equals, text = pair.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigurationError(f"--set {pair} is not of the form key=value: write for example --set method.temperature=4")
    try:
        value = _parse(text) if text else None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"--set {pair}: the value is not YAML; quote it") from error
    for name in path[:-1]:
        inner = values.get(name)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigurationError(f"--set {pair}: {name} is {inner!r}, which has no keys below it")
        values[name] = inner = {} if inner is None else inner
        values = inner
    if path in CHOICES and values.get("name", value) != value:
        values.clear()  # the settings of the file are those of what it named
    values[path[-1]] = value


def _sentence(error: ValidationError) -> str:
    """The first thing wrong, as: field = value is not allowed: what is, and the next step."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"there is no key {path!r}: {nearest(str(first['loc'][-1]), _keys(first['loc'][:-1]))}{more}"
    if first["type"] == "missing":
        return f"{path} is missing: give it in the file or with --set {path}=...{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{path}: {message}{more}"
    return f"{path} = {first['input']!r} is not allowed: {message[0].lower()}{message[1:]}{more}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Configuration
    for part in location:
        annotation = section.model_fields[part].annotation if part in section.model_fields else Section
        choices = [annotation, *getattr(annotation, "__args__", ())]
        section = next(choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel))
    return list(section.model_fields)
