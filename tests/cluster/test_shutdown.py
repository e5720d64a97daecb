"""Test the shutdown of an unresponsive Ray, without Ray."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cluster import connect

LONG_S = 60.0


@pytest.fixture
def give_up_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the calls of `give_up`: reason and exit code."""
    calls: list[Any] = []
    monkeypatch.setattr(connect, "SHUTDOWN_S", 0.05)
    monkeypatch.setattr(connect, "give_up", lambda reason, code: calls.append((reason, code)))
    return calls


def shut_down(monkeypatch: pytest.MonkeyPatch, released: threading.Event, cluster: Any) -> None:
    """Shut down with a `ray.shutdown` that waits for `released`."""
    monkeypatch.setattr(
        "ray.shutdown",
        lambda: None if released.wait(LONG_S) else pytest.fail("not released in time"),
    )
    connect._shut_down(cluster)


def test_an_own_cluster_that_does_not_shut_down_is_killed(
    give_up_calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    released, ended = threading.Event(), []

    def kill() -> None:
        ended.append("killed")
        monkeypatch.setattr(connect, "SHUTDOWN_S", LONG_S)
        released.set()

    def end() -> None:
        ended.append("ended")

    shut_down(monkeypatch, released, SimpleNamespace(kill=kill, end=end))
    assert ended == ["killed", "ended"] and not give_up_calls


def test_the_process_exits_if_killing_does_not_help(
    give_up_calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def give_up(reason: str, code: int) -> None:
        give_up_calls.append(code)
        released.set()

    monkeypatch.setattr(connect, "give_up", give_up)
    shut_down(monkeypatch, released, None)
    assert give_up_calls == [3]


def test_a_cluster_that_shuts_down_is_not_killed(
    give_up_calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    released.set()
    monkeypatch.setattr(connect, "SHUTDOWN_S", LONG_S)
    shut_down(monkeypatch, released, None)
    assert not give_up_calls
