"""Check whether this machine or a cluster is fit for a run.

Each check takes the conditions and returns one finding. A "bad" finding ends with the next step.
No check leaves a lasting change, and none starts a trial.
"""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import stat
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator.cli._findings import Conditions, Finding
from orchestrator.config.uris import database_uri
from orchestrator.core.errors import ConfigurationError, UserError
from orchestrator.store.remote import Remote
from orchestrator.store.store import SPARE_BYTES, Store

PROJECT = Path(__file__).parents[2]
TOKEN = Path("~/.ray/auth_token")
DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")
GROUP_S = 120.0
OTHERS = stat.S_IRWXG | stat.S_IRWXO
COMFORT_BYTES = 2 * 2**30  # with less, a run larger than the digits may fill the disk
RAY_FULL = 0.95  # used share of a disk above which Ray refuses to write objects to it
RAY_SHARED_BYTES = 200 * 2**20  # with less, Ray stores its objects on the disk


Check = Callable[[Conditions], Finding]


def examine(conditions: Conditions) -> Iterator[tuple[str, Finding]]:
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
                        f"{type(error).__name__}: {reason}: see whether another line says why",
                    ),
                )


def python(conditions: Conditions) -> Finding:
    """Compare the interpreter with `requires-python` of `pyproject.toml`."""
    needed = _project().get("requires-python", ">=3.11")
    found = platform.python_version()
    if SpecifierSet(needed).contains(found, prereleases=True):
        return Finding("ok", f"{found} at {sys.executable}")
    return Finding(
        "bad",
        f"{found}, and {needed} is needed: make the environment anew, `make install "
        f"PYTHON=python3.12`",
    )


def packages(conditions: Conditions) -> Finding:
    """Compare the installed packages with `pyproject.toml` and `constraints.txt`.

    The torch version must also be the one that torchvision requires.
    """
    wanted = [Requirement(line) for line in _project().get("dependencies", [])]
    if not wanted:
        return Finding(
            "warn", f"there is no pyproject.toml in {PROJECT}: versions are not compared"
        )
    found = {each.name: _installed(each.name) for each in wanted}
    wrong = [
        f"{each.name} {found[each.name] or 'is missing'} ({each.specifier} is needed)"
        for each in wanted
        if not _fits(found[each.name], each.specifier)
    ]
    if wrong:
        return Finding(
            "bad",
            f"{', '.join(wrong)}: run `make install`, or `pip install -c constraints.txt -e .`",
        )
    # a torchvision built for another torch fails here, at its operators
    from torchvision import __version__

    for line in importlib.metadata.requires("torchvision") or []:
        need = Requirement(line)
        if need.name == "torch" and not _fits(found["torch"], need.specifier):
            step = "install the two together, `make install`"
            return Finding(
                "bad",
                f"torchvision {__version__} is made for torch {need.specifier}, not "
                f"{found['torch']}: {step}",
            )
    pinned = _pinned()
    others = [
        f"{name} {found[name]} ({pinned[name]})"
        for name in found
        if name in pinned and pinned[name] != found[name]
    ]
    said = [f"{len(wanted)} as pyproject.toml asks"]
    if pinned:
        said.append(
            f"of other versions than those tested: {', '.join(others)}"
            if others
            else "in the versions of constraints.txt"
        )
    return Finding("ok", ", ".join(said))


