"""Break the targets of a chaos run: a driver's processes, a store's files, its disk."""

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

import psutil

from tests.faults.broken import NAME, DriverProcess
from tests.faults.chaos_schedule import PROCESSES, Failure

MIB = 2**20
DISK_BYTES = 640 * MIB  # of the store's file system, which takes memory as it is written
DETACH = 2  # sys/mount.h
CHECKPOINT = ("student.safetensors", "best.safetensors", "optimizer.pt", "progress.json")


def processes(driver: DriverProcess, target: str) -> list[psutil.Process]:
    """Return the live processes of that kind below the driver, including stopped ones."""
    name, found = PROCESSES[target], []
    for process in driver.descendants(""):
        with contextlib.suppress(psutil.Error):
            command = next(iter(process.cmdline()), "")  # a zombie has none
            if command.startswith(name) or Path(command).name == name:
                found.append(process)
    return found


def mount(folder: Path) -> bool:
    """Mount a small file system on a folder if necessary; return whether it is mounted."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.path.ismount(folder):
        return True
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(
        library.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={DISK_BYTES},mode=700".encode())
        == 0
    )


def unmount(folder: Path) -> None:
    """Unmount the file system, which deletes its content."""
    if os.path.ismount(folder):
        ctypes.CDLL(None).umount2(bytes(folder), DETACH)


def fill(file: Path) -> None:
    """Fill the disk of a file."""
    with open(file, "wb", buffering=0) as taking:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while taking.write(b"\0" * size) == size:
                    pass


def damaged_file(store: Path, failure: Failure) -> Path | None:
    """Return the file or folder that a failure damages; None if there is none yet."""
    sweep = store / "sweeps" / NAME
    if failure.target == "checkpoint":
        found = sorted(
            (path for path in sweep.glob("trials/*/checkpoint") if (path / CHECKPOINT[0]).exists()),
            reverse=True,
        )
        if not found:
            return None
        names = CHECKPOINT if failure.action == "truncated" else (*CHECKPOINT, "")
        return found[0] / names[int(failure.choice * len(names))]
    if failure.target == "cache view":
        return _chosen(sorted(store.glob("knowledge/*/*.npy")), failure.choice)
    if failure.target == "record":
        trials = sorted(sweep.glob("trials/*/trial.json"))
        return _chosen(
            [*trials, *(sweep / name for name in ("sweep.json", "sweep.copy.json", "mlflow.json"))],
            failure.choice,
        )
    return sweep / "study.log"


def _chosen(files: list[Path], choice: float) -> Path | None:
    return files[int(choice * len(files))] if files else None


def damage(path: Path, failure: Failure) -> bool:
    """Truncate a file like an unfinished write, or remove it; return whether it existed."""
    try:
        if failure.action == "missing":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return True
        content = path.read_bytes()
        kept = (
            content.rstrip(b"\n")[:-9]
            if failure.target == "study"
            else content[: len(content) // 2]
        )
        with path.open("r+b") as stream:  # the same inode, which other processes may have mapped
            stream.truncate(len(kept))
        return True
    except OSError:  # missing, or being replaced
        return False
