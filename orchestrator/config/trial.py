"""What one trial is, as plain JSON that travels to a worker group: no live object, no torch.

A *parameter* of a search is named as in a search space: `temperature` is a setting of the method,
`training.learning_rate` a key of the configuration, `kd.temperature` a setting when several methods are searched; `seed` is the
trial's seed, where it is not that of the sweep.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.loader import build
from orchestrator.config.schema import LETTERS, Configuration, Section
from orchestrator.core.errors import ConfigurationError

CHECKPOINT = "checkpoint"  # in the folder of a trial
SNAPSHOTS = "snapshots"  # beside it, where trials wait for one another: copies of it
KNOWLEDGE = "knowledge"  # beside it: the cache of a teacher of its own
METHOD, SEED = "method.name", "seed"  # parameters that are no setting of a method


def student_folder(letter: str) -> str:
    """The folder of a student within a checkpoint, by its letter: the first student's files lie at the top."""
    return "." if letter == LETTERS[0] else letter


def network_key(letter: str) -> str:
    """The key of a student's network, by its letter."""
    return "student" if letter == LETTERS[0] else f"peers.{letter}.network"


def recipe_key(role: str, letter: str = LETTERS[0]) -> str:
    """The key of the recipe that a trial of a role trains with: the teacher's, or that of a student by its letter."""
    if role == "teacher":
        return "teacher.training"
    return "training" if letter == LETTERS[0] else f"peers.{letter}.training"


class TrialSpec(Section):
    """One set of hyper-parameters to train, with the folders that it reads and writes.

    `role` is `teacher` for the training of the teacher itself, `evaluate` for its evaluation on the validation part, and `fill` for
    the filling of its cache with `views` (null: the clean one, with its `features` if asked). Without `knowledge`, the folder of
    the cache, the teacher is asked at every step.
    Where the store is a URI, `uri`, the folders lie below its folder `root` on the node that wrote this.
    After `until` epochs (null: all) the worker gives its group back; the trial is not done and its checkpoint stands in the folder.
    Of `known` epochs the driver has the records: where the checkpoint is ahead, the others are told first. Without it, or where
    nothing is missing, the last one is told again.
    """

    name: str
    role: Literal["student", "teacher", "fill", "evaluate"] = "student"
    configuration: Configuration
    folder: Path
    data: Path
    teacher: Path | None = None
    knowledge: Path | None = None
    views: tuple[int | None, ...] = ()
    features: bool = False
    until: int | None = None
    uri: str = ""
    root: Path | None = None
    known: int | None = None

    @classmethod
    def numbered(
        cls,
        number: int,
        configuration: Configuration,
        folders: Mapping[str, Any],
        until: int | None = None,
        known: int | None = None,
    ) -> "TrialSpec":
        """A trial of a sweep; `folders` names those that its trials share: trials, data, teacher, knowledge."""
        shared = {name: folders[name] for name in ("data", "teacher", "knowledge")}
        shared |= {name: folders[name] for name in ("uri", "root") if name in folders}
        folder = Path(folders["trials"]) / f"{number:05d}"
        return cls(name=trial_name(number), configuration=configuration, folder=folder, until=until, known=known, **shared)

    def plain(self) -> dict[str, Any]:
        """The specification as JSON values; `TrialSpec.model_validate` reads it back."""
        return self.model_dump(mode="json")


def trial_name(number: int) -> str:
    """The name of a trial at the dispatcher."""
    return f"trial-{number:05d}"


def apply(configuration: Configuration, parameters: Mapping[str, Any]) -> Configuration:
    """The configuration of a trial: the searched parameters on top of what is held.

    `method.name` chooses the method; ConfigurationError when a value does not fit.
    """
    values = configuration.plain()
    name = parameters.get(METHOD, configuration.method.name)
    held = configuration.method.settings if name == configuration.method.name else {}
    values["method"] = {"name": name, **held}
    for key, value in parameters.items():
        if key == METHOD:
            continue
        path = key.removeprefix(f"{name}.").split(".")
        section = values["method"] if len(path) == 1 and key != SEED else values
        for part in path[:-1]:
            section = section.get(part)
            if not isinstance(section, dict):
                raise ConfigurationError(
                    f"{key} is no parameter: {part} has no keys below it", field=key, value=value, allowed=f"keys below {part}"
                )
        section[path[-1]] = value
    return build(values)
