"""Define the configuration of a run: typed, frozen, validated.

The module `loader.py` builds it from a file.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from orchestrator.config.data_schema import Data
from orchestrator.config.fields import (
    BatchSize,
    Cpus,
    Epochs,
    Gamma,
    Gib,
    GivenPath,
    Gpus,
    LearningRate,
    Milestones,
    Names,
    Norm,
    PathText,
    Points,
    Seconds,
    Seed,
    Seeds,
    Share,
    Threads,
    Trials,
    Values,
    WarmupEpochs,
    WeightDecay,
    Workers,
)
from orchestrator.config.fields import Choice as Choice
from orchestrator.config.fields import Section as Section
from orchestrator.config.uris import require_tracking
from orchestrator.core.errors import FieldError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "cosine", "multi_step"]
Scheduler = Literal["asha", "hyperband", "median", "pbt", "none"]
PAUSING = ("hyperband", "pbt")  # schedulers that pause trials until others catch up
LETTERS = "abcdefgh"  # letters of the students of a trial


class Network(Choice):
    """Network by name, with its settings (mlp: width, depth; cnn: width)."""

    weights: PathText | None = Field(None, description="a .safetensors file, or the name of torchvision weights")


class Training(Section):
    """Recipe of one training; `batch_size` is the total over the workers that share it."""

    epochs: Epochs = Field(12, description="passes over the training part")
    batch_size: BatchSize = Field(64, description="samples of a step, over all workers of a student")
    optimizer: Optimizer = Field("sgd", description="sgd: with momentum; adamw: with decoupled weight decay")
    learning_rate: LearningRate = Field(0.05, description="highest learning rate, after the warm-up")
    momentum: Share = Field(0.9, description="sgd: momentum; adamw does not use it")
    nesterov: bool = Field(False, description="sgd: Nesterov momentum; adamw does not use it")
    weight_decay: WeightDecay = Field(5e-4, description="weight decay of the optimizer")
    schedule: Schedule = Field("cosine", description="learning rate after the warm-up: constant, cosine to 0, or multi_step")
    milestones: Milestones = Field((), description="multi_step: epochs below `epochs` after which the rate is multiplied by gamma")
    gamma: Gamma = Field(0.1, description="multi_step: factor of the learning rate at each milestone")
    warmup_epochs: WarmupEpochs = Field(0.0, description="linear rise of the learning rate at the start")
    gradient_clip: Norm | None = Field(None, description="largest norm of the gradient")
    precision: Precision = Field("auto", description="auto: bfloat16 on a GPU that has it")
    eval_precision: Precision | None = Field(
        None, description="of evaluations, in which the head and the softmax are in float32 in any case; null: as precision"
    )
    sync_batch_norm: bool = Field(
        False,
        description="several workers: batch norm over the batches of all of them, as one worker has it; false: each has the "
        "statistics of its own part, and evaluations have the running ones of the first worker",
    )
    channels_last: bool | None = Field(None, description="null: for every network but the mlp")
    compile: bool = Field(False, description="torch.compile for the student and the teacher; needs a C++ compiler on a CPU")

    @model_validator(mode="after")
    def _schedules_fit(self) -> "Training":
        if self.schedule == "multi_step" and not self.milestones:
            message = "milestones = [] is not allowed with schedule multi_step: give epochs such as [150, 180, 210]"
            raise FieldError(message, field="milestones", value=(), allowed="one epoch or more")
        if self.warmup_epochs >= self.epochs:
            message = f"warmup_epochs = {self.warmup_epochs} is not allowed: it must be below epochs = {self.epochs}"
            raise FieldError(message, field="warmup_epochs", value=self.warmup_epochs, allowed=(0, self.epochs))
        return self


class PeerTraining(Section):
    """Overrides of `training` for a peer; null inherits. All students share epochs and batches."""

    optimizer: Optimizer | None = None
    learning_rate: LearningRate | None = None
    momentum: Share | None = None
    nesterov: bool | None = None
    weight_decay: WeightDecay | None = None
    schedule: Schedule | None = None
    milestones: Milestones | None = None
    gamma: Gamma | None = None
    warmup_epochs: WarmupEpochs | None = None
    gradient_clip: Norm | None = None


class Peer(Section):
    """Student trained with `student` on the same batches; the method defines peer learning."""

    network: Network
    training: PeerTraining = PeerTraining()
    cpus_per_worker: Cpus | None = Field(None, description="of its workers; null: as resources has it")
    gpus_per_worker: Gpus | None = Field(None, description="of its workers; null: as resources has it")
    threads_per_worker: Threads | None = Field(None, description="of its workers; null: as resources has it")


class Teacher(Section):
    """Teacher: trained here with `training`, or loaded from `network.weights`."""

    network: Network = Network.model_validate({"name": "mlp", "width": 256, "depth": 2})
    training: Training = Training(epochs=20)
    seed: Seed = Field(0, description="of the teacher's weights, order of samples and views")
    mode: Literal["auto", "cached", "online"] = Field(
        "auto", description="cached: one pass per view, kept on disk; online: at every step; auto: cached where that fits cache_gib"
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="of the cached logits and features")
    precision: Precision = Field("auto", description="of its forward; auto: bfloat16 on a GPU that has it")
    cache: GivenPath | None = Field(
        None, description="folder of the cache, may be shared; null: in the store, on a running cluster ~/.cache of each node"
    )
    cache_gib: Gib = Field(20.0, description="largest size of the cache folder; the least recently used goes")


class Search(Section):
    """Scope of a search. Settings under `method` are frozen; the rest of the space is searched."""

    methods: Names = Field((), description="search over these methods too; empty: the one under `method`")
    freeze: Names = Field((), description="keys that are not searched although a space would: training.learning_rate")
    trials: Trials = Field(20, description="trials of the sweep; `--trials` overrides it")
    time_budget: Seconds | None = Field(None, description="seconds after which no more is trained")
    scheduler: Scheduler = Field(
        "asha",
        description="asha, median: stop the poor while others train; hyperband: in brackets that wait for one another (a resume "
        "builds them anew from what is unfinished); pbt: the poor take over from the good of their own method; none: train all",
    )
    grace_epochs: Epochs = Field(2, description="asha, median: no trial is stopped before")
    reduction_factor: Annotated[int, Field(ge=2, le=1000)] = Field(
        3, description="asha, hyperband: one of so many goes on at each rung"
    )
    keep_checkpoints: Trials = Field(
        5,
        description="so many best trials keep their weights, as does what is on a Pareto front or may be gone on with; "
        "the others lose theirs as the sweep goes",
    )
    max_failed_trials: Trials | None = Field(5, description="failed trials in a row that end the sweep; null: no limit")
    protect_initial_trials: bool = Field(
        True,
        description="asha, median: the first points, which are the baselines, train all their epochs; no meaning for the others",
    )
    perturb_epochs: Epochs = Field(5, description="pbt: after every so many epochs the population is compared")
    quantile: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.25, description="pbt: the worst share takes over from the best share, each from one of its own method or from nobody"
    )
    resample_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="pbt: chance that a continuous setting is drawn anew; else it is multiplied by 0.8 or 1.2"
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="tpe: tree-structured Parzen estimator; random: random draws")
    objective: str = Field("validation/accuracy", description="metric of an epoch's report; the last epoch counts")
    direction: Literal["maximize", "minimize"] = Field("maximize", description="direction of objective")
    objectives: Names = Field(
        (), description="two or more instead of objective: a Pareto front; what is called best is so by the first"
    )
    extra_space: dict[str, Values] = Field({}, description="keys to search beside the space, each with its values")
    configurations: Points = Field(
        (), description="nothing is searched: trials with just these settings, each as a search would draw them by name"
    )
    seeds: Seeds = Field((), description="configurations: each of them is trained with each of these seeds; empty: with `seed`")
    students: str = Field(
        "mean", description="peers: whose metrics are the trial's: mean of the students, min (the worst one), or one by its letter"
    )

    @field_validator("extra_space", mode="before")
    @classmethod
    def _keys_with_dots(cls, value: Any) -> Any:
        """Join nested keys with dots.

        `--set search.extra_space.student.width=[8, 16]` makes sections of the key's parts.
        """
        if not isinstance(value, dict):
            return value
        leaves = list(_flat(value))
        keys = [key for key, _ in leaves]
        if twice := next((key for place, key in enumerate(keys) if key in keys[:place]), None):
            raise FieldError(f"{twice!r} is given with dots and in sections: keep one of them", value=twice, allowed="once")
        return dict(leaves)


def _flat(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[Any, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield (f"{prefix}{name}" if prefix else name), value


class Resources(Section):
    """Resources of a run: groups of workers, each of which trains one trial at a time."""

    address: str | None = Field(None, description="of a running Ray cluster; null starts Ray here")
    workers: Workers = Field(
        1, description="of a group, all students together; every student has equally many, which are its replicas"
    )
    peer_placement: Literal["actors", "colocated"] | None = Field(
        None, description="peers: actors, workers of their own; colocated, all in one worker; null: colocated where workers is 1"
    )
    groups: Workers | None = Field(None, json_schema_extra={"unit": "groups"}, description="null: as many as fit")
    cpus_per_worker: Cpus = Field(1.0, description="cores that each worker reserves")
    threads_per_worker: Threads = Field(
        1, description="threads of torch; more than a worker's share of the cores makes all of them slow"
    )
    gpus_per_worker: Gpus | None = Field(None, description="null: one where the cluster has GPUs")
    influence_backend: Literal["actor", "inline"] = Field(
        "actor",
        description="who computes the weights of samples, if the method has any: an actor beside the trainer, or the worker itself",
    )
    influence_cpus: Cpus = Field(1.0, description="of the influence actor of each student")
    influence_gpus: Gpus = Field(0.0, description="of the influence actor; a part of one will do")
    influence_gib: Gib = Field(2.0, description="memory that finding the weights may take beside data and network")
    influence_wait_s: Seconds = Field(
        300.0, description="longest wait for weights that are late; then the worker computes them itself"
    )
    retrieval: Literal["auto", "exact", "approximate"] = Field(
        "auto",
        description="how similar samples are found by what a teacher says, where a method retrieves any: exact; approximate, by "
        "faiss; auto: exact up to 200,000 samples, and on a GPU",
    )
    max_failures: Annotated[int, Field(ge=0, le=1000)] = Field(
        2, description="deaths of a worker, a group or a node that a trial outlives; with the next one it has failed"
    )
    heartbeat_warning_s: Seconds = Field(
        120.0, description="seconds without a sign of life of a trial after which it is said what it waits for"
    )
    heartbeat_timeout_s: Seconds = Field(
        600.0,
        description="longest wait for a sign of life, a group or a file: then the trial's group is replaced, or the wait given up",
    )


class Tracking(Section):
    """Storage of runs; it holds no secret, because the configuration is stored with every run."""

    uri: str | None = Field(
        None,
        description="an MLflow server or database, without credentials: those come from MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; null: SQLite in the store",
    )

    @field_validator("uri")
    @classmethod
    def _an_address_without_secrets(cls, uri: str | None) -> str | None:
        if uri is not None:
            require_tracking(uri)
        return uri


class Student(NamedTuple):
    """Network and recipe of one student of a trial."""

    network: Network
    training: Training


class Configuration(Section):
    """Complete configuration of a run."""

    project: str = Field("distillation", min_length=1, max_length=200, description="MLflow's experiment")
    seed: Seed = Field(0, description="of weights, order of samples, views and search")
    data: Data = Data()
    teacher: Teacher | None = Teacher()
    student: Network = Network.model_validate({"name": "mlp", "width": 16, "depth": 1})
    peers: dict[str, Peer] = Field({}, description="students beside `student`, which is a, by their letters: b, c, ...")
    method: Choice = Choice(name="kd")
    training: Training = Training()
    search: Search = Search()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    _yielded: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def yielded(self) -> dict[str, str]:
        """Return a message, by key, for each value that a value with precedence has replaced.

        A value yields to a conflicting one of higher precedence: defaults < file < command line.
        """
        return dict(self._yielded)

    def noting(self, yielded: Mapping[str, str]) -> "Configuration":
        """Return a copy of the configuration with these messages as `yielded`."""
        copy = self.model_copy()
        copy._yielded = dict(yielded)
        return copy

    @field_validator("peers")
    @classmethod
    def _letters_in_order(cls, peers: dict[str, Peer]) -> dict[str, Peer]:
        wanted = list(LETTERS[1 : len(peers) + 1])
        if sorted(peers) != wanted:
            message = f"{list(peers)} is not allowed: name the peers of student a in order, {', '.join(wanted) or 'b'}"
            raise FieldError(message, value=tuple(peers), allowed=tuple(wanted))
        return dict(sorted(peers.items()))

    @model_validator(mode="after")
    def _recipes_fit(self) -> "Configuration":
        for letter in self.peers:
            try:
                _ = self.students[letter]
            except ValidationError as error:
                first, section = error.errors(include_url=False)[0], f"peers.{letter}.training"
                message = first["msg"].removeprefix("Value error, ")
                cause = first.get("ctx", {}).get("error", error)
                raise FieldError.from_error(cause, f"{section}: {message}", section) from error
        return self

    @property
    def students(self) -> dict[str, Student]:
        """Return all students by their letters, each with its own recipe."""
        found = {"a": Student(self.student, self.training)}
        for letter, peer in self.peers.items():
            own = {name: value for name, value in peer.training if value is not None}
            found[letter] = Student(peer.network, Training.model_validate(self.training.model_dump() | own))
        return found

    @property
    def colocated(self) -> bool:
        """Return whether one worker trains several students."""
        pair = self.resources.peer_placement or ("colocated" if self.resources.workers == 1 else "actors")
        return bool(self.peers) and pair == "colocated"

    def threads(self, letter: str) -> int:
        """Return the threads of the workers that train a student.

        If one worker trains several students, pass student a.
        """
        own = self.peers[letter].threads_per_worker if letter in self.peers else None
        return own or self.resources.threads_per_worker

    @property
    def replicas(self) -> int:
        """Return the number of workers that train one student together."""
        return 1 if self.colocated else self.resources.workers // (1 + len(self.peers))

    def plain(self) -> dict[str, Any]:
        """Return the resolved configuration as JSON values."""
        return self.model_dump(mode="json")
