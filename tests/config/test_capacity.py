"""Test the bounds of all numbers, and requests against cores and memory."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from orchestrator.config import extra_space
from orchestrator.config.capacity import Sizes, require_cores, require_memory
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.sweep.preflight.configuration import check_extra_space
from tests.refusal import refused

PEER = "peers.b.network.name=mlp"
HUGE = (10**31, -(10**23), 10**300, 1e308, -1e308, math.inf, -math.inf, math.nan)


def numbers(section: type[BaseModel] = Configuration, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every number."""
    for name, field in section.model_fields.items():
        if name == "teachers":  # a list of sections as `teacher`
            continue
        kinds = [field.annotation, *get_args(field.annotation)]
        kinds += [argument for kind in kinds for argument in get_args(kind)]
        below = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if below:
            free = {"peers": "b.", "space": "temperature."}  # the keys of mappings
            yield from numbers(below[0], f"{prefix}{name}.{free.get(name, '')}")
        elif {int, float} & set(kinds):
            yield f"{prefix}{name}"


NUMBERS = sorted(set(numbers()))


def test_the_numbers_are_found() -> None:
    expected = {
        "seed",
        "data.limit.train",
        "training.milestones",
        "search.seeds",
        "peers.b.training.gamma",
        "resources.heartbeat_timeout_s",
    }
    assert expected <= set(NUMBERS) and len(NUMBERS) > 60


@pytest.mark.parametrize("key", NUMBERS)
def test_every_number_has_bounds(key: str) -> None:
    for value in HUGE:
        field, given = (
            (f"{key}.0", [value]) if key.endswith(("milestones", "seeds")) else (key, value)
        )
        with refused(field) as error:
            load(None, [PEER], {key: given})
        low, high = error.value.allowed
        assert low is not None and high is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("search.extra_space", {"training.batch_size": list(range(1, 5000))}),
        ("search.seeds", list(range(5000))),
        ("search.configurations", [{"temperature": place} for place in range(5000)]),
        ("search.freeze", ["seed"] * 5000),
        ("training.milestones", [1] * 5000),
        ("project", "x" * 201),
        ("student.name", "x" * 5001),
        ("resources.address", "a\0b"),
        ("resources.gpus_per_worker", 1e-9),
    ],
)
def test_lists_and_texts_have_bounds(key: str, value: Any) -> None:
    field, refusal = (
        (f"{key}.training.batch_size", value["training.batch_size"])
        if isinstance(value, dict)
        else (key, value)
    )
    with refused(field, refusal) as error:
        load(None, [], {key: value})
    assert len(str(error.value)) < 1000


def test_the_number_of_searched_networks_is_limited() -> None:
    some = list(range(1, 21))
    wide = load(
        None,
        [
            "student.name=mlp",
            f"search.extra_space={{student.width: {some}, student.depth: {some}}}",
        ],
    )
    with refused("search.extra_space.student", 400, (1, 300)):
        check_extra_space(wide)
    check_extra_space(
        load(
            None,
            [
                "student.name=mlp",
                f"search.extra_space={{student.width: {some}, student.depth: {some[:15]}}}",
            ],
        )
    )
    assert extra_space.MOST_NETWORKS == 300


@pytest.mark.parametrize(
    ("pairs", "field"),
    [
        (("resources.threads_per_worker=9",), "resources.threads_per_worker"),
        ((PEER, "peers.b.threads_per_worker=9"), "peers.b.threads_per_worker"),
        (("data.name=folder", "data.loader_workers=9"), "data.loader_workers"),
        (("resources.threads_per_worker=8",), ""),
        (("data.loader_workers=9",), ""),  # processes decode only images of a folder
    ],
)
def test_threads_and_processes_are_compared_with_the_cores(
    pairs: tuple[str, ...], field: str
) -> None:
    configuration = load(None, list(pairs))
    require_cores(configuration, [])  # nothing is refused for unknown nodes
    if not field:
        require_cores(configuration, [{"CPU": 1.0}, {"CPU": 2.0}])
        return
    with refused(field, 9, (0, 8)):
        require_cores(configuration, [{"CPU": 1.0}, {"CPU": 2.0}])


@pytest.mark.parametrize(
    ("pairs", "sizes", "needed", "named"),
    [
        ((), Sizes(1000, 0, 0), 20_000, "student"),
        ((), Sizes(1000, 100_000, 0), 420_000, "teacher.network"),
        (("resources.workers=2",), Sizes(1000, 100, 0), 40_800, "student"),
        ((PEER, "resources.workers=2"), Sizes(1000, 0, 0), 20_000, "student"),
        (("training.batch_size=10",), Sizes(0, 0, 100), 12_000, "training.batch_size"),
    ],
)
def test_networks_and_batches_are_compared_with_the_memory(
    pairs: tuple[str, ...], sizes: Sizes, needed: int, named: str
) -> None:
    configuration = load(None, list(pairs))
    require_memory(configuration, sizes, needed)
    require_memory(configuration, sizes, 0)  # not known
    with refused(named, needed, (0, needed - 1)):
        require_memory(configuration, sizes, needed - 1)
