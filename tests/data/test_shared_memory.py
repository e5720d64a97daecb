"""Test decoded images with any size of /dev/shm, and the error if they do not arrive."""

import os
import resource
import shutil
import signal
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import _utils

from orchestrator.core.errors import LoaderError
from orchestrator.data import pictures, shared_memory
from orchestrator.data.pictures import decode
from orchestrator.data.shared_memory import MIB, can_pass_memory, describe_shortage, has_room
from tests.refusal import refused

Usage = namedtuple("Usage", "total used free")
NAMES = ("0.png", "1.png", "2.png", "3.png")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / name)
    return tmp_path


def decoded(
    root: Path, workers: int = 1, wait_s: float = 60.0, size: int = 8
) -> list[torch.Tensor]:
    batches = [np.array([0, 1]), np.array([3, 2])]
    return list(
        decode(root, np.array(NAMES, dtype=bytes), batches, size, None, workers, False, wait_s)
    )


def free(monkeypatch: pytest.MonkeyPatch, mib: float, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_memory, "SHARED", tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: Usage(64 * MIB, (64 - mib) * MIB, mib * MIB)
    )


def expected(batches: list[torch.Tensor]) -> bool:
    return [batch[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [3, 2]]


def full(_: torch.Tensor) -> torch.Tensor:
    raise RuntimeError(
        "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on "
        "device (28)"
    )


@pytest.mark.parametrize("how", ["shared", "no room", "no room in the end", "no socket"])
def test_batches_arrive_complete_and_in_order(
    images: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "no room":
        monkeypatch.setattr(pictures, "has_room", lambda _: False)
        monkeypatch.setattr(
            torch.Tensor, "share_memory_", lambda _: pytest.fail("there is no room")
        )
    if how == "no room in the end":
        monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    if how == "no socket":
        monkeypatch.setattr(pictures, "can_pass_memory", lambda: False)
    assert expected(decoded(images, workers=2))


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere shared memory is no file that a limit could stop"
)
def test_a_batch_without_shared_memory_is_sent_through_a_pipe(images: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (65536, hard)
    )  # no larger file, so no larger shared memory: 2 x 200 x 200 x 3 bytes
    try:
        assert expected(decoded(images, size=200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_has_room_keeps_a_reserve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free(monkeypatch, 20, tmp_path)
    assert has_room(4 * MIB) and not has_room(4 * MIB + 1)
    monkeypatch.setattr(
        shared_memory, "SHARED", tmp_path / "none"
    )  # as on macOS, where no folder bounds it
    assert has_room(2**50)


def test_a_shortage_of_shared_memory_is_described_with_its_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free(monkeypatch, 40, tmp_path)
    assert (
        describe_shortage(MIB, 6) == "" == describe_shortage(2**40, 0)
    )  # 24 MiB and the reserve; no processes, no memory
    assert (
        "less free space than the 44 MiB that data.loader_workers = 7 may need"
        in describe_shortage(MIB, 7)
    )
    assert (
        "less free space than the 48 MiB that data.loader_workers = 2 may need"
        in describe_shortage(MIB, 2, processes=4)
    )
    assert describe_shortage(MIB, 7).startswith(f"{tmp_path} (64 MiB)")


def test_a_too_long_tmpdir_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tempfile, "tempdir", "/" + "t" * 74
    )  # with multiprocessing's 32 the longest path of a socket
    assert can_pass_memory()
    monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * 80)
    assert not can_pass_memory() and describe_shortage(1, 1).startswith("TMPDIR = /ttt")


def test_a_killed_decoding_process_is_reported(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: Any, index: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pictures._Images, "__getitem__", die)
    with refused("data.loader_workers", 1, (0, 0), LoaderError):
        decoded(images)


def test_a_batch_that_never_arrives_is_reported(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / NAMES[0]).unlink()
    os.mkfifo(images / NAMES[0])  # opening it waits for a writer that never comes
    monkeypatch.setattr(pictures, "POLL_S", 0.05)
    # timeout for the end of the process
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.05)
    with refused("resources.heartbeat_timeout_s", 0.2, error=LoaderError):
        decoded(images, wait_s=0.1)
