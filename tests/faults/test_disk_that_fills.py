"""Fill the disk during a sweep: it pauses with a message, resumes with space, and is undamaged."""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store.records import Sweep
from tests.faults.broken import check_all, epochs, start_sweep
from tests.faults.conftest import UNDISTURBED_SETTINGS, AddRow

pytestmark = pytest.mark.faults
MIB = 2**20
SIZE = 512 * MIB  # of the disk, which takes memory as it is written
DETACH = 2  # sys/mount.h


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """Return a store on its own small file system in memory; the output is outside of it."""
    if sys.platform != "linux":
        pytest.skip("a small file system can be mounted only on Linux")
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={SIZE},mode=700".encode()):
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    assert not library.umount2(bytes(folder), DETACH), os.strerror(ctypes.get_errno())


def fill(file: Path) -> None:
    """Fill the disk of a file."""
    with open(file, "wb", buffering=0) as taking:
        for size in (MIB, 4096, 1):
            try:
                while taking.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue


def test_sweep_waits_for_disk_space(store: Path, undisturbed: Sweep, add_row: AddRow) -> None:
    ballast = store / "ballast"
    with start_sweep(store, *UNDISTURBED_SETTINGS) as driver:
        driver.wait_for(lambda: epochs(store) >= 8, "epoch 8")
        fill(ballast)
        driver.wait_for(
            lambda: "the disk of" in driver.output and "is full" in driver.output,
            "sentence about the disk",
        )
        at_rest = epochs(store)
        ballast.unlink()
        driver.wait_for(lambda: epochs(store) > at_rest, "next epoch")
        assert driver.wait_until_ended() == 0, driver.output
    check_all(store, undisturbed)
    add_row(
        "the disk full in the middle of a sweep, until the sweep reported it",
        "once, in the first trial",
        len(undisturbed.trials),
    )
