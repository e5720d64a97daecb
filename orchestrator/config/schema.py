"""Define the configuration of a run: typed, frozen, validated.

The module `loader.py` builds it from a file.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from orchestrator.config.data_schema import Data
from orchestrator.config.ensemble_schema import MOST_TEACHERS, Ensemble, check_teachers
from orchestrator.config.fields import (
    BatchSize,
    Classes,
    Cpus,
    Epochs,
    Gamma,
    Gib,
    GivenPath,
    Gpus,
    LearningRate,
    Milestones,
    Norm,
    Seconds,
    Seed,
    Share,
    Threads,
    WarmupEpochs,
    WeightDecay,
    Workers,
    make_overrides,
)
from orchestrator.config.fields import Choice as Choice
from orchestrator.config.fields import Section as Section
from orchestrator.config.network_schema import Network as Network
from orchestrator.config.search_schema import Search as Search
from orchestrator.config.tracking_schema import Tracking
from orchestrator.core.errors import FieldError
from orchestrator.core.text import quote

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "cosine", "multi_step"]
Compile = Literal[False, True, "step"]
PAUSING = ("hyperband", "pbt")  # schedulers that pause trials until others catch up
LETTERS = "abcdefgh"  # letters of the students of a trial


class Training(Section):
    """Training recipe of one network: optimizer, schedule, batch size and precision."""

    epochs: Epochs = Field(12, description="Number of passes over the training set.")
    patience: Epochs | None = Field(
        None,
        description="End after this many epochs without a higher validation accuracy of any "
        "student, on the schedule of all epochs; null trains all epochs.",
    )
    batch_size: BatchSize = Field(
        64,
        description="Global batch size: samples per step, divided among the workers of a student.",
    )
    optimizer: Optimizer = Field(
        "sgd", description="Optimizer: sgd (with momentum) or adamw (decoupled weight decay)."
    )
    learning_rate: LearningRate = Field(
        0.05, description="Peak learning rate, reached after the warm-up."
    )
    momentum: Share = Field(0.9, description="Momentum factor of sgd.")
    nesterov: bool = Field(False, description="Use Nesterov momentum (sgd).")
    weight_decay: WeightDecay = Field(
        5e-4, description="Weight decay coefficient of the optimizer."
    )
    schedule: Schedule = Field(
        "cosine",
        description="Schedule after the warm-up: constant, cosine (decay to 0) or multi_step.",
    )
    milestones: Milestones = Field(
        (), description="Epochs after which multi_step multiplies the learning rate by gamma."
    )
    gamma: Gamma = Field(
        0.1, description="Factor that multiplies the learning rate at each milestone (multi_step)."
    )
    warmup_epochs: WarmupEpochs = Field(
        0.0, description="Length of the linear learning rate warm-up; fractions are allowed."
    )
    gradient_clip: Norm | None = Field(
        None, description="Maximum L2 norm of the gradient; null disables clipping."
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the forward pass; auto is bfloat16 on a GPU that supports it, "
        "else float32.",
    )
    eval_precision: Precision | None = Field(
        None,
        description="Precision of evaluations, with head and softmax in float32; null uses "
        "training.precision.",
    )
    sync_batch_norm: bool = Field(
        False,
        description="Synchronize batch normalisation statistics over all workers; with false each "
        "worker uses its own, and evaluations use those of the first worker.",
    )
    channels_last: bool | None = Field(
        None, description="Use the channels_last memory format; null uses it for all but mlp."
    )
    compile: Compile = Field(
        False,
        description="Compile with torch.compile; on a CPU this needs a C++ compiler. true: student "
        "and teacher; step: also the student's training step up to the loss as one function, with "
        "CUDA graphs on a GPU. It is compiled again for each value of the method's settings.",
    )

    @model_validator(mode="after")
    def _check_schedule(self) -> "Training":
        if self.schedule == "multi_step" and not self.milestones:
            message = (
                "milestones = [] is not allowed with schedule = multi_step: give one epoch or "
                "more, for example [150, 180, 210]"
            )
            raise FieldError(message).with_details("milestones", (), "one epoch or more")
        if self.warmup_epochs >= self.epochs:
            message = (
                f"warmup_epochs = {self.warmup_epochs} is not allowed: give a number less than "
                f"epochs = {self.epochs}"
            )
            raise FieldError(message).with_details(
                "warmup_epochs", self.warmup_epochs, (0, self.epochs)
            )
        return self


_TrainingOverrides: Any = make_overrides(
    Training,
    *("optimizer", "learning_rate", "momentum", "nesterov", "weight_decay"),
    *("schedule", "milestones", "gamma", "warmup_epochs", "gradient_clip"),
)


class PeerTraining(_TrainingOverrides):
    """Overrides of `training` for a peer; all students share epochs and batches."""


class Peer(Section):
    """Peer: a student that is trained together with `student` on the same batches."""

    network: Network
    training: PeerTraining = PeerTraining()
    cpus_per_worker: Cpus | None = Field(
        None, description="CPU cores per worker of this peer; null inherits from resources."
    )
    gpus_per_worker: Gpus | None = Field(
        None, description="GPUs per worker of this peer; null inherits from resources."
    )
    threads_per_worker: Threads | None = Field(
        None, description="Torch threads per worker of this peer; null inherits from resources."
    )


class Teacher(Section):
    """Teacher, trained by this program or loaded from `teacher.network.weights`; null for none."""

    network: Network = Network.model_validate({"name": "mlp", "width": 256, "depth": 2})
    training: Training = Training(epochs=20)
    seed: Seed = Field(
        0, description="Random seed of the teacher's weights, sample order and augmentation."
    )
    mode: Literal["auto", "cached", "online"] = Field(
        "auto",
        description="cached computes the outputs once per view and stores them on disk; online "
        "computes them at every step; auto is cached if the outputs fit into teacher.cache_gib.",
    )
    dtype: Literal["float16", "float32"] = Field(
        "float16", description="Data type of the cached logits, features and feature maps."
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the teacher's forward pass; auto is bfloat16 on a GPU that "
        "supports it, else float32.",
    )
    cache: GivenPath | None = Field(
        None,
        description="Cache folder, which sweeps may share; null is a folder in the store, or in "
        "~/.cache of each node on a running cluster.",
    )
    cache_gib: Gib = Field(
        20.0,
        description="Maximum size of the cache folder; the least recently used arrays are evicted.",
    )
    classes: Classes | None = Field(
        None,
        description="The class of teacher.network.weights that corresponds to each class of the "
        "data, in their order: its position in the logits, or its name if the weights name their "
        "classes. The teacher's logits are restricted to these. Null if the classes are the same.",
    )

    @model_validator(mode="after")
    def _check_classes(self) -> "Teacher":
        if self.classes is not None and not self.network.weights:
            message = (
                f"classes = {quote(list(self.classes))} is not allowed for a teacher that is "
                f"trained here, as it has the classes of the data: set teacher.network.weights too"
            )
            raise FieldError(message).with_details("classes", self.classes, None)
        return self


class Resources(Section):
    """Resources of a run; each worker group trains one trial at a time."""

    address: str | None = Field(
        None,
        description="Address (host:port) of a running Ray cluster, auto for the one on this "
        "machine, or local to start Ray here; null is RAY_ADDRESS if it is set, else local.",
    )
    workers: Workers = Field(
        1, description="Number of workers per group, divided equally among the students of a trial."
    )
    peer_placement: Literal["actors", "colocated"] | None = Field(
        None,
        description="Placement of peers: actors (separate workers) or colocated (all students in "
        "one worker); null is colocated if resources.workers is 1, else actors.",
    )
    groups: Workers | None = Field(
        None,
        json_schema_extra={"unit": "groups"},
        description="Number of worker groups; null starts as many as fit the resources.",
    )
    cpus_per_worker: Cpus = Field(1.0, description="CPU cores reserved per worker.")
    threads_per_worker: Threads = Field(
        1,
        description="Torch threads per worker; more threads than reserved cores slow down all "
        "workers.",
    )
    gpus_per_worker: Gpus | None = Field(
        None, description="GPUs reserved per worker; null is 1 if the cluster has GPUs, else 0."
    )
    influence_backend: Literal["actor", "inline"] = Field(
        "actor",
        description="Process that computes sample weights: actor (a Ray actor, in parallel to "
        "training) or inline (the worker itself).",
    )
    influence_cpus: Cpus = Field(
        1.0, description="CPU cores reserved per influence actor; each student has one."
    )
    influence_gpus: Gpus = Field(
        0.0, description="GPUs reserved per influence actor; fractions are allowed."
    )
    influence_gib: Gib = Field(
        2.0,
        description="Maximum memory for the computation of sample weights, in addition to the data "
        "and the network.",
    )
    influence_wait_s: Seconds = Field(
        300.0,
        description="Timeout for sample weights from the influence actor; after it the worker "
        "computes them itself.",
    )
    retrieval: Literal["auto", "exact", "approximate"] = Field(
        "auto",
        description="Nearest-neighbour search: exact or approximate (faiss); auto is exact on a "
        "GPU and for up to 200,000 samples.",
    )
    max_failures: Annotated[int, Field(ge=0, le=1000)] = Field(
        2,
        description="Number of times a trial is retried after its worker, group or node has died.",
    )
    heartbeat_warning_s: Seconds = Field(
        120.0,
        description="Time without a heartbeat of a trial after which a warning gives the reason.",
    )
    heartbeat_timeout_s: Seconds = Field(
        600.0,
        description="Maximum wait for a trial's heartbeat, a free group, or a locked cache file; "
        "after it the group is replaced or the run ends.",
    )


class Student(NamedTuple):
    """Network and recipe of one student of a trial."""

    network: Network
    training: Training


class Configuration(Section):
    """Complete configuration of a run."""

    project: str = Field(
        "distillation", min_length=1, max_length=200, description="Name of the MLflow experiment."
    )
    seed: Seed = Field(
        0, description="Random seed of weights, sample order, augmentation and search."
    )
    data: Data = Data()
    teacher: Teacher | None = Teacher()
    teachers: Annotated[tuple[Teacher, ...], Field(max_length=MOST_TEACHERS)] = Field(
        (),
        description="Several teachers instead of `teacher`, each a section as `teacher`; the "
        "students receive the weighted average of their logits.",
    )
    student: Network = Network.model_validate({"name": "mlp", "width": 16, "depth": 1})
    peers: dict[str, Peer] = Field(
        {}, description="Peers of a trial, by letter from b on; `student` is student a."
    )
    method: Choice = Choice(name="kd")
    training: Training = Training()
    ensemble: Ensemble = Ensemble()
    search: Search = Search()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    _yielded: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def yielded(self) -> dict[str, str]:
        """Return a message, by key, for each value that one of higher precedence has replaced."""
        return dict(self._yielded)

    def with_yielded(self, yielded: Mapping[str, str]) -> "Configuration":
        """Return a copy of the configuration with these messages as `yielded`."""
        copy = self.model_copy()
        copy._yielded = dict(yielded)
        return copy

    @model_validator(mode="before")
    @classmethod
    def _read_teachers(cls, values: Any) -> Any:
        """Read a list of one teacher as `teacher`; several replace the default teacher."""
        if not isinstance(values, dict):
            return values
        if not values.get("teachers"):
            none = "teachers" in values and values["teachers"] is None
            return {**values, "teachers": ()} if none else values
        teachers = values["teachers"]
        if values.get("teacher") is not None:
            message = (
                "teacher and teachers are both given: set teacher or teachers to null, or add "
                "the teacher to teachers"
            )
            raise FieldError(message).with_details("teachers", teachers, "without teacher")
        if isinstance(teachers, list | tuple) and len(teachers) == 1:
            return {**values, "teacher": teachers[0], "teachers": ()}
        return {**values, "teacher": None}

    @model_validator(mode="after")
    def _check_teachers(self) -> "Configuration":
        check_teachers(self.teachers)
        number, given = len(self.teachers), self.ensemble
        if not number and given != Ensemble():
            message = (
                "ensemble is given for fewer than two teachers: name them in teachers, or set "
                "ensemble to {}"
            )
            raise FieldError(message).with_details("ensemble", given.model_dump(), None)
        if given.fixed is not None and len(given.fixed) != number:
            message = (
                f"ensemble.fixed has {len(given.fixed)} weights for {number} teachers: give one "
                f"for each"
            )
            raise FieldError(message).with_details("ensemble.fixed", given.fixed, number)
        return self

    @model_serializer(mode="wrap")
    def _omit_unused_teachers(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit the keys of several teachers where they are unused: records stay the same."""
        values: dict[str, Any] = handler(self)
        unused = () if self.teachers else ("teachers", "ensemble")
        return {key: value for key, value in values.items() if key not in unused}

    @property
    def named_teachers(self) -> dict[str, Teacher]:
        """Return all teachers by their keys: `teacher`, or `teachers.0` and so on."""
        if self.teacher is not None:
            return {"teacher": self.teacher}
        return {f"teachers.{number}": each for number, each in enumerate(self.teachers)}

    @property
    def teacher_names(self) -> str:
        """Return the names of the networks of all teachers, separated by commas; "" for none."""
        return ", ".join(teacher.network.name for teacher in self.named_teachers.values())

    def with_teachers(self, teachers: Mapping[str, Teacher]) -> "Configuration":
        """Return a copy with other settings of the teachers, by the keys of `named_teachers`."""
        one = teachers.get("teacher")
        changes = {"teacher": one, "ensemble": Ensemble() if one else self.ensemble}
        several = () if one else tuple(teachers.values())
        return self.model_copy(update={**changes, "teachers": several})

    def of_each_teacher(self) -> "dict[str, Configuration]":
        """Return the configuration with one teacher alone, by the key of each teacher."""
        return {
            key: self.with_teachers({"teacher": teacher})
            for key, teacher in self.named_teachers.items()
        }

    @field_validator("peers")
    @classmethod
    def _check_letters(cls, peers: dict[str, Peer]) -> dict[str, Peer]:
        wanted = list(LETTERS[1 : len(peers) + 1])
        if sorted(peers) != wanted:
            message = (
                f"{list(peers)} is not allowed: name the peers in alphabetical order, beginning "
                f"with b: {', '.join(wanted) or 'b'}"
            )
            raise FieldError(message).with_details(None, tuple(peers), tuple(wanted))
        return dict(sorted(peers.items()))

    @model_validator(mode="after")
    def _check_peer_recipes(self) -> "Configuration":
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
        """Return all students by letter, each with its own recipe."""
        students = {"a": Student(self.student, self.training)}
        for letter, peer in self.peers.items():
            overrides = {name: value for name, value in peer.training if value is not None}
            students[letter] = Student(
                peer.network, Training.model_validate(self.training.model_dump() | overrides)
            )
        return students

    @property
    def colocated(self) -> bool:
        """Return whether one worker trains several students."""
        pair = self.resources.peer_placement or (
            "colocated" if self.resources.workers == 1 else "actors"
        )
        return bool(self.peers) and pair == "colocated"

    def threads(self, letter: str) -> int:
        """Return the threads of a student's workers; for colocated students, pass student a."""
        threads = self.peers[letter].threads_per_worker if letter in self.peers else None
        return threads or self.resources.threads_per_worker

    @property
    def replicas(self) -> int:
        """Return the number of workers that train one student together."""
        return 1 if self.colocated else self.resources.workers // (1 + len(self.peers))

    def plain(self) -> dict[str, Any]:
        """Return the resolved configuration as JSON values."""
        return self.model_dump(mode="json")
