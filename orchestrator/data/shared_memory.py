"""Whether batches of decoded images can pass between processes through shared memory, or have to go through a pipe."""

import shutil
import socket
import sys
import tempfile
from pathlib import Path

SHARED = Path("/dev/shm")  # where Linux keeps shared memory; PyTorch's file_system sharing lies there too
PREFETCHED = 2  # batches of each process that decodes, as DataLoader has it
PASSES = 2  # that are open at once, as of training and of held-out samples
RESERVE_BYTES = 16 * 2**20  # for others, such as NCCL
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103  # bytes of a path that a socket can be bound to
LISTENER = "/pymp-12345678/listener-12345678"  # multiprocessing's socket below the temporary folder, which passes memory on
MIB = 2**20


def has_room(needed_bytes: int) -> bool:
    """Return whether so many bytes of shared memory are free, beside a reserve for others."""
    return not SHARED.is_dir() or shutil.disk_usage(SHARED).free >= needed_bytes + RESERVE_BYTES


def can_pass_memory() -> bool:
    """Return whether processes can hand shared memory to each other: their socket needs a short path."""
    return not hasattr(socket, "AF_UNIX") or len(tempfile.gettempdir().encode()) + len(LISTENER) <= LONGEST_SOCKET


def describe_shortage(batch_bytes: int, workers: int, processes: int = 1) -> str:
    """Return why batches go through pipes, which is slower, and what to do; empty where shared memory suffices.

    Args:
        batch_bytes: Of the images of one batch.
        workers: Processes that decode for each training process (`data.loader_workers`).
        processes: Training processes of this machine.
    """
    if not workers:
        return ""
    how = "so batches of images go through pipes, which is slower"
    if not can_pass_memory():
        return f"TMPDIR = {tempfile.gettempdir()} is too long for a socket, {how}: set TMPDIR to a shorter path, such as /tmp"
    needed = batch_bytes * PREFETCHED * workers * PASSES * processes
    if has_room(needed):
        return ""
    size, wanted = shutil.disk_usage(SHARED).total / MIB, (needed + RESERVE_BYTES) / MIB
    return (
        f"{SHARED}, of {size:.0f} MiB, has less free than the {wanted:.0f} MiB that data.loader_workers = {workers} may need, "
        f"{how}: enlarge it (docker run --shm-size=2g), or lower data.loader_workers or training.batch_size"
    )
