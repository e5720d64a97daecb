"""Check feature maps before a run, and describe in the plan what they cost."""

from collections.abc import Iterator, Sequence

from torch import nn

from methods import Method, SettingsError, Task
from methods.capabilities import UsesFeatureMaps
from methods.feature_maps import MapShape
from orchestrator.config import sizes
from orchestrator.config.method_variants import build_variants, trained_methods
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.models.build import build_on_meta
from orchestrator.models.feature_maps import feature_stages, map_shapes
from orchestrator.models.network import Shape, count_features
from orchestrator.training.capabilities._possible_students import possible_students

Maps = dict[str, MapShape]  # the teacher's maps, by stage


def check_feature_maps(
    configuration: Configuration, searching: bool, classes: int, shape: Shape
) -> list[Maps]:
    """Check every method that uses feature maps with every network of a student.

    Returns:
        The teacher's maps that each variant of a method uses.

    Raises:
        ConfigurationError: A network lacks a stage, a map does not suit the method, a worker has
            one sample for a batch norm of the method, or networks are compiled.
    """
    variants: list[Maps] = []
    methods = list(_methods(configuration, searching))
    if not methods or configuration.teacher is None:
        return variants
    network = configuration.teacher.network
    teacher = build_on_meta(network.name, classes, shape, network.settings)
    for name, method in methods:
        _refuse_compiled(configuration, name)
        used: Maps = {}
        for field, student in possible_students(configuration, searching, classes, shape):
            try:
                stages = feature_stages(method, student, teacher)
                maps = map_shapes(teacher, shape, stages.teacher)
                task = Task(
                    classes,
                    1,
                    configuration.training.epochs,
                    student_features=count_features(student),
                    teacher_features=count_features(teacher),
                    student_maps=map_shapes(student, shape, stages.student),
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
            _refuse_single_samples(configuration, name, method)
            used |= maps
        variants.append(used)
    return variants


def select_cached_maps(
    configuration: Configuration, variants: Sequence[Maps], samples: int, augmentation: str
) -> Maps:
    """Return the maps that the cache will hold: those of the clean view that are not too large.

    Args:
        configuration: The configuration.
        variants: The maps that each variant of a method uses.
        samples: Number of training samples.
        augmentation: The resolved augmentation policy.
    """
    teacher, cached = configuration.teacher, Maps()
    if teacher and not sizes.varies(configuration, augmentation):
        for used in variants:
            if sizes.maps_fit(teacher, samples, used.values()):
                cached |= used
    return cached


def maps_line(
    configuration: Configuration,
    variants: Sequence[Maps],
    samples: int,
    augmentation: str,
    cached: bool,
) -> str:
    """Return what the teacher's feature maps cost; "" if none are used.

    Args:
        configuration: The configuration, with a teacher if maps are used.
        variants: The maps that each variant of a method uses.
        samples: Number of training samples.
        augmentation: The resolved augmentation policy.
        cached: Whether the teacher's outputs are cached.
    """
    used = {name: shape for variant in variants for name, shape in variant.items()}
    if not used or configuration.teacher is None:
        return ""
    shown = ", ".join(f"{name} {'x'.join(map(str, each))}" for name, each in used.items())
    in_cache = select_cached_maps(configuration, variants, samples, augmentation)
    size = sizes.format_bytes(sizes.map_bytes(configuration.teacher, samples, used.values()))
    online = "the teacher runs at every step of methods that use them"
    if not cached:
        where = "computed online, as all outputs of the teacher"
    elif sizes.varies(configuration, augmentation):
        where = f"{online}, because the views differ"
    elif in_cache == used:
        where = f"{size} in the cache, once for all trials"
    else:
        where = (
            f"{online}, if the maps of a trial are more than half of teacher.cache_gib = "
            f"{configuration.teacher.cache_gib:g}; all together take {size}"
        )
    return f"of the teacher: {shown}; {where}"


def _methods(configuration: Configuration, searching: bool) -> Iterator[tuple[str, Method]]:
    for name in trained_methods(configuration, searching):
        for method in build_variants(configuration, name, searching):
            if isinstance(method, UsesFeatureMaps):
                yield name, method


def _refuse_compiled(configuration: Configuration, name: str) -> None:
    value = configuration.training.compile
    if value:
        raise ConfigurationError(
            f"training.compile = {str(value).lower()} is not allowed with method {name}, which "
            "uses feature maps: a compiled network does not give them; set training.compile=false"
        ).with_details("training.compile", value, (False,))


def _refuse_single_samples(configuration: Configuration, name: str, method: Method) -> None:
    recipe = configuration.training
    sharing = 1 if recipe.sync_batch_norm else configuration.replicas
    normalises = any(isinstance(module, nn.BatchNorm2d) for module in method.modules())
    if normalises and recipe.batch_size // sharing == 1:
        sync = ", or set training.sync_batch_norm=true" if sharing > 1 else ""
        raise ConfigurationError(
            f"training.batch_size = {recipe.batch_size} leaves one sample of a step for each "
            f"worker, but method {name} has batch normalisation, which needs several: give at "
            f"least {2 * sharing}{sync}"
        ).with_details("training.batch_size", recipe.batch_size, (2 * sharing, None))
