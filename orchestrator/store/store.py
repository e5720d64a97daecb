"""Define the layout of the store, and replace its files safely.

A file is written to a temporary path, then renamed: a reader sees the old file or the new one.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.trial import Folders, TrialSpec
from orchestrator.core import disk
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.paths import read_path
from orchestrator.core.program import program_name
from orchestrator.store.remote import Remote, check_uri, is_uri, local_folder

DEFAULT = Path("runs")
SPARE_BYTES = 200 * 2**20  # checkpoints, journal and MLflow of a small sweep
log = logging.getLogger(__name__)
_writing = threading.RLock()
FORMAT, FORMAT_FILE = 1, "store.json"  # a store with content but without this file has format 0
CONTENT = ("sweeps", "comparisons", "teachers", "knowledge", "exports", "reports", "mlflow.db")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Store:
    """Paths below one root folder, which is created when the store is first opened for writing.

    If `uri` names the store, `root` is the driver's local folder. Records, study and MLflow's files
    lie in `root`; the files that nodes share lie at the URI.
    """

    root: Path
    uri: str = ""

    @property
    def option(self) -> str:
        """Return the command-line option that selects this store, empty for the default store."""
        if self.root != DEFAULT.resolve():
            return f" --store {shlex.quote(self.uri or str(self.root))}"
        return ""

    @classmethod
    def named(cls, name: Path | str) -> "Store":
        """Return the store of a folder or URI. Raise ConfigurationError if it cannot be used."""
        if is_uri(str(name)):
            uri = check_uri(str(name))
            return cls(local_folder(uri), uri)
        return cls(read_path(name, "--store"))

    @classmethod
    def existing(cls, name: Path | str, any_format: bool = False) -> "Store":
        """Return the store of earlier runs, for reading.

        Args:
            name: The folder or the URI of the store.
            any_format: Whether a store of another format is accepted, which is safe if only MLflow
                reads it.

        Raises:
            ConfigurationError: There is no store, or it has another format.
        """
        store = cls.named(name)
        if not os.path.isdir(store.root):
            if store.uri:
                where = f"{store.uri} has no runs that were started on this machine"
            else:
                where = f"{name} does not exist"
            raise ConfigurationError(
                f"--store {where}: give the store of an earlier run, or start a sweep with "
                f"`{program_name()} sweep{store.option}`"
            ).with_details("--store", store.uri or str(name), "the store of an earlier run")
        if not any_format:
            store.require_format()
        return store

    @classmethod
    def open(cls, name: Path | str) -> "Store":
        """Return the store of that name, for writing.

        Raises:
            ConfigurationError: The store has another format.
            PreflightError: The store cannot be written or has no space.
        """
        store = cls.named(name)
        root = store.root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root) as probe:
                probe.write(b"writable")
        except OSError as error:
            reason = error.strerror or str(error)
            raise PreflightError(
                f"--store {root} cannot be written ({reason}): give a writable folder"
            ).with_details("--store", str(root), "a writable folder") from error
        if store.uri:
            Remote.open(store.uri)
        store.require_space(SPARE_BYTES)
        store.require_format()
        if not (root / FORMAT_FILE).exists():
            write_json(root / FORMAT_FILE, {"format": FORMAT})
        return store

    def require_format(self) -> None:
        """Raise ConfigurationError if another version of the program wrote the store."""
        # checked first: the format is written before any content
        has_content = any((self.root / name).exists() for name in CONTENT)
        file = self.root / FORMAT_FILE
        number = _read_format(file) if file.exists() else 0 if has_content else FORMAT
        if number == FORMAT:
            return
        if number > FORMAT:
            what = (
                f"has format {number} of a newer version of this program: update the program, or "
                f"give another folder"
            )
        else:
            what = (
                f"has format {number} of an older version of this program: resume its runs with "
                f"the version that wrote them, or give a new folder"
            )
        raise ConfigurationError(f"--store {self.uri or self.root} {what}").with_details(
            "--store", number, FORMAT
        )

    def folders(
        self, trials: Path, data: Path, teachers: Sequence[Path] = (), knowledge: Path | None = None
    ) -> Folders:
        """Return the folders that the trials of a run share, for this store."""
        root = self.root if self.uri else None
        one, several = (teachers[0], ()) if len(teachers) == 1 else (None, tuple(teachers))
        return Folders(trials, data, one, knowledge, self.uri, root, several)

    def locate(self, spec: TrialSpec) -> TrialSpec:
        """Return a specification whose folders are below the root of this store."""
        return spec.model_copy(update={"uri": self.uri, "root": self.root if self.uri else None})

    def require_space(self, needed_bytes: int) -> None:
        """Raise PreflightError with both numbers if fewer bytes are free."""
        free = shutil.disk_usage(self.root).free
        if free < needed_bytes:
            raise PreflightError(
                f"--store {self.root} has {free / 2**20:.0f} MiB free and "
                f"{needed_bytes / 2**20:.0f} MiB are needed: free some space, or give another "
                f"--store"
            ).with_details("--store", free, (needed_bytes, None))

    @property
    def database(self) -> Path:
        """Return the path of MLflow's SQLite file."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """Return the folder of MLflow's artifacts."""
        return self.root / "artifacts"

    @property
    def teachers(self) -> Path:
        """Return the folder of trained teachers, one subfolder for each fingerprint."""
        return self.root / "teachers"

    @property
    def knowledge(self) -> Path:
        """Return the folder of cached teacher outputs, one subfolder for each fingerprint."""
        return self.root / "knowledge"

    @property
    def given_weights(self) -> Path:
        """Return the folder of weights that were given as modules of Python."""
        return self.root / "weights"

    @property
    def exports(self) -> Path:
        """Return the folder of exported students, one subfolder each."""
        return self.root / "exports"

    @property
    def reports(self) -> Path:
        """Return the folder of the reports of sweeps, one file each."""
        return self.root / "reports"

    def sweep(self, name: str) -> Path:
        """Return the folder of a sweep. Raise ConfigurationError if the name is not allowed."""
        if not NAME.fullmatch(name):
            raise ConfigurationError(
                f"the name {name!r} is not allowed: give letters, digits, '.', '_' or '-' (at "
                f"most 100, first a letter or digit)"
            ).with_details("name", name, "letters, digits, '.', '_' or '-'")
        return self.root / "sweeps" / name

    def sweeps(self) -> list[str]:
        """Return the names of the sweeps in the store."""
        return sorted({path.parent.name for path in (self.root / "sweeps").glob("*/sweep*.json")})


def _read_format(file: Path) -> int:
    content = read_json(file)
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int:
        raise ConfigurationError(
            f"{file} does not contain the format of the store: restore it from a backup, or give "
            f"another --store"
        ).with_details(str(file), number, FORMAT)
    return number


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or a folder; it replaces `target` if the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = make_temporary_path(target)
    try:
        yield aside
        _take_place(aside, target)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def make_temporary_path(target: Path) -> Path:
    """Return a new path in the folder of `target` that no other process uses."""
    return target.parent / f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}"


def _take_place(aside: Path, target: Path) -> None:
    if not aside.is_dir() or not target.exists():
        os.replace(aside, target)
        return
    # a folder cannot be replaced in one step: readers fall back to the old one
    old = target.parent / f"{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    os.replace(target, old)
    os.replace(aside, target)
    shutil.rmtree(old, ignore_errors=True)


def write_json(file: Path, value: Any, lasting: bool = True) -> None:
    """Write JSON atomically: a reader never sees a part of it.

    `lasting` makes the content survive a power failure, which takes milliseconds.
    """
    write_text(file, json.dumps(value, indent=1), lasting)


def write_text(file: Path, text: str, lasting: bool = True) -> None:
    """Write text as `write_json` writes JSON."""
    with replacing(file) as aside, aside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        if lasting:
            os.fsync(stream.fileno())  # else the new name may reach the disk before the content


def keep_json(file: Path, value: Any, lasting: bool = True) -> None:
    """Write JSON; wait while the disk is full.

    After a signal there is no more waiting, and the old file stays. A function as `value` is called
    at the time of writing, so that the content is current even with concurrent writers.
    """
    keep_text(file, lambda: json.dumps(value() if callable(value) else value, indent=1), lasting)


def keep_text(file: Path, text: Callable[[], str], lasting: bool = True) -> None:
    """Write the result of `text` as `keep_json` writes JSON."""

    def write() -> None:
        with _writing:
            write_text(file, text(), lasting)

    try:
        disk.retry_while_disk_full(write, file)
    except OSError as error:
        if not disk.is_full(error):
            raise
        log.warning("%s was not written: the disk is full and a stop was requested", file)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that a new one can replace it; return the new path."""
    names = (
        path.with_name(f"{path.name}.damaged{'' if number == 1 else f'-{number}'}")
        for number in itertools.count(1)
    )
    free = next(name for name in names if not os.path.lexists(name))
    os.replace(path, free)
    return free


