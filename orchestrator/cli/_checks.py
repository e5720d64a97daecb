"""Check whether this machine or a cluster is fit for a run.

Each check takes the conditions and returns one finding. A "bad" finding ends with the next step.
No check leaves a lasting change, and none starts a trial.
"""

import contextlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.cli._findings import Conditions, Finding
from orchestrator.config.uris import database_uri
from orchestrator.core.errors import ConfigurationError, UserError
from orchestrator.core.project import IS_INSTALLED, ROOT, read_metadata
from orchestrator.store.remote import Remote
from orchestrator.store.store import SPARE_BYTES, Store

PROJECT = ROOT
TOKEN = Path("~/.ray/auth_token")
DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")
TWO_WORKERS_TIMEOUT_S = 120.0
OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO
LOW_SPACE_BYTES = 2 * 2**30  # with less, a run larger than the digits may fill the disk
RAY_FULL = 0.95  # used share of a disk above which Ray refuses to write objects to it
RAY_SHARED_BYTES = 200 * 2**20  # with less, Ray stores its objects on the disk


Check = Callable[[Conditions], Finding]


def run_checks(conditions: Conditions) -> Iterator[tuple[str, Finding]]:
    """Yield the name and the finding of each check in turn.

    A check that raises yields a "bad" finding. Slow checks are left out if `conditions.quick` is
    set.
    """
    for name, check in CHECKS.items():
        if not (conditions.quick and name in SLOW):
            try:
                yield name, check(conditions)
            except UserError as error:
                yield name, Finding("bad", str(error))
            except Exception as error:  # a broken library may raise any exception
                reason = " ".join(str(error).split())[:500]
                yield (
                    name,
                    Finding(
                        "bad",
                        f"{type(error).__name__}: {reason}: see the other lines for the cause",
                    ),
                )


def check_python(conditions: Conditions) -> Finding:
    """Compare the interpreter with `requires-python` of `pyproject.toml`."""
    needed = read_metadata(PROJECT).get("requires-python", ">=3.11")
    version = platform.python_version()
    if SpecifierSet(needed).contains(version, prereleases=True):
        return Finding("ok", f"{version} at {sys.executable}")
    return Finding(
        "bad",
        f"{version}, but {needed} is needed: "
        + (
            "install the program in an environment of such a Python"
            if IS_INSTALLED
            else "delete .venv and run `make install PYTHON=python3.12`"
        ),
    )


def check_packages(conditions: Conditions) -> Finding:
    """Compare the installed packages with `pyproject.toml` and `constraints.txt`.

    The torch version must also be the one that torchvision requires.
    """
    requirements = [Requirement(line) for line in read_metadata(PROJECT).get("dependencies", [])]
    if not requirements:
        return Finding(
            "warn", f"there is no pyproject.toml in {PROJECT}: versions are not compared"
        )
    versions = {each.name: _installed_version(each.name) for each in requirements}
    unmet = [each for each in requirements if not _satisfies(versions[each.name], each.specifier)]
    if unmet:
        problems = ", ".join(
            f"{each.name} {versions[each.name] or 'is missing'} ({each.specifier} is needed)"
            for each in unmet
        )
        return Finding("bad", f"{problems}: run {_describe_installation(*map(str, unmet))}")
    # a torchvision built for another torch fails here, at its operators
    from torchvision import __version__

    for line in importlib.metadata.requires("torchvision") or []:
        need = Requirement(line)
        if need.name == "torch" and not _satisfies(versions["torch"], need.specifier):
            return Finding(
                "bad",
                f"torchvision {__version__} requires torch {need.specifier}, not "
                f"{versions['torch']}: install both together with "
                f"{_describe_installation('torch', 'torchvision')}",
            )
    pinned = _pinned_versions()
    untested = [
        f"{name} {version} (tested with {pinned[name]})"
        for name, version in versions.items()
        if name in pinned and pinned[name] != version
    ]
    message = f"{len(requirements)} packages satisfy pyproject.toml"
    if pinned:
        message += (
            f"; not the tested version: {', '.join(untested)}"
            if untested
            else ", in the versions of constraints.txt"
        )
    return Finding("ok", message)


