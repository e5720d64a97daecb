"""Feature maps of student and teacher: their shapes, and the stages that a method selects."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from methods.settings import SettingsError


class MapShape(NamedTuple):
    """Shape of a stage's feature map for one sample; a linear layer has height and width 1."""

    channels: int
    height: int
    width: int


class FeatureStages(NamedTuple):
    """Names of the stages whose feature maps a method uses, of the student and of the teacher."""

    student: tuple[str, ...]
    teacher: tuple[str, ...]


def require_stages(stages: Sequence[str], number: int, setting: str) -> None:
    """Raise SettingsError, about a setting and its value, if a network has no stages."""
    if not stages:
        raise SettingsError(
            f"{setting} = {number} needs a network with stages, but one names none: choose another "
            "network, or name its stages where it is built",
            setting,
            value=number,
            allowed="a network with stages",
        )


def select_stage(stages: Sequence[str], number: int, setting: str) -> str:
    """Return the stage of a number, counted from 1; the middle one for 0.

    Args:
        stages: Names of all stages, from the input to the output.
        number: Number of the stage.
        setting: Name of the setting that has the number.

    Raises:
        SettingsError: There is no such stage.
    """
    require_stages(stages, number, setting)
    if number > len(stages):
        raise SettingsError(
            f"{setting} = {number} is not a stage of that network, which has {len(stages)} stages: "
            f"give at most {len(stages)}, or 0 for the middle one",
            setting,
            value=number,
            allowed=(0, len(stages)),
        )
    return stages[(number or (len(stages) + 1) // 2) - 1]


def pair_stages(student: Sequence[str], teacher: Sequence[str], number: int) -> FeatureStages:
    """Return the last `number` stages of both networks; as many as both have for 0.

    Raises:
        SettingsError: A network has fewer stages; the setting is named `stages`.
    """
    for stages in (student, teacher):
        require_stages(stages, number, "stages")
    available = min(len(student), len(teacher))
    count = number or available
    if count > available:
        raise SettingsError(
            f"stages = {count} is more than the {available} stages that both networks have "
            f"(student: {len(student)}, teacher: {len(teacher)}): give at most {available}, or 0 "
            "for all",
            "stages",
            value=count,
            allowed=(0, available),
        )
    return FeatureStages(tuple(student[-count:]), tuple(teacher[-count:]))


def describe_maps(student: Mapping[str, MapShape], teacher: Mapping[str, MapShape]) -> str:
    """Return the sizes of the maps of both networks for a message."""
    return "; ".join(
        f"{side}: "
        + ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in maps.items())
        for side, maps in (("student", student), ("teacher", teacher))
    )
