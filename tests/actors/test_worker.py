"""Test a worker's handling of errors: of the trial, of its environment, and on one rank only."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from methods import SettingsError
from orchestrator.cluster import _worker as worker
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import (
    ConfigurationError,
    DispatcherTimeoutError,
    PreflightError,
    TrialError,
)
from orchestrator.core.reports import Report, TrialFailure
from orchestrator.extensions.shipping import Shipment
from tests.user_code import unload_all

Specify = Callable[..., TrialSpec]


class Connection(worker._DispatcherConnection):
    """A connection that records its messages; `lost`: the dispatcher died meanwhile."""

    def __init__(self, lost: bool = False) -> None:
        super().__init__(None, 0, 0)
        self.messages: list[Any] = []
        self.lost = lost

    def open_trial(self, spec: TrialSpec) -> None:
        self.trial = spec.name

    def report(self, report: Report) -> None:
        self.messages.append(report)

    def report_infrastructure_failure(self, fault: str) -> None:
        self.messages.append({"infrastructure_failure": fault})

    def has_lost_dispatcher(self) -> bool:
        return self.lost

    def release_trial(self) -> None:
        self.messages.append("given back")


def training(
    monkeypatch: pytest.MonkeyPatch,
    specify: Specify,
    error: Exception | None,
    world_size: int = 1,
    connection: Connection | None = None,
) -> list[Any]:
    """Return the connection's messages about a trial that raises `error`."""

    def work(spec: TrialSpec, context: TrialContext) -> None:
        if error:
            raise error

    monkeypatch.setattr(worker, "execute", work)
    connection = connection or Connection()
    specification = specify("teacher=null", "method.name=cross_entropy")
    try:
        worker._train(specification, connection, TrialContext(world_size=world_size), "")
    except Exception as raised:
        assert raised is error
        connection.messages.append("raised")
    return connection.messages


@pytest.mark.parametrize("error", [TrialError("diverged"), SettingsError("no such setting")])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_trial_error_on_all_ranks_keeps_the_group(
    monkeypatch: pytest.MonkeyPatch, specify: Specify, error: Exception, world_size: int
) -> None:
    assert training(monkeypatch, specify, error, world_size) == [
        TrialFailure(str(error)),
        "given back",
    ]


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_environment_error_on_all_ranks_is_retried_by_the_same_group(
    monkeypatch: pytest.MonkeyPatch, specify: Specify, world_size: int
) -> None:
    """The group requests a trial while it holds one, and gets it again."""
    assert training(monkeypatch, specify, PreflightError("locked"), world_size) == [
        {"infrastructure_failure": "locked"}
    ]


@pytest.mark.parametrize(("world_size", "then"), [(1, "given back"), (2, "raised")])
@pytest.mark.parametrize(
    "error", [ConfigurationError("cat.png cannot be decoded"), ValueError("no such shape")]
)
def test_an_error_on_one_rank_restarts_a_group_of_several(
    monkeypatch: pytest.MonkeyPatch, specify: Specify, error: Exception, world_size: int, then: str
) -> None:
    """A rank that skips a damaged image's trial would leave the others in a collective."""
    (record, last) = training(monkeypatch, specify, error, world_size)
    assert str(error) in record.message and last == then


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    "error",
    [
        OSError(116, "Stale file handle"),
        ConnectionResetError(104, "reset by peer"),
        RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
        torch.distributed.DistNetworkError("timed out"),
        DispatcherTimeoutError("the dispatcher has not answered for 120 s"),
    ],
)
def test_an_unusable_process_ends(
    monkeypatch: pytest.MonkeyPatch, specify: Specify, error: Exception, world_size: int
) -> None:
    messages = training(monkeypatch, specify, error, world_size)
    assert (
        [*messages[0]] == ["infrastructure_failure"]
        and str(error) in messages[0]["infrastructure_failure"]
        and messages[1:] == ["raised"]
    )


def test_an_unreachable_dispatcher_gets_no_failure_report(
    monkeypatch: pytest.MonkeyPatch, specify: Specify
) -> None:
    class Mute(Connection):
        def report_infrastructure_failure(self, fault: str) -> None:
            raise DispatcherTimeoutError("no answer")

    assert training(monkeypatch, specify, OSError("stale"), connection=Mute()) == ["raised"]


@pytest.mark.parametrize(("lost", "messages"), [(False, ["given back"]), (True, [])])
def test_a_trial_of_a_dead_dispatcher_is_not_released_at_the_next_one(
    monkeypatch: pytest.MonkeyPatch, specify: Specify, lost: bool, messages: list[Any]
) -> None:
    """A live dispatcher would end the trial; a new one gets the state from the next request."""
    assert training(monkeypatch, specify, None, connection=Connection(lost)) == messages


def test_code_that_a_worker_cannot_load_fails_its_trials(
    monkeypatch: pytest.MonkeyPatch, specify: Specify
) -> None:
    """An error outside of a trial would start the group again and again."""
    context = TrialContext()
    assert worker._load_code(Shipment({"fine.py": ""}), context) == ""
    problem = worker._load_code(Shipment({"mine.py": "import no_such_module"}), context)
    unload_all()
    assert "mine.py:1" in problem and "no_such_module" in problem
    connection = Connection()
    monkeypatch.setattr(worker, "execute", lambda *_: pytest.fail("the trial must not run"))
    specification = specify("teacher=null", "method.name=cross_entropy")
    worker._train(specification, connection, context, problem)
    assert connection.messages == [TrialFailure(problem), "given back"]
