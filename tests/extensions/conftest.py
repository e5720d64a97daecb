"""Fixtures of the tests of user code: everything that a test registers is forgotten after it."""

from collections.abc import Iterator

import pytest

from tests.user_code import unload_all


@pytest.fixture(autouse=True)
def forget_code() -> Iterator[None]:
    """Forget user code after each test."""
    yield
    unload_all()
