"""What a worker of a group does with a failure: its own, or one that the others would wait for. Starts no Ray."""

from collections.abc import Callable
from typing import Any

import pytest

from methods import SettingsError
from orchestrator.actors import worker
from orchestrator.context import TrialContext
from orchestrator.errors import ConfigurationError, EnvironmentUnfitError, TrialError
from orchestrator.trial import TrialSpec

Specify = Callable[..., TrialSpec]


class Line:
    """A dispatcher's line that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.report = self.heard.append

    def open(self, trial: str, leads: bool) -> None:
        """A trial begins."""

    def asked_to_stop(self) -> bool:
        """Never."""
        return False

    def alive(self) -> None:
        """Unheard."""

    def give_back(self) -> None:
        """The trial ends."""
        self.heard.append("given back")


def failing(monkeypatch: pytest.MonkeyPatch, specify: Specify, error: Exception, world_size: int) -> list[Any]:
    """What the line heard of a trial that fails with `error`."""

    def work(spec: TrialSpec, context: TrialContext) -> None:
        raise error

    monkeypatch.setattr(worker, "work", work)
    line: Any = Line()
    specification = specify("teacher=null", "method.name=cross_entropy").plain()
    try:
        worker._train("trial", specification, line, TrialContext(world_size=world_size))
    except type(error) as raised:
        assert raised is error
        line.heard.append("raised")
    heard: list[Any] = line.heard
    return heard


@pytest.mark.parametrize("error", [TrialError("diverged"), SettingsError("no such setting"), EnvironmentUnfitError("locked")])
@pytest.mark.parametrize("world_size", [1, 2])
def test_what_all_ranks_raise_leaves_the_group_as_it_is(
    monkeypatch: pytest.MonkeyPatch, specify: Specify, error: Exception, world_size: int
) -> None:
    assert failing(monkeypatch, specify, error, world_size) == [{"failed": str(error)}, "given back"]


@pytest.mark.parametrize(("world_size", "then"), [(1, "given back"), (2, "raised")])
def test_what_one_rank_may_raise_alone_restarts_a_group_of_several(
    monkeypatch: pytest.MonkeyPatch, specify: Specify, world_size: int, then: str
) -> None:
    """A rank that met a damaged image and asked for the next trial would leave the others in the collective of this one."""
    error = ConfigurationError("cat.png cannot be decoded")
    assert failing(monkeypatch, specify, error, world_size) == [{"failed": "cat.png cannot be decoded"}, then]
