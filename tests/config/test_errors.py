"""Test that errors keep their attributes, also between processes."""

import copy

import pytest

from orchestrator.core.errors import ConfigurationError, PreflightError, TrialError, UserError
from tests.refusal import refused


@pytest.mark.parametrize("kind", [UserError, ConfigurationError, PreflightError, TrialError])
def test_an_error_keeps_field_value_and_allowed_when_pickled(kind: type[UserError]) -> None:
    error = copy.copy(
        kind("training.epochs is 0").with_details("training.epochs", 0, (1, None))
    )  # through __reduce__, as in pickle
    assert type(error) is kind
    assert (str(error), error.field, error.value, error.allowed) == (
        "training.epochs is 0",
        "training.epochs",
        0,
        (1, None),
    )


def test_refused_rejects_an_error_about_another_field() -> None:
    with pytest.raises(AssertionError, match="epochs"), refused("training.batch_size"):
        raise ConfigurationError("training.epochs is 0").with_details("training.epochs", 0)
