"""Check whether decoded batches can pass between processes through shared memory."""

import shutil
import socket
import sys
import tempfile
from pathlib import Path

SHARED = Path("/dev/shm")  # Linux keeps shared memory here, also for PyTorch's file_system sharing
PREFETCHED = 2  # batches per decoding process, as in DataLoader
PASSES = 2  # open at once: training and held-out samples
RESERVE_BYTES = 16 * 2**20  # for other users, such as NCCL
# bytes of a path that a socket can be bound to
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
# multiprocessing's socket below the temporary folder, which passes shared memory
LISTENER = "/pymp-12345678/listener-12345678"
MIB = 2**20


def has_room(needed_bytes: int) -> bool:
    """Return whether that much shared memory is free, besides a reserve for other users."""
    return not SHARED.is_dir() or shutil.disk_usage(SHARED).free >= needed_bytes + RESERVE_BYTES


def can_pass_memory() -> bool:
    """Return whether processes can pass shared memory to each other.

    They use a socket, which needs a short path.
    """
    return (
        not hasattr(socket, "AF_UNIX")
        or len(tempfile.gettempdir().encode()) + len(LISTENER) <= LONGEST_SOCKET
    )


def describe_shortage(batch_bytes: int, workers: int, processes: int = 1) -> str:
    """Return why batches go through pipes, which is slower, and the next step.

    The text is empty if shared memory suffices.

    Args:
        batch_bytes: Size of the images of one batch.
        workers: Decoding processes for each training process (`data.loader_workers`).
        processes: Training processes of this machine.
    """
    if not workers:
        return ""
    how = "so batches of images are sent through pipes, which is slower"
    if not can_pass_memory():
        return (
            f"TMPDIR = {tempfile.gettempdir()} is too long for a socket, {how}: set TMPDIR "
            f"to a shorter path, such as /tmp"
        )
    needed = batch_bytes * PREFETCHED * workers * PASSES * processes
    if has_room(needed):
        return ""
    size, required = shutil.disk_usage(SHARED).total / MIB, (needed + RESERVE_BYTES) / MIB
    return (
        f"{SHARED} ({size:.0f} MiB) has less free space than the {required:.0f} MiB that "
        f"data.loader_workers = {workers} may need, {how}: enlarge it (docker run --shm-size=2g), "
        "or lower data.loader_workers or training.batch_size"
    )
