"""What the nodes of a run have in common where its store is a URI: put there once, fetched once into the folder of each node.

Where the store is a folder there is nothing to do: all nodes see it.
"""

from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.config.trial import TrialSpec
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError
from orchestrator.store.remote import Alive, Remote, local_folder
from orchestrator.store.store import Store, replacing

POLL_S = 1.0
MARKS = {"data": "data.json", "teacher": "teacher.json"}  # of what a specification reads: the file that is put last


def publish(store: Store, folder: Path, mark: str) -> None:
    """Put a folder of the driver's into the store of a URI, unless it is there: the file `mark` says so."""
    if not store.uri:
        return
    remote, name = Remote(store.uri), folder.relative_to(store.root).as_posix()
    try:
        if not remote.has(f"{name}/{mark}"):
            remote.put(folder, name, mark)
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        raise PreflightError(
            f"{name} cannot be written to {store.uri} ({reason}): see its space and credentials",
            field="--store",
            value=store.uri,
            allowed="a store with space that may be written",
        ) from error


def stage_on_node(spec: TrialSpec, context: TrialContext) -> TrialSpec:
    """The specification with this node's folders, which data and teacher are fetched into; all ranks call this together.

    While the store does not answer they wait; PreflightError where it does not have what it should.
    """
    if not spec.uri or spec.root is None:
        return spec
    root, given = local_folder(spec.uri), spec.root

    def bring() -> dict[str, Path]:
        remote = Remote(spec.uri)
        names = {key: getattr(spec, key).relative_to(given).as_posix() for key in MARKS if getattr(spec, key)}
        return {key: fetched(remote, name, root / name, MARKS[key], context.alive) for key, name in names.items()}

    found = disk.raise_on_all_ranks(context, bring, root, away=spec.uri)
    return spec.model_copy(update={"root": root, "folder": root / spec.folder.relative_to(given), **found})


def fetched(remote: Remote, name: str, folder: Path, mark: str, alive: Alive = lambda: None) -> Path:
    """The folder of this node with the files below `name`, fetched once for all of its processes; `mark` is one of them.

    PreflightError where they are not in the store, OSError where it does not answer.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    while not (folder / mark).exists():
        try:
            with lock.acquire(timeout=POLL_S):
                if not (folder / mark).exists():
                    with replacing(folder) as aside:
                        remote.get(name, aside, alive=alive)
        except Timeout:  # another process of this node fetches it
            alive()
        except FileNotFoundError as error:
            raise PreflightError(
                f"{name} is not in {remote.uri}: start the run where it was started first",
                field="--store",
                value=remote.uri,
                allowed=f"a store with {name}",
            ) from error
    return folder
