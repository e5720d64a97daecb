"""Fixtures of the method tests: batches and teacher outputs that satisfy a method's needs."""

from collections.abc import Callable

import pytest

from methods import Batch, Method
from orchestrator.extensions.method_checks import build_batch, prepare_method

Prepare = Callable[..., Method]
MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_batch() -> MakeBatch:
    """Return a function that builds a batch with exactly the inputs that a method needs."""
    return build_batch


@pytest.fixture
def prepare() -> Prepare:
    """Return a function that builds a method by name and prepares it for the small task."""
    return prepare_method
