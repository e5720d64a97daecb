"""Upload shared inputs to a remote store once, and download them once for each node.

A store in a folder needs no staging: all nodes see it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from orchestrator.config.trial import TrialSpec
from orchestrator.core import disk
from orchestrator.core.errors import PreflightError
from orchestrator.store.remote import Heartbeat, Remote, local_folder
from orchestrator.store.store import Store, replacing

if TYPE_CHECKING:  # it imports torch
    from orchestrator.core.context import TrialContext

POLL_S = 1.0
# the file that is uploaded last, by field of the specification
MARKS = {"data": "data.json", "teacher": "teacher.json"}


def publish(store: Store, folder: Path, mark: str) -> None:
    """Upload a folder of the driver to the remote store, unless it is there.

    Args:
        store: The store. Nothing happens if it is a folder.
        folder: The folder, below the root of the store.
        mark: The file of the folder that is uploaded last. Its presence means that all files are
            there.

    Raises:
        PreflightError: The store cannot be written.
    """
    if not store.uri:
        return
    remote, name = Remote(store.uri), folder.relative_to(store.root).as_posix()
    try:
        if not remote.has(f"{name}/{mark}"):
            remote.put(folder, name, mark)
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        raise PreflightError(
            f"{name} cannot be written to {store.uri} ({reason}): check its free space and the "
            f"credentials"
        ).with_details("--store", store.uri, "a writable store with free space") from error


def stage_on_node(spec: TrialSpec, context: "TrialContext") -> TrialSpec:
    """Download data and teacher to this node; return the specification with the local folders.

    All ranks must call this together. They wait and retry while the store does not respond.

    Raises:
        PreflightError: Files are missing in the store.
    """
    if not spec.uri or spec.root is None:
        return spec
    root, given = local_folder(spec.uri), spec.root

    def bring() -> dict[str, Path | tuple[Path, ...]]:
        remote = Remote(spec.uri)

        def fetch(folder: Path, mark: str) -> Path:
            name = folder.relative_to(given).as_posix()
            return fetch_once(remote, name, root / name, mark, context.heartbeat)

        single = {
            key: fetch(getattr(spec, key), mark)
            for key, mark in MARKS.items()
            if getattr(spec, key)
        }
        return {
            **single,
            "teachers": tuple(fetch(each, MARKS["teacher"]) for each in spec.teachers),
        }

    local_folders = disk.raise_on_all_ranks(context, bring, root, away=spec.uri)
    return spec.model_copy(
        update={"root": root, "folder": root / spec.folder.relative_to(given), **local_folders}
    )


def fetch_once(
    remote: Remote, name: str, folder: Path, mark: str, heartbeat: Heartbeat = lambda: None
) -> Path:
    """Return this node's copy of a remote folder, downloaded once for all processes of the node.

    Args:
        remote: The remote store.
        name: The remote folder.
        folder: The local folder.
        mark: The file whose presence means that the copy is complete.
        heartbeat: Called while waiting and downloading, as a heartbeat.

    Raises:
        PreflightError: The files are not in the store.
        OSError: The store does not respond.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    while not (folder / mark).exists():
        try:
            with lock.acquire(timeout=POLL_S):
                if not (folder / mark).exists():
                    with replacing(folder) as aside:
                        remote.get(name, aside, heartbeat=heartbeat)
        except Timeout:  # another process of this node downloads it
            heartbeat()
        except FileNotFoundError as error:
            raise PreflightError(
                f"{name} is not in {remote.uri}: resume the run on the machine that started it"
            ).with_details("--store", remote.uri, f"a store with {name}") from error
    return folder