def check_ray(conditions: Conditions) -> Finding:
    """Check the token's file mode, and that a running Ray cluster accepts a connection.

    Only the last check starts a local cluster.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    remarks = []
    if mode.lower() != "token":
        remarks.append(
            f"RAY_AUTH_MODE is {mode}, so anyone who can reach Ray can run code: unset it"
        )
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN).expanduser()
    if token.exists() and token.stat().st_mode & OTHER_USERS:
        remarks.append(f"other users can read its token: chmod 600 {token}")
    address = conditions.address
    if address is None:
        from orchestrator.config.resources import require_short_sockets

        require_short_sockets()
        message = "a local cluster on the loopback address" + (
            ", with token authentication" if mode.lower() == "token" else ""
        )
    else:
        from orchestrator.cluster.connect import connect_to_ray, list_nodes
        from orchestrator.config.resources import require_answer

        require_answer(address)
        with connect_to_ray(address) as free:
            count = len(list_nodes())
            message = (
                f"{address} accepts connections: {count} node{'s' * (count != 1)}, "
                f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU free"
            )
    return Finding("warn" if remarks else "ok", "; ".join([message, *remarks]))


def check_devices(conditions: Conditions) -> Finding:
    """Report the usable CPUs, and test that torch can compute on each GPU."""
    import torch

    from orchestrator.config.resources import local_resources

    usable, total = int(local_resources()["CPU"]), os.cpu_count() or 1
    message = f"{usable} CPU" + (
        f" of {total} (limited by CPU affinity or the container's quota)" if usable < total else ""
    )
    needs_gpu = (
        conditions.configuration.resources.gpus_per_worker or 0
    ) > 0 and not conditions.address
    cards = [
        torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())
    ]
    for number, card in enumerate(cards):
        try:
            torch.ones(1, device=f"cuda:{number}").add_(1).item()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            return Finding(
                "bad",
                f"{message}; {card.name} fails to compute ({reason}): check nvidia-smi, or hide "
                f"this GPU with CUDA_VISIBLE_DEVICES; torch {torch.__version__} is built for CUDA "
                f"{torch.version.cuda}",
            )
    if cards:
        memory = ", ".join(
            f"{card.name} with {card.total_memory / 2**30:.0f} GiB" for card in cards
        )
        return Finding("ok", f"{message}; {len(cards)} GPU: {memory}")
    if DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        return Finding("bad" if needs_gpu else "warn", f"{message}; {_explain_unusable_gpu()}")
    if needs_gpu:
        requirement = (
            f"resources.gpus_per_worker = {conditions.configuration.resources.gpus_per_worker:g}"
        )
        return Finding(
            "bad",
            f"{message}, no GPU, but {requirement}: leave that setting out, or use a machine "
            f"with a GPU",
        )
    return Finding("ok", f"{message}, no GPU")


def _explain_unusable_gpu() -> str:
    """Return the reason why torch finds no GPU although an NVIDIA driver is installed."""
    import torch

    if torch.version.cuda is None:
        return (
            f"an NVIDIA driver is installed, but torch {torch.__version__} is built without "
            f"CUDA: install the version of constraints.txt"
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        return (
            f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot use the NVIDIA "
            f"driver ({reason}): update the driver"
        )
    return (
        f"an NVIDIA driver is installed, but torch {torch.__version__} finds no GPU: check "
        f"nvidia-smi"
    )


def check_store(conditions: Conditions) -> Finding:
    """Check that the store can be written and locked, and report other users' access to it.

    Raises:
        PreflightError: The URI of the store does not answer.
    """
    root, existing_folder = conditions.root, conditions.existing_folder
    if not existing_folder.is_dir():
        return Finding("bad", f"{existing_folder} is not a folder: choose another --store")
    if conditions.uri:
        _open_uri(conditions.uri)
    try:
        Store(root, conditions.uri).require_format()
    except ConfigurationError as error:
        return Finding("bad", str(error))
    try:
        with _temporary_folder(existing_folder) as folder:
            os.replace(_write_file(folder / "one"), folder / "two")
            locks_work = _has_working_locks(folder / "lock")
    except OSError as error:
        return Finding(
            "bad",
            f"{existing_folder} is not writable ({error.strerror or error}): choose a --store "
            f"that you can write to",
        )
    if not locks_work:
        return Finding(
            "bad",
            f"file locks do not work in {existing_folder}: choose a --store on a file system with "
            f"flock (NFS version 4 or later)",
        )
    if existing_folder != root:
        return Finding("ok", f"{root} does not exist yet and can be created, private to its owner")
    status = root.stat()
    remarks = []
    if status.st_uid != os.geteuid():
        remarks.append(f"it belongs to user {status.st_uid}, not to you")
    if status.st_mode & OTHER_USERS:
        remarks.append(f"other users can access it: chmod 700 {root}")
    mounted = sorted(
        each.name
        for each in root.iterdir()
        if each.is_dir() and each.stat().st_dev != status.st_dev
    )
    if mounted:
        remarks.append(
            f"{', '.join(mounted)} is on another file system, so checkpoints are copied instead "
            f"of linked"
        )
    if remarks:
        return Finding("warn", f"{root} can be written and locked; {'; '.join(remarks)}")
    return Finding("ok", f"{root} can be written and locked, and is private to its owner")


def check_disk_space(conditions: Conditions) -> Finding:
    """Check the free space of the store, of Ray's session folder and of shared memory."""
    temporary = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    free, disk = shutil.disk_usage(conditions.existing_folder).free, shutil.disk_usage(temporary)
    sizes = [f"store {_format_size(free)} free", f"{temporary} {_format_size(disk.free)} free"]
    if free < SPARE_BYTES:
        return Finding(
            "bad",
            f"{sizes[0]}, but {_format_size(SPARE_BYTES)} are needed: free some space, or choose "
            f"another --store",
        )
    if disk.free < SPARE_BYTES:
        return Finding(
            "bad",
            f"{sizes[1]}, but Ray needs {_format_size(SPARE_BYTES)}: free some space, or set "
            f"RAY_TMPDIR to a folder with more space",
        )
    remarks = []
    if free < LOW_SPACE_BYTES:
        remarks.append("that is little for a store: `--dry-run` estimates the disk space of a run")
    if disk.used > RAY_FULL * (disk.used + disk.free):
        remarks.append(
            f"{temporary} is more than {RAY_FULL:.0%} full, so Ray writes no objects there: "
            f"free some space"
        )
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free
        sizes.append(f"{SHARED_MEMORY} {_format_size(shared)} free")
        if shared < RAY_SHARED_BYTES:
            remarks.append(
                f"Ray needs {_format_size(RAY_SHARED_BYTES)} of {SHARED_MEMORY} and otherwise "
                f"uses the disk: enlarge it (docker run --shm-size=1g)"
            )
    return Finding("warn" if remarks else "ok", "; ".join([", ".join(sizes), *remarks]))


