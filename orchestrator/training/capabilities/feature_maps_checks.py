"""Check feature maps before a run, and describe in the plan what they cost."""

from collections.abc import Iterator, Sequence

import torch

from methods import Method, SettingsError, Task
from methods.capabilities import UsesFeatureMaps
from methods.feature_maps import MapShape
from orchestrator.config import sizes
from orchestrator.config.extra_space import networks
from orchestrator.config.method_variants import build_variants, trained_methods
from orchestrator.config.schema import Configuration
from orchestrator.config.schema import Network as NetworkSettings
from orchestrator.core.errors import ConfigurationError
from orchestrator.models.build import build
from orchestrator.models.feature_maps import feature_stages, map_shapes
from orchestrator.models.network import Network


def check_feature_maps(
    configuration: Configuration, searching: bool, classes: int, shape: Sequence[int]
) -> dict[str, MapShape]:
    """Check every method that uses feature maps with every network of a student.

    Returns:
        The shapes of all maps of the teacher that are used, by stage.

    Raises:
        ConfigurationError: A network lacks a stage, a map does not suit the method, or networks are
            compiled.
    """
    used: dict[str, MapShape] = {}
    methods = list(_methods(configuration, searching))
    if not methods or configuration.teacher is None:
        return used
    teacher = _build(configuration.teacher.network, classes, shape)
    for name, method in methods:
        _refuse_compiled(configuration, name)
        for field, student in _students(configuration, searching, classes, shape):
            try:
                stages = feature_stages(method, student, teacher)
                maps = map_shapes(teacher, _sides(shape), stages.teacher)
                task = Task(
                    classes,
                    1,
                    configuration.training.epochs,
                    student_maps=map_shapes(student, _sides(shape), stages.student),
                    teacher_maps=maps,
                )
                method.prepare(None, task)
            except SettingsError as error:
                raise ConfigurationError.from_error(
                    error,
                    f"method {name} with {field} = {student.name!r} and teacher.network = "
                    f"{teacher.name!r}: {error}",
                    "method",
                ) from error
            used |= maps
    return used


def maps_line(
    configuration: Configuration, used: dict[str, MapShape], samples: int, cached: bool, clean: bool
) -> str:
    """Return what the teacher's feature maps cost; "" if none are used.

    Args:
        configuration: The configuration, with a teacher if maps are used.
        used: The shapes of the maps by stage.
        samples: Number of training samples.
        cached: Whether the teacher's outputs are cached.
        clean: Whether every view is the clean one.
    """
    if not used or configuration.teacher is None:
        return ""
    total = sizes.map_bytes(configuration.teacher, samples, used.values())
    shown = ", ".join(f"{name} {'x'.join(map(str, each))}" for name, each in used.items())
    size = sizes.format_bytes(total)
    if not cached:
        where = "computed online at every step, as all outputs of the teacher"
    elif not clean:
        where = "computed online at every step, because the views differ"
    elif sizes.maps_fit(configuration.teacher, samples, used.values()):
        where = f"{size} in the cache, once for all trials"
    else:
        where = (
            f"computed online at every step, because {size} are more than half of "
            f"teacher.cache_gib = {configuration.teacher.cache_gib:g}"
        )
    return f"of the teacher: {shown}; {where}"


def _methods(configuration: Configuration, searching: bool) -> Iterator[tuple[str, Method]]:
    for name in trained_methods(configuration, searching):
        for method in build_variants(configuration, name, searching):
            if isinstance(method, UsesFeatureMaps):
                yield name, method


def _refuse_compiled(configuration: Configuration, name: str) -> None:
    for letter, (_, recipe) in configuration.students.items():
        if recipe.compile:
            raise ConfigurationError(
                f"training.compile = true is not allowed with method {name}, which uses feature "
                f"maps of student {letter}: a compiled network does not give them; set "
                "training.compile=false"
            ).with_details("training.compile", True, (False,))


def _students(
    configuration: Configuration, searching: bool, classes: int, shape: Sequence[int]
) -> Iterator[tuple[str, Network]]:
    """Yield every network that a student may have, with its key, without allocating memory."""
    for kinds in networks(configuration, searching).values():
        for field, network in kinds.items():
            yield field, _build(network, classes, shape)


def _build(network: NetworkSettings, classes: int, shape: Sequence[int]) -> Network:
    with torch.device("meta"):
        return build(network.name, classes, _sides(shape), network.settings)


def _sides(shape: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width
