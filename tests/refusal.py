"""Assert that a call is refused, by the attributes of the error instead of its message."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator.core.errors import ConfigurationError

ANY: Any = object()


@contextmanager
def refused(
    field: str | None,
    value: object = ANY,
    allowed: object = ANY,
    error: type[Exception] = ConfigurationError,
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Assert that the block raises `error` about `field`, `value` and `allowed`, if given."""
    with pytest.raises(error) as caught:
        yield caught
    refusal: Any = caught.value
    assert refusal.field == field, f"{refusal.field!r} is named in: {refusal}"
    assert value is ANY or refusal.value is value or refusal.value == value, (
        f"{refusal.value!r} is the value in: {refusal}"
    )
    assert allowed is ANY or refusal.allowed == allowed, (
        f"{refusal.allowed!r} is allowed in: {refusal}"
    )
    assert str(refusal).strip(), "a refusal has a sentence"