def read_json(file: Path) -> Any:
    """Read JSON. Raise ConfigurationError, which names the file, if it is damaged.

    The checksum of a record is dropped: the caller may change the values before it writes them
    again. `record_file.py` verifies checksums.
    """
    try:
        value = json.loads(file.read_text())
        if isinstance(value, dict):
            return {name: each for name, each in value.items() if name != "checksum"}
        return value
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{file} cannot be read ({error}): remove it, or start again with another --name"
        ).with_details(str(file), str(error)) from error


# Path below the store -> description. NAME, FINGERPRINT, PART_ARRAY, N and LETTER stand for one
# part of a path; `**` stands for any rest.
STORE_FILES: dict[str, str] = {
    "store.json": "number of the format of the store",
    "mlflow.db": "MLflow's runs, unless `tracking.uri` names a server",
    "mlflow.db.lock": "lock while MLflow's schema is created",
    "artifacts/**": "MLflow's artifacts: configuration, figures, report, registered students",
    "data/FINGERPRINT/data.json": "record of prepared data: classes, shapes, normalisation, "
    "checksums",
    "data/FINGERPRINT/PART_ARRAY.npy": "prepared inputs and labels of a part: train, "
    "validation, test",
    "data/FINGERPRINT/packed_pixels.bin": "packed images of a folder (`data.pack`): pixels of all "
    "images, one after the other",
    "data/FINGERPRINT/*": "prepared data of a folder of images: lists of files and their labels",
    "teachers/groups/**": "rendezvous files of worker groups and process ids while teachers are "
    "trained",
    "teachers/FINGERPRINT.lock": "lock while a teacher is trained or loaded",
    "teachers/FINGERPRINT/teacher.json": "record of a teacher: network, data, metrics",
    "teachers/FINGERPRINT/weights.safetensors": "weights of the teacher",
    "teachers/FINGERPRINT*/**": "training of a teacher that is not finished: its checkpoint "
    "and the current attempt",
    "knowledge/limit.json": "bytes that the cache holds, and the time when its files were listed",
    "knowledge/limit.lock": "lock while the cache is reduced to `teacher.cache_gib`",
    "knowledge/FINGERPRINT/about.json": "teacher, data and view policy of the cached outputs",
    "knowledge/FINGERPRINT/clean.npy": "logits of the images without augmentation",
    "knowledge/FINGERPRINT/clean-features.npy": "features of the images without augmentation",
    "knowledge/FINGERPRINT/clean-map-STAGE.npy": "feature maps of the images without augmentation",
    "knowledge/FINGERPRINT/view-N.npy": "logits of an augmented view",
    "knowledge/FINGERPRINT/*": "locks of the cache, and the neighbours that were retrieved "
    "from a bank",
    "weights/FINGERPRINT.safetensors": "weights of a teacher that was given as a module of Python",
    "exports/NAME/model.safetensors": "weights of an exported student (`--format safetensors`)",
    "exports/NAME/*": "settings.json, the model card README.md, and the student in the other "
    "formats",
    "reports/NAME.html": "report of a sweep, one page",
    "comparisons/NAME/**": "comparison of methods: comparison.json, and the result as result.json, "
    "comparison.md, .tex, .csv and .html, and forest-REFERENCE.pdf and .png",
    "sweeps/NAME/sweep.json": "state and configuration of a sweep or training",
    "sweeps/NAME/sweep.copy.json": "copy of sweep.json, read if that is damaged",
    "sweeps/NAME/data.json": "copy of the record of the prepared data; an export needs no data",
    "sweeps/NAME/teacher.json": "copy of the record of the teacher",
    "sweeps/NAME/teacher-N.json": "copy of the record of each of several teachers",
    "sweeps/NAME/code/*": "copies of the files of `--code`; a record that is never executed",
    "sweeps/NAME/environment.json": "commit, versions and machine of the last start",
    "sweeps/NAME/study.log": "Optuna's journal",
    "sweeps/NAME/study.log.lock": "lock of Optuna's journal",
    "sweeps/NAME/driver.lock": "lock of the process that runs the sweep",
    "sweeps/NAME/driver.json": "host, process id and start time of the driver; removed at an "
    "orderly exit",
    "sweeps/NAME/mlflow.json": "ids of MLflow's runs",
    "sweeps/NAME/outbox.jsonl": "queue of metrics for MLflow; line 1 holds the byte up to "
    "which they are sent",
    "sweeps/NAME/outbox-files.jsonl": "queue of artifacts for MLflow",
    "sweeps/NAME/outbox-refused.jsonl": "writes that MLflow refused, with the reason",
    "sweeps/NAME/groups/**": "rendezvous files of worker groups and process ids of the driver",
    "sweeps/NAME/tune/**": "Ray Tune's own state",
    "sweeps/NAME/trials/N/trial.json": "state, settings and metrics of a trial",
    "sweeps/NAME/trials/N/checkpoint/progress.json": "records of all epochs, and CRC-32 of the "
    "other files",
    "sweeps/NAME/trials/N/checkpoint/student.safetensors": "weights after the last epoch",
    "sweeps/NAME/trials/N/checkpoint/best.safetensors": "weights of the best epoch on the "
    "validation part",
    "sweeps/NAME/trials/N/checkpoint/optimizer.pt": "state of optimizer and gradient scaler, "
    "loaded with `weights_only=True`",
    "sweeps/NAME/trials/N/checkpoint/trace.safetensors": "terms of the loss and per-epoch "
    "arrays, for the figures",
    "sweeps/NAME/trials/N/checkpoint/shown.safetensors": "sample predictions, for the figures",
    "sweeps/NAME/trials/N/checkpoint/*": "further state of a method, such as its bank or its "
    "teacher",
    "sweeps/NAME/trials/N/checkpoint/LETTER/*": "the same files of another student of the trial",
    "sweeps/NAME/trials/N/snapshots/**": "copies of the checkpoint while trials wait for each "
    "other",
    "sweeps/NAME/trials/N/knowledge/**": "cache of a teacher that the trial trains",
    "sweeps/NAME/trials/N/influence/**": "snapshots for the influence actor",
    "**.damaged": "a damaged file or folder that was renamed; it is not read and can be removed",
}
