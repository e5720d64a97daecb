"""Fixtures of the tests with Ray: a shared instance, and sweeps on its worker groups.

Tests of the start of Ray, and whole commands, start their own: `own_ray` ends the shared one first.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from orchestrator.config.schema import Configuration
from tests.on_ray.shared import GROUPS, SharedRay
from tests.sweep_runs import RunSweep, SharedGroups, run_small


@pytest.fixture(scope="session")
def shared_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRay]:
    """Return the Ray instance of this folder's tests."""
    shared = SharedRay(tmp_path_factory.mktemp("groups"))
    yield shared
    shared.close()


@pytest.fixture
def own_ray(shared_ray: SharedRay) -> None:
    """End the shared Ray instance, because the test starts its own in this process."""
    shared_ray.close()


@pytest.fixture
def shared_groups(shared_ray: SharedRay) -> Callable[[Configuration], SharedGroups]:
    """Return a function that returns the shared worker groups on which a configuration runs."""

    def select(configuration: Configuration) -> SharedGroups:
        workers = configuration.resources.workers
        concurrent = min(configuration.resources.groups or GROUPS[workers], GROUPS[workers])
        return shared_ray.groups(workers), lambda: concurrent

    return select


@pytest.fixture
def run(tmp_path: Path, shared_groups: Callable[[Configuration], SharedGroups]) -> RunSweep:
    """Return a function that runs a sweep or training in its own store on the shared groups."""
    return partial(run_small, tmp_path / "store", shared_groups=shared_groups)