def check_tracking(conditions: Conditions) -> Finding:
    """Check that runs can be logged to SQLite in the store or to the configured server.

    The server is contacted with the credentials of the environment.
    """
    from orchestrator.tracking.overrides import unused_variables

    uri, database = conditions.configuration.tracking.uri, conditions.root / "mlflow.db"
    finding = _check_server(uri) if uri is not None else _check_sqlite(conditions, database)
    remarks = unused_variables(uri or database_uri(database)) if finding.fitness == "ok" else []
    if uri is None and unquote(str(conditions.root)) != str(conditions.root):
        remarks.append(
            f"MLflow cannot load registered models below {conditions.root}: remove the percent "
            f"code from the folder's name"
        )
    if remarks and finding.fitness == "ok":
        return Finding("warn", "; ".join([finding.message, *remarks]))
    return finding


def _check_server(uri: str) -> Finding:
    from orchestrator.tracking.health import find_refusal

    reason = find_refusal(uri)
    return Finding("bad", reason) if reason else Finding("ok", f"{uri} answers")


def _check_sqlite(conditions: Conditions, database: Path) -> Finding:
    """Check MLflow's database in the store.

    Raises:
        PreflightError: The installed MLflow cannot use the database.
    """
    from orchestrator.tracking.schema import require_schema

    try:
        if database.exists():
            with contextlib.closing(
                sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=5)
            ) as connection:
                connection.execute("BEGIN IMMEDIATE")  # needs write access, and writes nothing
                connection.rollback()
            require_schema(database)
            return Finding("ok", f"SQLite, {database} is writable")
        with (
            _temporary_folder(conditions.existing_folder) as folder,
            contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=5)) as connection,
        ):
            connection.execute("CREATE TABLE probe (number INTEGER)")
            connection.commit()
    except (OSError, sqlite3.Error) as error:
        return Finding(
            "bad",
            f"SQLite cannot write {database} ({error}): check which process uses it, choose "
            f"another --store, or set tracking.uri",
        )
    return Finding("ok", "SQLite, can be created in the store")