def ray_address(conditions: Conditions) -> Finding:
    """Check the token's file mode, and that a running Ray cluster accepts a connection.

    A cluster of our own is started only by the last check.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    remarks = []
    if mode.lower() != "token":
        remarks.append(f"RAY_AUTH_MODE is {mode}: unset it, or whoever reaches Ray can run code")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN).expanduser()
    if token.exists() and token.stat().st_mode & OTHERS:
        remarks.append(f"others may read its token: chmod 600 {token}")
    address = conditions.address
    if address is None:
        from orchestrator.config.resources import require_short_sockets

        require_short_sockets()
        said = "a cluster of our own, on loopback" + (
            ", with token authentication" if mode.lower() == "token" else ""
        )
    else:
        from orchestrator.cluster.connect import connect_to_ray, nodes
        from orchestrator.config.resources import require_answer

        require_answer(address)
        with connect_to_ray(address) as free:
            many = len(nodes())
            said = (
                f"{address} lets us in: {many} node{'s' * (many != 1)}, {free.get('CPU', 0):g} CPU "
            )
            said += f"and {free.get('GPU', 0):g} GPU free"
    return Finding("warn" if remarks else "ok", "; ".join([said, *remarks]))


def devices(conditions: Conditions) -> Finding:
    """Report the usable CPUs, and test that torch can compute on each GPU."""
    import torch

    from orchestrator.config.resources import local_resources

    usable, there = int(local_resources()["CPU"]), os.cpu_count() or 1
    said = f"{usable} CPU" + (
        f" of {there} (bound, or the container's quota)" if usable < there else ""
    )
    wanted = (
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
            step = (
                f"see nvidia-smi, or leave it out with CUDA_VISIBLE_DEVICES; torch "
                f"{torch.__version__} is for CUDA "
            )
            return Finding(
                "bad",
                f"{said}; {card.name} does not compute ({reason}): {step}{torch.version.cuda}",
            )
    if cards:
        named = ", ".join(f"{card.name} with {card.total_memory / 2**30:.0f} GiB" for card in cards)
        return Finding("ok", f"{said}; {len(cards)} GPU: {named}")
    if DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        return Finding("bad" if wanted else "warn", f"{said}; {_no_cuda()}")
    if wanted:
        asked = (
            f"resources.gpus_per_worker = {conditions.configuration.resources.gpus_per_worker:g}"
        )
        return Finding(
            "bad", f"{said}, no GPU, and {asked}: leave that out, or start where there is one"
        )
    return Finding("ok", f"{said}, no GPU")


def _no_cuda() -> str:
    """Return the reason why torch finds no GPU although an NVIDIA driver is installed."""
    import torch

    if torch.version.cuda is None:
        return (
            f"there is an NVIDIA driver, and torch {torch.__version__} is a build without "
            f"CUDA: install the one of constraints.txt"
        )
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        return (
            f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot use the NVIDIA "
            f"driver ({reason}): renew the driver"
        )
    return f"there is an NVIDIA driver, and no GPU for torch {torch.__version__}: see nvidia-smi"


def store(conditions: Conditions) -> Finding:
    """Check that the store can be written and locked, and report other users' access to it.

    Raises:
        PreflightError: The URI of the store does not answer.
    """
    root, place = conditions.root, conditions.place
    if not place.is_dir():
        return Finding("bad", f"{place} is no folder: give another --store")
    if conditions.uri:
        _reached(conditions.uri)
    try:
        Store(root, conditions.uri).require_format()
    except ConfigurationError as error:
        return Finding("bad", str(error))
    try:
        with _probe(place) as folder:
            os.replace(_written(folder / "one"), folder / "two")
            locks = _locks_hold(folder / "lock")
    except OSError as error:
        step = "give a --store that you may write"
        return Finding("bad", f"{place} cannot be written ({error.strerror or error}): {step}")
    if not locks:
        return Finding(
            "bad",
            f"locks do not hold in {place}: give a --store on a file system with flock (NFS "
            f"from version 4 on)",
        )
    if place != root:
        return Finding("ok", f"{root} does not exist yet and can be made, for its owner alone")
    status = root.stat()
    remarks = []
    if status.st_uid != os.geteuid():
        remarks.append(f"it belongs to user {status.st_uid}, not to you")
    if status.st_mode & OTHERS:
        remarks.append(f"others may look into it: chmod 700 {root}")
    away = sorted(
        each.name
        for each in root.iterdir()
        if each.is_dir() and each.stat().st_dev != status.st_dev
    )
    if away:
        remarks.append(
            f"{', '.join(away)} lies on another file system, so checkpoints are copied and not "
            f"linked"
        )
    if remarks:
        return Finding("warn", f"{root} can be written and locked; {'; '.join(remarks)}")
    return Finding("ok", f"{root} can be written and locked, by its owner alone")


def space(conditions: Conditions) -> Finding:
    """Check the free space of the store, of Ray's session folder and of shared memory."""
    temporary = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    free, disk = shutil.disk_usage(conditions.place).free, shutil.disk_usage(temporary)
    said = [f"store {_size(free)} free", f"{temporary} {_size(disk.free)} free"]
    if free < SPARE_BYTES:
        return Finding(
            "bad",
            f"{said[0]}, {_size(SPARE_BYTES)} are needed: free some space, or give another --store",
        )
    if disk.free < SPARE_BYTES:
        step = "free some space, or set RAY_TMPDIR to a folder that has some"
        return Finding("bad", f"{said[1]}, {_size(SPARE_BYTES)} are needed by Ray: {step}")
    remarks = []
    if free < COMFORT_BYTES:
        remarks.append("that is little for a store: `--dry-run` says what a run takes")
    if disk.used > RAY_FULL * (disk.used + disk.free):
        remarks.append(
            f"{temporary} is more than {RAY_FULL:.0%} full, and Ray lays nothing more there: "
            f"free some space"
        )
    if SHARED_MEMORY.is_dir():
        shared = shutil.disk_usage(SHARED_MEMORY).free
        said.append(f"{SHARED_MEMORY} {_size(shared)}")
        if shared < RAY_SHARED_BYTES:
            remarks.append(
                f"Ray wants {_size(RAY_SHARED_BYTES)} of {SHARED_MEMORY} (docker run "
                f"--shm-size=1g), else it takes the disk"
            )
    return Finding("warn" if remarks else "ok", "; ".join([", ".join(said), *remarks]))


