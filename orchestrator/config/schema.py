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

    weights: PathText | None = Field(
        None,
        description="Initial weights: a .safetensors file, or the name of torchvision weights.",
    )


class Training(Section):
    """Recipe of one training; `batch_size` is the total over the workers that share it."""

    epochs: Epochs = Field(12, description="Passes over the training part.")
    batch_size: BatchSize = Field(
        64, description="Samples of a step, over all workers of a student."
    )
    optimizer: Optimizer = Field(
        "sgd", description="Optimizer: sgd with momentum, or adamw with decoupled weight decay."
    )
    learning_rate: LearningRate = Field(
        0.05, description="Highest learning rate, reached after the warm-up."
    )
    momentum: Share = Field(0.9, description="Momentum of sgd.")
    nesterov: bool = Field(False, description="Use Nesterov momentum (sgd).")
    weight_decay: WeightDecay = Field(5e-4, description="Weight decay of the optimizer.")
    schedule: Schedule = Field(
        "cosine",
        description="Learning rate after the warm-up: constant, cosine to 0, or multi_step.",
    )
    milestones: Milestones = Field(
        (), description="Epochs after which multi_step multiplies the learning rate by gamma."
    )
    gamma: Gamma = Field(
        0.1, description="Factor of the learning rate at each milestone (multi_step)."
    )
    warmup_epochs: WarmupEpochs = Field(
        0.0, description="Linear rise of the learning rate at the start."
    )
    gradient_clip: Norm | None = Field(
        None, description="Largest norm of the gradient; null does not clip."
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the forward pass; auto is bfloat16 on a GPU that has it, "
        "float32 otherwise.",
    )
    eval_precision: Precision | None = Field(
        None,
        description="Precision of evaluations, with head and softmax in float32; null is that "
        "of training.",
    )
    sync_batch_norm: bool = Field(
        False,
        description="Compute batch normalisation over the batches of all workers; false uses the "
        "statistics of each worker, and those of the first worker in evaluations.",
    )
    channels_last: bool | None = Field(
        None, description="Memory format channels_last; null uses it for every network but the mlp."
    )
    compile: bool = Field(
        False,
        description="Compile student and teacher with torch.compile; needs a C++ compiler on a "
        "CPU.",
    )

    @model_validator(mode="after")
    def _schedules_fit(self) -> "Training":
        if self.schedule == "multi_step" and not self.milestones:
            message = (
                "milestones = [] is not allowed with schedule multi_step: give epochs "
                "such as [150, 180, 210]"
            )
            raise FieldError(message, field="milestones", value=(), allowed="one epoch or more")
        if self.warmup_epochs >= self.epochs:
            message = (
                f"warmup_epochs = {self.warmup_epochs} is not allowed: it must be below "
                f"epochs = {self.epochs}"
            )
            raise FieldError(
                message, field="warmup_epochs", value=self.warmup_epochs, allowed=(0, self.epochs)
            )
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
    cpus_per_worker: Cpus | None = Field(
        None, description="Value for the workers of this peer; null is that of resources."
    )
    gpus_per_worker: Gpus | None = Field(
        None, description="Value for the workers of this peer; null is that of resources."
    )
    threads_per_worker: Threads | None = Field(
        None, description="Value for the workers of this peer; null is that of resources."
    )


class Teacher(Section):
    """Teacher: trained here with `training`, or loaded from `network.weights`."""

    network: Network = Network.model_validate({"name": "mlp", "width": 256, "depth": 2})
    training: Training = Training(epochs=20)
    seed: Seed = Field(0, description="Seed of the teacher's weights, order of samples and views.")
    mode: Literal["auto", "cached", "online"] = Field(
        "auto",
        description="cached computes its outputs once per view and keeps them on disk, online "
        "at every "
        "step; auto is cached where that fits teacher.cache_gib.",
    )
    dtype: Literal["float16", "float32"] = Field(
        "float16", description="Type of the cached logits and features."
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the teacher's forward pass; auto is bfloat16 on a GPU that "
        "has it, float32 otherwise.",
    )
    cache: GivenPath | None = Field(
        None,
        description="Folder of the cache, which sweeps may share; null is in the store, and on "
        "a running "
        "cluster ~/.cache of each node.",
    )
    cache_gib: Gib = Field(
        20.0,
        description="Largest size of the cache folder; the least recently used arrays are removed.",
    )


