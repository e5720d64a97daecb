"""What a chaos run breaks: the processes below a driver, the files of a store, and the disk that it lies on."""

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

import psutil

from tests.faults.broken import NAME, Life
from tests.faults.chaos_schedule import PROCESSES, Failure

MIB = 2**20
DISK_BYTES = 640 * MIB  # of the file system of the store, which is memory that is taken when it is written
DETACH = 2  # sys/mount.h
CHECKPOINT = ("student.safetensors", "best.safetensors", "optimizer.pt", "progress.json")


def processes(life: Life, target: str) -> list[psutil.Process]:
    """Return the living processes of that kind below the driver, whether they are stopped or not."""
    name, found = PROCESSES[target], []
    for process in life.below(""):
        with contextlib.suppress(psutil.Error):
            command = next(iter(process.cmdline()), "")  # none of one that is dead and not waited for
            if command.startswith(name) or Path(command).name == name:
                found.append(process)
    return found


def mount(folder: Path) -> bool:
    """Put a small file system into a folder, unless it is there already; return whether it is there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.path.ismount(folder):
        return True
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={DISK_BYTES},mode=700".encode()) == 0)


def unmount(folder: Path) -> None:
    """Take the file system away, with all that is in it."""
    if os.path.ismount(folder):
        ctypes.CDLL(None).umount2(bytes(folder), DETACH)


def fill(file: Path) -> None:
    """Take all space that is left on the disk of a file."""
    with open(file, "wb", buffering=0) as taking:
        for size in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while taking.write(b"\0" * size) == size:
                    pass


def damaged_file(store: Path, failure: Failure) -> Path | None:
    """Return the file, or the folder, that a failure is to damage; None where there is none yet."""
    sweep = store / "sweeps" / NAME
    if failure.target == "checkpoint":
        found = sorted((path for path in sweep.glob("trials/*/checkpoint") if (path / CHECKPOINT[0]).exists()), reverse=True)
        if not found:
            return None
        names = CHECKPOINT if failure.action == "truncated" else (*CHECKPOINT, "")
        return found[0] / names[int(failure.choice * len(names))]
    if failure.target == "cache view":
        return _chosen(sorted(store.glob("knowledge/*/*.npy")), failure.choice)
    if failure.target == "record":
        trials = sorted(sweep.glob("trials/*/trial.json"))
        return _chosen([*trials, *(sweep / name for name in ("sweep.json", "sweep.copy.json", "mlflow.json"))], failure.choice)
    return sweep / "study.log"


def _chosen(files: list[Path], choice: float) -> Path | None:
    return files[int(choice * len(files))] if files else None


def damage(path: Path, failure: Failure) -> bool:
    """Cut a file off, as a write that did not end does, or remove it; return whether there was something to damage."""
    try:
        if failure.action == "missing":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return True
        content = path.read_bytes()
        kept = content.rstrip(b"\n")[:-9] if failure.target == "study" else content[: len(content) // 2]
        with path.open("r+b") as stream:  # the same file, which others may have mapped
            stream.truncate(len(kept))
        return True
    except OSError:  # it is not there, or is replaced at this moment
        return False
