"""Store the design of a comparison and the settings that its searches chose, for a resume."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import Parameters
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.extensions.record import describe_code
from orchestrator.store import run_lock
from orchestrator.store.record_file import (
    STRICT,
    Count,
    DamagedRecordError,
    Finite,
    Plain,
    RecordSchema,
    Seconds,
    Timestamp,
)
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store

FILE = "comparison.json"
OVER_SEEDS = "seeds"  # suffix of the name of the sweep over seeds
DEFAULT_MARGIN = 0.3  # points of accuracy
LARGEST_STUDIES = 100
TEACHER = "teacher"  # its key in `ComparisonRecord.inference`


class Chosen(TypedDict, total=False):
    """Choice of a method's search, or the `message` that explains why there is none."""

    trial: Count
    value: Finite
    settings: dict[str, Plain]
    message: str


def describe_choice(choice: Chosen) -> str:
    """Return a choice as one line; listed settings have no trial."""
    if "message" in choice:
        return choice["message"]
    settings = ", ".join(f"{name}={value}" for name, value in choice["settings"].items())
    if "trial" not in choice:
        return f"listed settings: {settings or 'none'}"
    found = f"trial {choice['trial']} at {choice['value']:.4f} on validation"
    return f"{found}, with {settings or 'the given settings'}"


@dataclass(frozen=True)
class InferenceCost:
    """Inference cost of a network.

    `multiply_adds` are those of matrix products and convolutions for one image. `latency_ms` is the
    median of the repetitions.
    """

    parameters: Count
    multiply_adds: Annotated[int, Field(ge=0)]
    latency_ms: Seconds


@dataclass
class ComparisonRecord:
    """Record of a comparison.

    Attributes:
        configuration: Common to the sweeps of the first study, with all methods.
        seeds: Trainings of each method after its search, in every study.
        chosen: Choices of the searches by their part of the comparison, which is the method for the
            first study. A study has none before all its searches have ended, and they do not change
            afterwards.
        code: The user code.
        studies: Repetitions of the searches and of the trainings that follow them.
        margin: Largest difference in points of accuracy that counts as equivalent.
        inference: Inference costs of the students by method, and of `teacher`; measured once, when
            the comparison ends.
        teacher: Metrics of the teacher on the test part; empty before its evaluation.
    """

    __pydantic_config__ = STRICT
    configuration: Configuration
    seeds: Annotated[int, Field(ge=1, lt=10**6)]
    started: Timestamp = field(default_factory=time.time)
    chosen: dict[str, Chosen] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    studies: Annotated[int, Field(ge=1, le=LARGEST_STUDIES)] = 1
    margin: Annotated[Finite, Field(gt=0)] = DEFAULT_MARGIN
    inference: dict[str, InferenceCost] = field(default_factory=dict)
    teacher: dict[str, Finite] = field(default_factory=dict)


COMPARISON = RecordSchema[ComparisonRecord](
    ComparisonRecord, number=5, advice="restore it from a backup, or give another --name"
)


@dataclass
class Comparison(ComparisonRecord):
    """Comparison in a folder of the store."""

    folder: Path = field(kw_only=True)

    @classmethod
    def create(
        cls,
        store: Store,
        name: str,
        configuration: Configuration,
        seeds: int,
        studies: int = 1,
        margin: float = DEFAULT_MARGIN,
    ) -> "Comparison":
        """Create a comparison.

        Raises:
            ConfigurationError: Its name, or that of one of its sweeps, is taken.
        """
        require_new(store, name, configuration.search.methods, studies)
        comparison = cls(
            configuration,
            seeds,
            code=describe_code(configuration),
            studies=studies,
            margin=margin,
            folder=comparison_folder(store, name),
        )
        comparison.folder.mkdir(parents=True, exist_ok=True)
        with run_lock.single_driver(comparison.folder):
            require_new(store, name, configuration.search.methods, studies)
            comparison.save()
        return comparison

    @classmethod
    def open(cls, store: Store, name: str) -> "Comparison":
        """Open a comparison of the store.

        Raises:
            ConfigurationError: It is damaged or does not exist; the message lists those that do.
        """
        file = comparison_folder(store, name) / FILE
        if not file.exists():
            names = list_comparisons(store)
            known = suggest_name(name, names) if names else "the store has no comparison yet"
            raise ConfigurationError(
                f"there is no comparison {name!r} in {store.root}: {known}"
            ).with_details("name", name, tuple(names))
        comparison = cls(**vars(COMPARISON.read(file)), folder=file.parent)
        searches = {study.part(each) for study in comparison.runs for each in comparison.methods}
        if unknown := comparison.chosen.keys() - searches:
            raise DamagedRecordError(
                file,
                f"chosen.{min(unknown)} is not among the compared methods",
                COMPARISON.advice,
                f"chosen.{min(unknown)}",
            )
        return comparison

    @property
    def name(self) -> str:
        """Return the name of the comparison, the prefix of its sweeps' names."""
        return self.folder.name

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the compared methods, in the requested order."""
        return self.configuration.search.methods

    @property
    def searched(self) -> tuple[str, ...]:
        """Return the methods with a search; none if the configuration lists the settings."""
        return () if self.configuration.search.configurations else self.methods

    @property
    def runs(self) -> tuple["StudyRun", ...]:
        """Return the studies, in the order in which they run."""
        return tuple(StudyRun(self, number) for number in range(1, self.studies + 1))

    @property
    def sweeps(self) -> tuple[str, ...]:
        """Return the names of all sweeps, in the order in which they run."""
        return tuple(name for run in self.runs for name in run.sweeps)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock of the driver; raise ConfigurationError if another process holds it."""
        with run_lock.hold_lock(self.folder):
            yield

    def save(self) -> None:
        """Write the record."""
        own = {each.name: getattr(self, each.name) for each in fields(ComparisonRecord)}
        COMPARISON.keep(self.folder / FILE, own | {"configuration": self.configuration.plain()})