def tracking(conditions: Conditions) -> Finding:
    """Check that runs can be logged to SQLite in the store or to the configured server.

    The server is contacted with the credentials of the environment.
    """
    from orchestrator.tracking.overrides import unused_variables

    uri, database = conditions.configuration.tracking.uri, conditions.root / "mlflow.db"
    found = _server(uri) if uri is not None else _sqlite(conditions, database)
    remarks = unused_variables(uri or database_uri(database)) if found.fitness == "ok" else []
    if uri is None and unquote(str(conditions.root)) != str(conditions.root):
        remarks.append(
            f"MLflow does not load registered models from below {conditions.root}: take the % "
            f"code out of its name"
        )
    return (
        Finding("warn", "; ".join([found.said, *remarks]))
        if remarks and found.fitness == "ok"
        else found
    )


def _server(uri: str) -> Finding:
    from orchestrator.tracking.health import find_refusal

    reason = find_refusal(uri)
    return Finding("bad", reason) if reason else Finding("ok", f"{uri} answers")


def _sqlite(conditions: Conditions, database: Path) -> Finding:
    """Check MLflow's database in the store.

    Raises:
        PreflightError: The installed MLflow cannot use the database.
    """
    from orchestrator.tracking.schema import require_schema

    try:
        if database.exists():
            with contextlib.closing(
                sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=5)
            ) as known:
                known.execute("BEGIN IMMEDIATE")  # needs write access, and writes nothing
                known.rollback()
            require_schema(database)
            return Finding("ok", f"SQLite, {database} can be written")
        with (
            _probe(conditions.place) as folder,
            contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=5)) as made,
        ):
            made.execute("CREATE TABLE probe (number INTEGER)")
            made.commit()
    except (OSError, sqlite3.Error) as error:
        step = "see who holds it, or give another --store or a tracking.uri"
        return Finding("bad", f"SQLite cannot write {database} ({error}): {step}")
    return Finding("ok", "SQLite, can be made in the store")


def group(conditions: Conditions) -> Finding:
    """Start a worker group as a sweep does: Ray, two workers and an all-reduce between them."""
    import time

    from orchestrator.cluster.connect import connect_to_ray
    from orchestrator.cluster.descendants import record_descendants
    from orchestrator.cluster.smoke_test import run_two_workers
    from orchestrator.core.signals import stoppable

    started = time.monotonic()
    with (
        _probe(conditions.place) as folder,
        stoppable(),
        record_descendants(folder),
        connect_to_ray(conditions.address, cpus=2),
        stoppable(),
    ):
        begun = time.monotonic()
        run_two_workers(folder, GROUP_S)
        ended = time.monotonic()
    return Finding(
        "ok",
        f"two workers added up a tensor; Ray took {begun - started:.1f} s, they "
        f"{ended - begun:.1f} s",
    )


CHECKS: dict[str, Check] = {
    "Python": python,
    "packages": packages,
    "Ray": ray_address,
    "devices": devices,
    "store": store,
    "free space": space,
    "tracking": tracking,
    "two workers": group,
}
SLOW = ("two workers",)


def _project() -> dict[str, Any]:
    file = PROJECT / "pyproject.toml"
    project: dict[str, Any] = (
        tomllib.loads(file.read_text()).get("project", {}) if file.is_file() else {}
    )
    return project


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(found: str | None, needed: SpecifierSet) -> bool:
    return found is not None and needed.contains(found, prereleases=True)


def _pinned() -> dict[str, str]:
    file = PROJECT / "constraints.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return dict(line.partition("==")[::2] for line in lines if "==" in line)


@contextlib.contextmanager
def _probe(place: Path) -> Iterator[Path]:
    """Yield a temporary folder in `place`, and delete it afterwards."""
    with tempfile.TemporaryDirectory(
        prefix=".doctor-", dir=place, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _written(file: Path) -> Path:
    file.write_text("written")
    return file


def _reached(uri: str) -> None:
    """Open the store's URI, and remove the folders that this creates.

    Raises:
        PreflightError: The URI does not answer.
    """
    parts = urlsplit(uri)
    folder = Path(unquote(parts.path))
    made = (
        [each for each in (folder, *folder.parents) if not each.exists()]
        if parts.scheme == "file"
        else []
    )
    try:
        Remote.open(uri)
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not empty: in use by another process
                each.rmdir()


def _locks_hold(file: Path) -> bool:
    """Return whether a held lock keeps a second holder out."""
    with FileLock(file):
        try:
            with FileLock(file, timeout=0):
                return False
        except Timeout:
            return True


def _size(many: float) -> str:
    return f"{many / 2**30:.1f} GiB" if many >= 2**30 else f"{many / 2**20:.0f} MiB"