class Search(Section):
    """Scope of a search. Settings under `method` are frozen; the rest of the space is searched."""

    methods: Names = Field(
        (), description="Methods that are searched; empty searches the one under `method`."
    )
    freeze: Names = Field(
        (),
        description="Keys of the search space that keep their configured value, such as "
        "training.learning_rate.",
    )
    trials: Trials = Field(20, description="Trials of the sweep; `--trials` overrides it.")
    time_budget: Seconds | None = Field(None, description="Time after which training ends.")
    scheduler: Scheduler = Field(
        "asha",
        description="asha and median stop weak trials while others train. hyperband compares "
        "trials in "
        "brackets that wait for each other; a resume rebuilds the brackets from unfinished "
        "trials. pbt copies strong trials into weak ones of the same method. none trains all.",
    )
    grace_epochs: Epochs = Field(
        2, description="Epochs before which no trial is stopped (asha, median)."
    )
    reduction_factor: Annotated[int, Field(ge=2, le=1000)] = Field(
        3, description="One of this many trials continues at each rung (asha, hyperband)."
    )
    keep_checkpoints: Trials = Field(
        5,
        description="Number of best trials that keep their weights. Trials on a Pareto front and "
        "unfinished trials keep theirs too.",
    )
    max_failed_trials: Trials | None = Field(
        5, description="Failed trials in a row that end the sweep; null sets no limit."
    )
    protect_initial_trials: bool = Field(
        True,
        description="Train the first points, which are the baselines, for all epochs (asha, "
        "median).",
    )
    perturb_epochs: Epochs = Field(
        5, description="Epochs between two comparisons of the population (pbt)."
    )
    quantile: Annotated[float, Field(gt=0, le=0.5)] = Field(
        0.25,
        description="Share of worst trials that copy the weights of the best share, within "
        "their own method (pbt).",
    )
    resample_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25,
        description="Probability that a continuous setting is drawn again instead of being "
        "multiplied by 0.8 or 1.2 (pbt).",
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="Sampler of Optuna: tpe (tree-structured Parzen estimator) or random."
    )
    objective: str = Field(
        "validation/accuracy",
        description="Metric that is optimized; its value after the last epoch counts.",
    )
    direction: Literal["maximize", "minimize"] = Field(
        "maximize", description="Direction of the objective."
    )
    objectives: Names = Field(
        (),
        description="Two or more metrics instead of search.objective, for a Pareto front; the "
        "best trial is the best by the first.",
    )
    extra_space: dict[str, Values] = Field(
        {}, description="Further keys to search, each with its values."
    )
    configurations: Points = Field(
        (),
        description="Settings of the trials, by name as a search draws them; with these "
        "nothing is searched.",
    )
    seeds: Seeds = Field(
        (),
        description="Seeds with which each of search.configurations is trained; empty uses `seed`.",
    )
    students: str = Field(
        "mean",
        description="Metrics of a trial with peers: the mean of the students, min (the worst "
        "student), or "
        "one student by its letter.",
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
            raise FieldError(
                f"{twice!r} is given with dots and in sections: keep one of them",
                value=twice,
                allowed="once",
            )
        return dict(leaves)


def _flat(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[Any, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield (f"{prefix}{name}" if prefix else name), value


class Resources(Section):
    """Resources of a run: groups of workers, each of which trains one trial at a time."""

    address: str | None = Field(
        None, description="Address of a running Ray cluster; null starts Ray on this machine."
    )
    workers: Workers = Field(
        1, description="Workers of a group, divided equally among the students of a trial."
    )
    peer_placement: Literal["actors", "colocated"] | None = Field(
        None,
        description="Placement of peers: actors in workers of their own, or colocated in one "
        "worker; null "
        "is colocated if resources.workers is 1.",
    )
    groups: Workers | None = Field(
        None,
        json_schema_extra={"unit": "groups"},
        description="Worker groups; null starts as many as fit.",
    )
    cpus_per_worker: Cpus = Field(1.0, description="Cores that each worker reserves.")
    threads_per_worker: Threads = Field(
        1,
        description="Threads of torch in each worker; more than its share of the cores slows "
        "all workers.",
    )
    gpus_per_worker: Gpus | None = Field(
        None, description="GPUs that each worker reserves; null is one if the cluster has GPUs."
    )
    influence_backend: Literal["actor", "inline"] = Field(
        "actor",
        description="Process that computes sample weights: an actor in parallel to training, "
        "or inline in the worker.",
    )
    influence_cpus: Cpus = Field(
        1.0, description="Cores that the influence actor of each student reserves."
    )
    influence_gpus: Gpus = Field(
        0.0, description="GPUs that each influence actor reserves; a fraction is allowed."
    )
    influence_gib: Gib = Field(
        2.0,
        description="Memory that the computation of sample weights may take, in addition to "
        "data and network.",
    )
    influence_wait_s: Seconds = Field(
        300.0,
        description="Longest wait for late sample weights; after it the worker computes them "
        "itself.",
    )
    retrieval: Literal["auto", "exact", "approximate"] = Field(
        "auto",
        description="Search for similar samples: exact, or approximate with faiss; auto is "
        "exact up to "
        "200,000 samples and on a GPU.",
    )
    max_failures: Annotated[int, Field(ge=0, le=1000)] = Field(
        2,
        description="Deaths of a worker, a group or a node after which a trial is retried; the "
        "next one fails it.",
    )
    heartbeat_warning_s: Seconds = Field(
        120.0,
        description="Time without a heartbeat of a trial after which a note says what the "
        "trial waits for.",
    )
    heartbeat_timeout_s: Seconds = Field(
        600.0,
        description="Longest wait for a heartbeat, a group or a file; after it the group is "
        "replaced, or the run ends.",
    )


class Tracking(Section):
    """Storage of runs; it holds no secret, because the configuration is stored with every run."""

    uri: str | None = Field(
        None,
        description="MLflow server or database, without credentials: these come from "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN. "
        "Null is SQLite in the store.",
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

    project: str = Field(
        "distillation", min_length=1, max_length=200, description="Experiment of MLflow."
    )
    seed: Seed = Field(0, description="Seed of weights, order of samples, views and search.")
    data: Data = Data()
    teacher: Teacher | None = Teacher()
    student: Network = Network.model_validate({"name": "mlp", "width": 16, "depth": 1})
    peers: dict[str, Peer] = Field(
        {}, description="Further students of a trial by letter: b, c, ...; `student` is a."
    )
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
            message = (
                f"{list(peers)} is not allowed: name the peers of student a in order, "
                f"{', '.join(wanted) or 'b'}"
            )
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
            found[letter] = Student(
                peer.network, Training.model_validate(self.training.model_dump() | own)
            )
        return found

    @property
    def colocated(self) -> bool:
        """Return whether one worker trains several students."""
        pair = self.resources.peer_placement or (
            "colocated" if self.resources.workers == 1 else "actors"
        )
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
