"""Test that too long socket paths below TMPDIR are refused by the variable's name."""

import os
import socket
from pathlib import Path

import pytest

from orchestrator.config.resources import LONGEST_SOCKET, SOCKET, ray_folder, require_short_sockets
from orchestrator.core.errors import PreflightError
from tests.refusal import refused

NAMES = ("RAY_TMPDIR", "TMPDIR")


@pytest.fixture(autouse=True)
def neither(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("orchestrator.config.resources.sys.platform", "linux")


def test_ray_tmpdir_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_system_temp_dir

    assert ray_folder() == ("", "/tmp") == ("", get_default_system_temp_dir())
    for name in reversed(NAMES):
        monkeypatch.setenv(name, f"/of/{name}")
        assert ray_folder() == (name, f"/of/{name}") == (name, get_default_system_temp_dir())


@pytest.mark.parametrize("name", NAMES)
def test_the_longest_socket_path_is_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    require_short_sockets()
    room = LONGEST_SOCKET - len(SOCKET.format(pid=os.getpid())) - 1
    monkeypatch.setenv(name, "/" + "t" * (room - 1))
    require_short_sockets()
    monkeypatch.setenv(name, "/" + "t" * room)
    with refused(name, "/" + "t" * room, "at most 39 bytes", PreflightError):
        require_short_sockets()


def test_the_limit_equals_that_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for length, allowed in ((LONGEST_SOCKET, True), (LONGEST_SOCKET + 1, False)):
        with socket.socket(socket.AF_UNIX) as probe:
            if allowed:
                probe.bind("s" * length)
            else:
                with pytest.raises(OSError, match="too long"):
                    probe.bind("s" * length)