def check_two_workers(conditions: Conditions) -> Finding:
    """Start a worker group as a sweep does: Ray, two workers and an all-reduce between them."""
    import time

    from orchestrator.cluster.connect import connect_to_ray
    from orchestrator.cluster.descendants import record_descendants
    from orchestrator.cluster.smoke_test import run_two_workers
    from orchestrator.core.signals import stoppable

    started = time.monotonic()
    with (
        _temporary_folder(conditions.existing_folder) as folder,
        stoppable(),
        record_descendants(folder),
        connect_to_ray(conditions.address, cpus=2),
        stoppable(),
    ):
        connected = time.monotonic()
        run_two_workers(folder, TWO_WORKERS_TIMEOUT_S)
        ended = time.monotonic()
    return Finding(
        "ok",
        f"two workers summed a tensor; Ray started in {connected - started:.1f} s, the workers "
        f"took {ended - connected:.1f} s",
    )


CHECKS: dict[str, Check] = {
    "Python": check_python,
    "packages": check_packages,
    "Ray": check_ray,
    "devices": check_devices,
    "store": check_store,
    "free space": check_disk_space,
    "tracking": check_tracking,
    "two workers": check_two_workers,
}
SLOW = ("two workers",)


def _describe_installation(*requirements: str) -> str:
    """Return the command that installs these packages in their tested versions."""
    if IS_INSTALLED:
        constraints = shlex.quote(str(PROJECT / "constraints.txt"))
        return f"`pip install --constraint {constraints} {shlex.join(requirements)}`"
    return "`make install`, or `pip install -c constraints.txt -e .`"


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _satisfies(version: str | None, needed: SpecifierSet) -> bool:
    return version is not None and needed.contains(version, prereleases=True)


def _pinned_versions() -> dict[str, str]:
    file = PROJECT / "constraints.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return dict(line.partition("==")[::2] for line in lines if "==" in line)


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder in `parent`, and delete it afterwards."""
    with tempfile.TemporaryDirectory(
        prefix=".doctor-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _write_file(file: Path) -> Path:
    file.write_text("written")
    return file


def _open_uri(uri: str) -> None:
    """Open the store's URI, and remove the folders that this creates.

    Raises:
        PreflightError: The URI does not answer.
    """
    parts = urlsplit(uri)
    folder = Path(unquote(parts.path))
    if parts.scheme == "file":
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
    else:
        missing = []
    try:
        Remote.open(uri)
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # not empty: in use by another process
                each.rmdir()


def _has_working_locks(file: Path) -> bool:
    """Return whether a held lock excludes a second process."""
    with FileLock(file):
        try:
            with FileLock(file, timeout=0):
                return False
        except Timeout:
            return True


def _format_size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
