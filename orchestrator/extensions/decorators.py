"""Register networks, data sets, methods, transforms and metrics of user code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from methods import METHODS, Method, Settings
from methods.capabilities import check_capabilities
from orchestrator.config.objectives import BETTER, Direction
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.datasets import DATASETS
from orchestrator.data.preprocessing import AUTOMATIC, Automatic
from orchestrator.data.user_transforms import TRANSFORMS, Function, Transform
from orchestrator.extensions import _datasets, _networks
from orchestrator.extensions.code_identity import code_identity
from orchestrator.extensions.registry import (
    ENTRIES,
    PYTHON,
    Entry,
    Kind,
    Origin,
    Slot,
    calling_location,
    current_origin,
    full_name,
    register,
    registering_from,
)
from orchestrator.extensions.signature import SignatureError
from orchestrator.training.metric_names import METRICS
from orchestrator.training.metrics import USER_METRICS, UserMetric
from search_spaces import SPACES, Space, Trial
from search_spaces.space import suggest_recipe

T = TypeVar("T")
MetricFunction = Callable[[Tensor, Tensor], Any]


def network(name: str) -> Callable[[T], T]:
    """Register a network as `my/NAME`, for `student.name`, `teacher.network.name` and peers.

    The decorated function or class returns a module from inputs (B, C, H, W) to logits (B, K). It
    takes `classes` (K), `shape` (C, H, W) or both. Its other parameters are the settings of the
    network; see `read_signature`.

    Args:
        name: Letters, digits, `_` and `-`; the prefix `my/` is added.

    Examples:
        >>> import orchestrator as od
        >>> from torch import nn
        >>> @od.network("linear")
        ... def linear(classes, shape, dropout: float = 0.1):
        ...     pixels = shape[0] * shape[1] * shape[2]
        ...     layers = [nn.Flatten(), nn.Dropout(dropout), nn.Linear(pixels, classes)]
        ...     return nn.Sequential(*layers)
    """
    location = calling_location(1)

    def decorate(target: T) -> T:
        def slots(full: str, code: str) -> tuple[Slot, ...]:
            return _networks.make_slots(target, full, location, code)

        return _enter("network", name, target, location, slots)

    return decorate


def dataset(name: str) -> Callable[[T], T]:
    """Register a data set as `my/NAME`, for `data.name`.

    The decorated function returns `(train, test)`, `(train, validation, test)`, or a dictionary
    with the keys `train`, `test` and, if wanted, `validation` and `classes` (the names). A part is
    a map-style data set of (image, label), or a pair of arrays (images, labels). Its parameters are
    settings, given under `data.settings`; a parameter `path` receives `data.path`.

    Args:
        name: Letters, digits, `_` and `-`; the prefix `my/` is added.

    Examples:
        >>> import numpy as np
        >>> import orchestrator as od
        >>> @od.dataset("noise")
        ... def noise(samples: int = 40):
        ...     images = np.random.default_rng(0).integers(0, 256, (samples, 8, 8), np.uint8)
        ...     labels = np.arange(samples) % 2
        ...     return {"train": (images, labels), "test": (images, labels), "classes": ["a", "b"]}
    """
    location = calling_location(1)

    def decorate(target: T) -> T:
        def slots(full: str, code: str) -> tuple[Slot, ...]:
            unknown = Automatic("none", "the content of the images is unknown")
            source = _datasets.make_source(target, full, location, code)
            return (DATASETS, full, source), (AUTOMATIC, full, unknown)

        return _enter("dataset", name, target, location, slots)

    return decorate


def method(
    name: str,
    space: Space | Callable[[Trial], None] = suggest_recipe,
    points: Sequence[Mapping[str, Any]] = (),
) -> Callable[[type[T]], type[T]]:
    """Register a distillation method as `my/NAME`, for `method.name` and `search.methods`.

    Args:
        name: Letters, digits, `_` and `-`; the prefix `my/` is added.
        space: Function that draws the settings of a trial, or a `Space`. By default only the
            learning rate is searched.
        points: Settings of the first trials of a search.

    Examples:
        >>> import orchestrator as od
        >>> from methods import Method, Objective
        >>> @od.method("labels")
        ... class Labels(Method):
        ...     def forward(self, batch):
        ...         return Objective(batch.cross_entropy())
    """
    location = calling_location(1)

    def decorate(target: type[T]) -> type[T]:
        if not (isinstance(target, type) and issubclass(target, Method)):
            raise _refusal(location, "method", name, "it is not a subclass of methods.Method")
        if not (isinstance(target.Settings, type) and issubclass(target.Settings, Settings)):
            raise _refusal(location, "method", name, "its Settings are not a subclass of Settings")
        try:
            check_capabilities(target)  # type: ignore[arg-type]  # classes are hashable
        except TypeError as error:
            raise _refusal(location, "method", name, str(error)) from error
        suggested = space if isinstance(space, Space) else Space(tuple(map(dict, points)), space)

        def slots(full: str, code: str) -> tuple[Slot, ...]:
            return (METHODS, full, target), (SPACES, full, suggested)

        options = {"space": space, "points": tuple(points)}
        return _enter("method", name, target, location, slots, options)

    return decorate


def transform(name: str) -> Callable[[Function], Function]:
    """Register an augmentation as `my/NAME`, for `data.augmentation`.

    The decorated function takes an image (H, W, C) uint8 and a `numpy.random.Generator`, and
    returns an image of the same shape. It must draw all random numbers from this generator, which
    is seeded by seed, view and index. Teacher and student then see the same image.

    Args:
        name: Letters, digits, `_` and `-`; the prefix `my/` is added.

    Examples:
        >>> import orchestrator as od
        >>> @od.transform("negative")
        ... def negative(image, generator):
        ...     return 255 - image if generator.random() < 0.5 else image
    """
    location = calling_location(1)

    def decorate(target: Function) -> Function:
        def slots(full: str, code: str) -> tuple[Slot, ...]:
            return ((TRANSFORMS, full, Transform(full, target, code, location)),)

        return _enter("transform", name, target, location, slots)

    return decorate


def metric(
    name: str, direction: Direction | None = None
) -> Callable[[MetricFunction], MetricFunction]:
    """Register a metric as `my/NAME`: it is reported as `validation/my/NAME` and after the test.

    The decorated function takes the logits (N, K) float32 and the labels (N,) int64 of a whole
    part, on the CPU, and returns a finite number.

    Args:
        name: Letters, digits, `_` and `-`; the prefix `my/` is added.
        direction: `maximize` or `minimize`; without it, the metric cannot be one of several
            `search.objectives`.

    Examples:
        >>> import orchestrator as od
        >>> @od.metric("top3", direction="maximize")
        ... def top3(logits, labels):
        ...     return (logits.topk(3).indices == labels[:, None]).any(dim=1).float().mean()
    """
    location = calling_location(1)
    if direction not in (None, "maximize", "minimize"):
        raise _refusal(location, "metric", name, f"direction = {direction!r} is not allowed")

    def decorate(target: MetricFunction) -> MetricFunction:
        lines = (target.__doc__ or "").strip().splitlines()
        described = ("", (lines[0] if lines else f"metric of {location}").rstrip("."))
        directions = ("maximize", "minimize") if direction is None else (direction,)

        def slots(full: str, code: str) -> tuple[Slot, ...]:
            parts = ("validation", "test/best", "test/last")
            return (
                (USER_METRICS, full, UserMetric(full, target, location)),
                (BETTER, f"validation/{full}", directions),
                *((METRICS, f"{part}/{full}", described) for part in parts),
            )

        return _enter("metric", name, target, location, slots, {"direction": direction})

    return decorate


def _enter(
    kind: Kind,
    name: str,
    target: T,
    location: str,
    slots: Callable[[str, str], tuple[Slot, ...]],
    options: Mapping[str, Any] | None = None,
) -> T:
    """Register an object under its full name, and return it."""
    full = full_name(kind, name, location)
    if not callable(target):
        raise _refusal(location, kind, full, "it is not a function or class")
    origin = current_origin(target)
    try:
        entered = slots(full, origin.identity)
        register(Entry(kind, full, target, location, origin, entered, options or {}))
    except SignatureError as error:
        raise _refusal(location, kind, full, str(error)) from error
    return target


def _refusal(location: str, kind: Kind, name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"{location}: the {kind} {name} cannot be registered: {problem}"
    ).with_details("--code", name, problem)


def register_again(
    kind: str, name: str, target: Any, location: str, origin: Origin, options: Mapping[str, Any]
) -> None:
    """Register an object with the attributes of an `Entry`; it replaces the entry of its name."""
    decorators: dict[str, Callable[..., Any]] = {
        "network": network,
        "dataset": dataset,
        "method": method,
        "transform": transform,
        "metric": metric,
    }
    with registering_from(origin, location):
        decorators[kind](name, **options)(target)


def update_identities() -> None:
    """Register again what was registered from Python and uses code that has changed since.

    In a notebook, a class can be defined again after the function that uses it was registered.
    """
    for entry in list(ENTRIES.values()):
        if not entry.origin.replaces or entry.origin.name != PYTHON:
            continue
        identity = code_identity(entry.target)
        if identity != entry.origin.identity:
            origin = replace(entry.origin, identity=identity)
            register_again(
                entry.kind, entry.name, entry.target, entry.location, origin, entry.options
            )
