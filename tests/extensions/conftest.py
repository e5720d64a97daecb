"""Fixtures of the tests of user code: everything that a test registers is forgotten after it."""

from collections.abc import Iterator

import pytest

from orchestrator.extensions.loading import unload_all


@pytest.fixture(autouse=True)
def forget_code() -> Iterator[None]:
    """Forget user code after each test."""
    yield
    unload_all()
