"""The folder that holds everything written: where each thing lies, and how a file is replaced safely.

Knows paths and bytes alone. A file is written aside, then renamed: a reader sees the old one or the new one.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import shlex
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core import disk
from orchestrator.core.errors import ConfigurationError, EnvironmentUnfitError
from orchestrator.core.paths import read_path
from orchestrator.store.remote import Remote, checked, is_uri, local_folder

DEFAULT = Path("runs")
SPARE_BYTES = 200 * 2**20  # checkpoints, journal and MLflow of a small sweep
log = logging.getLogger(__name__)
_writing = threading.RLock()
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Store:
    """Paths below one root folder, which is created when first opened.

    Of a store that is named by a `uri` it is the driver's: records, study and MLflow lie there, and at the URI what nodes share.
    """

    root: Path
    uri: str = ""

    @property
    def option(self) -> str:
        """What a command needs to find this store, as it is appended: nothing where it is the default one."""
        return f" --store {shlex.quote(self.uri or str(self.root))}" if self.root != DEFAULT.resolve() else ""

    @classmethod
    def named(cls, name: Path | str) -> "Store":
        """The store in a folder, or of a URI: ConfigurationError when that is none that can be used."""
        if is_uri(str(name)):
            uri = checked(str(name))
            return cls(local_folder(uri), uri)
        return cls(read_path(name, "--store"))

    @classmethod
    def existing(cls, name: Path | str) -> "Store":
        """The store of earlier runs, for who only reads; ConfigurationError when there is none."""
        store = cls.named(name)
        if not os.path.isdir(store.root):
            where = f"{store.uri} has no runs that were started on this machine" if store.uri else f"{name} does not exist"
            raise ConfigurationError(
                f"--store {where}: give that of an earlier run, or start with `python run.py sweep{store.option}`",
                field="--store",
                value=store.uri or str(name),
                allowed="the store of an earlier run",
            )
        return store

    @classmethod
    def open(cls, name: Path | str) -> "Store":
        """The store of that name; EnvironmentUnfitError when it cannot be written or has no space."""
        store = cls.named(name)
        root = store.root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root) as probe:
                probe.write(b"writable")
        except OSError as error:
            reason = error.strerror or str(error)
            raise EnvironmentUnfitError(
                f"--store {root} cannot be written ({reason}): give a folder that you may write",
                field="--store",
                value=str(root),
                allowed="a folder that you may write",
            ) from error
        if store.uri:
            Remote.open(store.uri)
        store.require_space(SPARE_BYTES)
        return store

    @property
    def shared(self) -> dict[str, Any]:
        """What a specification says of a store that is named by a URI."""
        return {"uri": self.uri, "root": str(self.root)} if self.uri else {}

    def require_space(self, needed_bytes: int) -> None:
        """EnvironmentUnfitError with the arithmetic when fewer bytes are free."""
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes:
            raise EnvironmentUnfitError(
                f"--store {self.root} has {free / 2**20:.0f} MiB free and {needed_bytes / 2**20:.0f} MiB are needed: "
                "free some space or give another --store",
                field="--store",
                value=free,
                allowed=(needed_bytes, None),
            )

    @property
    def database(self) -> Path:
        """MLflow's SQLite file."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.root / "artifacts"

    @property
    def teachers(self) -> Path:
        """Fitted teachers, a folder per fingerprint."""
        return self.root / "teachers"

    @property
    def knowledge(self) -> Path:
        """Cached teacher logits, a folder per fingerprint."""
        return self.root / "knowledge"

    @property
    def exports(self) -> Path:
        """Exported students, a folder each."""
        return self.root / "exports"

    @property
    def reports(self) -> Path:
        """The pages of sweeps, a file each."""
        return self.root / "reports"

    def sweep(self, name: str) -> Path:
        """The folder of a sweep; ConfigurationError when the name could leave the store."""
        if not NAME.fullmatch(name):
            raise ConfigurationError(
                f"the name {name!r} is not allowed: give letters, digits, '.', '_' or '-' (at most 100, first a letter or digit)",
                field="name",
                value=name,
                allowed="letters, digits, '.', '_' or '-'",
            )
        return self.root / "sweeps" / name

    def sweeps(self) -> list[str]:
        """The names of the sweeps that stand in the store."""
        return sorted({path.parent.name for path in (self.root / "sweeps").glob("*/sweep*.json")})


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to; it takes the target's place when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(target)
    try:
        yield aside
        _take_place(aside, target)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def aside_of(target: Path) -> Path:
    """A new path beside `target` that nobody else writes to."""
    return target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}"


def _take_place(aside: Path, target: Path) -> None:
    if not aside.is_dir() or not target.exists():
        os.replace(aside, target)
        return
    old = target.parent / f"{target.name}.old"  # a folder cannot be replaced in one step: readers fall back to this one
    shutil.rmtree(old, ignore_errors=True)
    os.replace(target, old)
    os.replace(aside, target)
    shutil.rmtree(old, ignore_errors=True)


def write_json(file: Path, value: Any, lasting: bool = True) -> None:
    """Write JSON so that a reader never sees a part of it; `lasting`: also not after the power failed, which takes milliseconds."""
    write_text(file, json.dumps(value, indent=1), lasting)


def write_text(file: Path, text: str, lasting: bool = True) -> None:
    """Write text as `write_json` writes JSON."""
    with replacing(file) as aside, aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        if lasting:
            os.fsync(stream.fileno())  # or the new name may be on the disk before the content is


def keep_json(file: Path, value: Any, lasting: bool = True) -> None:
    """Write JSON as soon as there is room on the disk; after a signal nobody waits for that, and the old file stays.

    `value` may be a function that gives it: what is written then is as new as the writing, whoever else writes meanwhile.
    """
    keep_text(file, lambda: json.dumps(value() if callable(value) else value, indent=1), lasting)


def keep_text(file: Path, text: Callable[[], str], lasting: bool = True) -> None:
    """Write what `text` returns as `keep_json` writes JSON."""

    def write() -> None:
        with _writing:
            write_text(file, text(), lasting)

    try:
        disk.patiently(write, file)
    except OSError as error:
        if not disk.is_full(error):
            raise
        log.warning("%s was not written: the disk is full, and somebody asked for the end", file)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that a new one can take its place; returns the new path."""
    names = (path.with_name(f"{path.name}.damaged{'' if number == 1 else f'-{number}'}") for number in itertools.count(1))
    free = next(name for name in names if not os.path.lexists(name))
    os.replace(path, free)
    return free


def read_json(file: Path) -> Any:
    """Read JSON; ConfigurationError names a file that is damaged.

    Without the checksum of a record, which is `record_file.py`'s to read: whoever writes the values again may have changed them.
    """
    try:
        value = json.loads(file.read_text())
        return {name: each for name, each in value.items() if name != "checksum"} if isinstance(value, dict) else value
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{file} cannot be read ({error}): remove it, or start again under another --name", field=str(file), value=str(error)
        ) from error
