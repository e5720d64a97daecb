"""Store the design of a comparison and the settings that its searches chose, for a resume."""

import contextlib
import time
from collections.abc import Iterator
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
    Timestamp,
)
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.comparison.design import OVER_SEEDS

FILE = "comparison.json"


class Chosen(TypedDict, total=False):
    """Choice of a method's search, or the `message` that explains why there is none."""

    trial: Count
    value: Finite
    settings: dict[str, Plain]
    message: str


@dataclass
class ComparisonRecord:
    """Record of a comparison.

    `configuration` is common to its sweeps, with all methods. `chosen` is by method; it is empty
    before the searches have ended, and does not change afterwards. `code` is the user code.
    """

    __pydantic_config__ = STRICT
    configuration: Configuration
    seeds: Annotated[int, Field(ge=1, lt=10**6)]
    started: Timestamp = field(default_factory=time.time)
    chosen: dict[str, Chosen] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)


COMPARISON = RecordSchema[ComparisonRecord](
    ComparisonRecord, number=4, advice="restore it from a backup, or give another --name"
)


@dataclass
class Comparison(ComparisonRecord):
    """Comparison in a folder of the store."""

    folder: Path = field(kw_only=True)

    @classmethod
    def create(
        cls, store: Store, name: str, configuration: Configuration, seeds: int
    ) -> "Comparison":
        """Create a comparison.

        Raises:
            ConfigurationError: Its name, or that of one of its sweeps, is taken.
        """
        require_new(store, name, configuration.search.methods)
        comparison = cls(
            configuration,
            seeds,
            code=describe_code(configuration),
            folder=comparison_folder(store, name),
        )
        comparison.folder.mkdir(parents=True, exist_ok=True)
        with run_lock.single_driver(comparison.folder):
            require_new(store, name, configuration.search.methods)
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
            names = sorted(
                path.parent.name for path in (store.root / "comparisons").glob(f"*/{FILE}")
            )
            known = suggest_name(name, names) if names else "the store has no comparison yet"
            raise ConfigurationError(
                f"there is no comparison {name!r} in {store.root}: {known}"
            ).with_details("name", name, tuple(names))
        comparison = cls(**vars(COMPARISON.read(file)), folder=file.parent)
        if unknown := comparison.chosen.keys() - set(comparison.methods):
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
    def over_seeds(self) -> str:
        """Return the name of the sweep over seeds."""
        return sweep_name(self.name, OVER_SEEDS)

    def search(self, method: str) -> str:
        """Return the name of the search of a method."""
        return sweep_name(self.name, method)

    @property
    def settings(self) -> dict[str, Parameters]:
        """Return the settings to train over seeds, by method, of the searches that found some."""
        return {method: one["settings"] for method, one in self.chosen.items() if "settings" in one}

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the comparison for this process; raise ConfigurationError if another holds it."""
        with run_lock.single_driver(self.folder):
            yield

    def save(self) -> None:
        """Write the record."""
        own = {each.name: getattr(self, each.name) for each in fields(ComparisonRecord)}
        COMPARISON.keep(self.folder / FILE, own | {"configuration": self.configuration.plain()})


def comparison_folder(store: Store, name: str) -> Path:
    """Return the folder of a comparison.

    Raise ConfigurationError if the name could leave the store.
    """
    store.sweep(name)
    return store.root / "comparisons" / name


def sweep_name(name: str, part: str) -> str:
    """Return the name of one of the sweeps of a comparison; `my/NAME` becomes `my-NAME`."""
    return f"{name}-{part.replace('/', '-')}"


def require_new(store: Store, name: str, methods: tuple[str, ...]) -> None:
    """Raise ConfigurationError if the comparison, or one of its sweeps, exists already."""
    if (comparison_folder(store, name) / FILE).exists():
        raise ConfigurationError(
            f"--name {name!r} exists already in this store: give another name, or continue with "
            f"`compare --resume {name}{store.option}`"
        ).with_details("--name", name, "a new name")
    for part in (*methods, OVER_SEEDS):
        try:
            Sweep.require_new(store.sweep(sweep_name(name, part)))
        except ConfigurationError as error:
            raise ConfigurationError(
                f"--name {name!r} needs a new sweep {sweep_name(name, part)!r}, which exists "
                f"already: give another name"
            ).with_details("--name", sweep_name(name, part), "a new name") from error