@dataclass(frozen=True)
class StudyRun:
    """One study of a comparison: a search of each method, and the training over seeds.

    A study uses the `seeds` + 1 seeds that follow those of the study before: the first one for its
    searches, the others for the training.

    Attributes:
        comparison: The comparison.
        number: The number of the study, from 1.
    """

    comparison: Comparison
    number: int

    @property
    def label(self) -> str:
        """Return the name for a message: that of the comparison, and the study of several."""
        name = repr(self.comparison.name)
        return name if self.comparison.studies == 1 else f"study {self.number} of {name}"

    @property
    def configuration(self) -> Configuration:
        """Return the common configuration of the sweeps of this study."""
        common = self.comparison.configuration
        offset = (self.number - 1) * (self.comparison.seeds + 1)
        return common.model_copy(update={"seed": common.seed + offset})

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of the training."""
        first = self.configuration.seed + 1
        return tuple(range(first, first + self.comparison.seeds))

    @property
    def chosen(self) -> dict[str, Chosen]:
        """Return the choices of the searches by method; empty before all have ended."""
        chosen = self.comparison.chosen
        return {
            method: chosen[self.part(method)]
            for method in self.comparison.methods
            if self.part(method) in chosen
        }

    def choose(self, chosen: Mapping[str, Chosen]) -> None:
        """Keep the choices of the searches by method in the record of the comparison."""
        self.comparison.chosen |= {self.part(method): one for method, one in chosen.items()}
        self.comparison.save()

    @property
    def settings(self) -> dict[str, Parameters]:
        """Return the settings to train over seeds, by method, of the searches that found some."""
        return {method: one["settings"] for method, one in self.chosen.items() if "settings" in one}

    @property
    def over_seeds(self) -> str:
        """Return the name of the sweep over seeds."""
        return sweep_name(self.comparison.name, self.part(OVER_SEEDS))

    @property
    def sweeps(self) -> tuple[str, ...]:
        """Return the names of the sweeps, in the order in which they run."""
        return (*map(self.search, self.comparison.searched), self.over_seeds)

    def search(self, method: str) -> str:
        """Return the name of the search of a method."""
        return sweep_name(self.comparison.name, self.part(method))

    def part(self, name: str) -> str:
        """Return the name of a part of the comparison, without the comparison's own name."""
        return study_part(self.number, name)


def comparison_folder(store: Store, name: str) -> Path:
    """Return the folder of a comparison.

    Raise ConfigurationError if the name could leave the store.
    """
    store.sweep(name)
    return store.root / "comparisons" / name


def sweep_name(name: str, part: str) -> str:
    """Return the name of one of the sweeps of a comparison; `my/NAME` becomes `my-NAME`."""
    return f"{name}-{part.replace('/', '-')}"


def study_part(study: int, name: str) -> str:
    """Return the name of a part of a study: that of the first study is the name itself."""
    return name if study == 1 else f"study{study}-{name}"


def list_comparisons(store: Store) -> list[str]:
    """Return the names of the comparisons in the store."""
    return sorted(path.parent.name for path in (store.root / "comparisons").glob(f"*/{FILE}"))


def require_new(store: Store, name: str, methods: tuple[str, ...], studies: int = 1) -> None:
    """Raise ConfigurationError if the comparison, or one of its sweeps, exists already."""
    if (comparison_folder(store, name) / FILE).exists():
        raise ConfigurationError(
            f"--name {name!r} exists already in this store: give another name, or continue with "
            f"`compare --resume {name}{store.option}`"
        ).with_details("--name", name, "a new name")
    parts = (
        study_part(study + 1, part) for study in range(studies) for part in (*methods, OVER_SEEDS)
    )
    # a sweep of the comparison's own name would hide it from `status` and other commands
    for sweep in (name, *(sweep_name(name, part) for part in parts)):
        try:
            Sweep.require_new(store.sweep(sweep))
        except ConfigurationError as error:
            raise ConfigurationError(
                f"--name {name!r} needs a new sweep {sweep!r}, which exists already: give another "
                f"name"
            ).with_details("--name", sweep, "a new name") from error


def require_no_comparison(store: Store, name: str) -> None:
    """Raise ConfigurationError if a comparison has the name of a new sweep."""
    if name in list_comparisons(store):
        raise ConfigurationError(
            f"--name {name!r} is already that of a comparison in this store: give another name"
        ).with_details("--name", name, "a name that no comparison has")
