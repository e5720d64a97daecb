"""Define a trial that is sent to a worker group, and the folders that trials share.

A *parameter* of a search is named as in a search space. `temperature` is a setting of the method
and `training.learning_rate` a key of the configuration. With several searched methods
`kd.temperature` is a setting. `seed` is the trial's seed, if it differs from that of the sweep.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.loader import build
from orchestrator.config.schema import LETTERS, Configuration, Section
from orchestrator.core.errors import ConfigurationError

Parameters = dict[str, Any]  # values of the parameters of a search, by name, as JSON holds them
CHECKPOINT = "checkpoint"  # in the folder of a trial
SNAPSHOTS = "snapshots"  # next to it, if the scheduler pauses trials: copies of the checkpoint
KNOWLEDGE = "knowledge"  # next to it: the cache of the trial's own teacher
METHOD, SEED = "method.name", "seed"  # parameters that are not settings of a method


def student_folder(letter: str) -> str:
    """Return the folder of a student, by its letter, within a checkpoint.

    The first student's files are at the top.
    """
    return "." if letter == LETTERS[0] else letter


def network_key(letter: str) -> str:
    """Return the key of a student's network, by its letter."""
    return "student" if letter == LETTERS[0] else f"peers.{letter}.network"


def recipe_key(role: str, letter: str = LETTERS[0]) -> str:
    """Return the key of the recipe with which a trial of a role trains.

    Args:
        role: The role of the trial; `teacher` has a recipe of its own.
        letter: The letter of the student.
    """
    if role == "teacher":
        return "teacher.training"
    return "training" if letter == LETTERS[0] else f"peers.{letter}.training"


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders that the trials of a run share.

    Attributes:
        trials: The folder that contains the trials' folders.
        data: The folder of the data.
        teacher: The folder of the teacher, if there is one.
        knowledge: The folder of the cache of the teachers.
        uri: The URI of the store. The folders are then below its folder `root`.
        root: The folder of a store with a URI, on the node of the driver.
        teachers: The folders of several teachers.
    """

    trials: Path
    data: Path
    teacher: Path | None = None
    knowledge: Path | None = None
    uri: str = ""
    root: Path | None = None
    teachers: tuple[Path, ...] = ()


class TrialSpec(Section):
    """Hyperparameters of one trial, and the folders that it reads and writes.

    Args:
        name: The name of the trial.
        role: `student`; `teacher` to train the teacher itself; `evaluate` to evaluate it; `fill` to
            precompute its cache.
        configuration: The configuration of the trial.
        folder: The folder of the trial, which contains its checkpoint.
        data: The folder of the data.
        teacher: The folder of the teacher, if there is one.
        teachers: The folders of several teachers.
        knowledge: The folder of the cache of the teachers; without it they are evaluated at every
            step.
        views: The views of `fill`; null is the clean one.
        features: Whether `fill` caches the features of the clean view.
        stages: Stages whose feature maps of the clean view `fill` caches.
        part: The part of the data on which `evaluate` evaluates.
        until: The epochs after which the worker releases its group; null for all. The trial is not
            finished then and its checkpoint remains in the folder.
        uri: The URI of the store. The folders are then below its folder `root`.
        root: The folder of a store with a URI, on the node that wrote this.
        known: The number of epochs whose records the driver has. Reports that are in the checkpoint
            but missing there are sent first. Otherwise the last report is sent again.
    """

    name: str
    role: Literal["student", "teacher", "fill", "evaluate"] = "student"
    configuration: Configuration
    folder: Path
    data: Path
    teacher: Path | None = None
    teachers: tuple[Path, ...] = ()
    knowledge: Path | None = None
    views: tuple[int | None, ...] = ()
    features: bool = False
    stages: tuple[str, ...] = ()
    part: Literal["validation", "test"] = "validation"
    until: int | None = None
    uri: str = ""
    root: Path | None = None
    known: int | None = None

    @classmethod
    def numbered(
        cls,
        number: int,
        configuration: Configuration,
        folders: Folders,
        until: int | None = None,
        known: int | None = None,
    ) -> "TrialSpec":
        """Return the specification of a trial of a sweep.

        Args:
            number: The number of the trial.
            configuration: The configuration of the trial.
            folders: The folders that trials share.
            until: The epochs after which the worker releases its group; None for all.
            known: The number of epochs whose records the driver has.
        """
        return cls(
            name=trial_name(number),
            configuration=configuration,
            folder=folders.trials / f"{number:05d}",
            data=folders.data,
            teacher=folders.teacher,
            teachers=folders.teachers,
            knowledge=folders.knowledge,
            uri=folders.uri,
            root=folders.root,
            until=until,
            known=known,
        )

    def of_each_teacher(self) -> "list[TrialSpec]":
        """Return the specification with one of several teachers alone, for each of them."""
        configurations = self.configuration.of_each_teacher().values()
        return [
            self.model_copy(
                update={"configuration": configuration, "teacher": folder, "teachers": ()}
            )
            for configuration, folder in zip(configurations, self.teachers, strict=True)
        ]


def trial_name(number: int) -> str:
    """Return the name of a trial at the dispatcher."""
    return f"trial-{number:05d}"


def apply(configuration: Configuration, parameters: Mapping[str, Any]) -> Configuration:
    """Return the configuration of a trial: the searched parameters over the frozen values.

    The parameter `method.name` selects the method.

    Raises:
        ConfigurationError: A parameter does not exist, or a value is not allowed.
    """
    values = configuration.plain()
    name = parameters.get(METHOD, configuration.method.name)
    frozen = configuration.method.settings if name == configuration.method.name else {}
    values["method"] = {"name": name, **frozen}
    for key, value in parameters.items():
        if key == METHOD:
            continue
        path = key.removeprefix(f"{name}.").split(".")
        section = values["method"] if len(path) == 1 and key != SEED else values
        for part in path[:-1]:
            section = section.get(part)
            if not isinstance(section, dict):
                raise ConfigurationError(
                    f"{key} is not a parameter: {part} has no keys below it"
                ).with_details(key, value, f"keys below {part}")
        section[path[-1]] = value
    return build(values)
