"""Access a remote store: the objects below a URI, and the local folder of each node for them.

Credentials come from the environment and never appear in the URI.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.paths import path_problem
from orchestrator.core.redact import redact
from orchestrator.core.text import shorten

SCHEMES = ("s3", "gs", "file")
# S3's options without secrets; every other option may be a secret
OPTIONS = {"region", "scheme", "endpoint_override"}
# `~` is the home folder of the current user
OF_EACH_NODE = Path("~/.cache/distillation-orchestrator/stores")
KNOWN = "s3://BUCKET/..., gs://BUCKET/... or file:///..."
CREDENTIALS = "credentials come from the environment"
ANSWER_S = 30.0
ATTEMPTS = 2
PAUSE_S = 0.5  # doubled after each attempt; callers handle longer outages
CHUNK_BYTES = 2**23
T = TypeVar("T")
Heartbeat = Callable[[], None]


def is_uri(text: str) -> bool:
    """Return whether a store is named by a URI rather than a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def check_uri(uri: str) -> str:
    """Return the URI of a store in canonical form.

    Raises:
        ConfigurationError: The URI cannot be used. The message contains no secret.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        given = shorten(redact(uri))
        raise _refused(f"{given} is not a URI ({error}): give {KNOWN}", given) from error
    shown = f"{parts.scheme}://..."
    if parts.scheme not in SCHEMES:
        problem = f"an unsupported scheme: give a folder that all nodes share, or {KNOWN}"
        raise _refused(f"{shown} has {problem}", parts.scheme, SCHEMES)
    if "@" in parts.netloc:
        raise _refused(
            f"{shown} contains a user name or a password: remove them; {CREDENTIALS}",
            shown,
            "an address without a user name and a password",
        )
    unknown = sorted({key for key, _ in parse_qsl(parts.query, True)} - OPTIONS)
    if parts.fragment or unknown:
        what, options = "#..." if parts.fragment else f"?{unknown[0]}=...", sorted(OPTIONS)
        problem = f"is not allowed: the options after ? are {', '.join(options)}; {CREDENTIALS}"
        raise _refused(f"{shown}{what} {problem}", what, tuple(options))
    path = unquote(parts.path)
    if problem := path_problem(f"/{path}"):
        raise _refused(f"{shown} {problem}: give {KNOWN}", problem)
    if (
        ".." in PurePosixPath(path).parts
        or (parts.scheme == "file") != (not parts.netloc)
        or not (parts.netloc or path.strip("/"))
    ):
        given = f"{parts.scheme}://{parts.netloc}{parts.path}"
        raise _refused(f"{given} is not the location of a store: give {KNOWN}", given)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}{query}"


def _refused(problem: str, value: object, allowed: object = KNOWN) -> ConfigurationError:
    return ConfigurationError(f"--store {problem}").with_details("--store", value, allowed)


def local_folder(uri: str) -> Path:
    """Return this node's folder for the store of a URI."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", uri.partition("?")[0]).strip("-")[:60]
    return OF_EACH_NODE.expanduser() / f"{words}-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


class Remote:
    """Objects below a URI, with names that may contain slashes.

    Methods retry a few times and then raise the OSError of the file system.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self.uri = uri
        self.system, self.base = fs.FileSystem.from_uri(uri)
        self.is_local = isinstance(self.system, fs.LocalFileSystem)

    @classmethod
    def open(cls, uri: str) -> "Remote":
        """Return the store of a URI after a test write.

        Raises:
            PreflightError: The write fails, or the store does not respond within `ANSWER_S`
                seconds.
        """

        def probe() -> Remote:
            remote = cls(uri)
            if remote.is_local:
                Path(remote.base).mkdir(mode=0o700, parents=True, exist_ok=True)
            remote.write_json(".probe.json", {})
            remote.remove_file(".probe.json")
            return remote

        opened = _run_in_thread(probe)
        if not wait([opened], ANSWER_S).done:
            reason = f"no response within {ANSWER_S:g} s"
            allowed = f"a response within {ANSWER_S:g} s"
            error = None
        elif error := opened.exception():
            reason, allowed = " ".join(str(error).split())[:300], "a writable store"
        else:
            return opened.result()
        raise PreflightError(
            f"--store {uri} cannot be used ({reason}): check that the bucket exists, that it is "
            f"reachable from this machine, and that the credentials in the environment may write "
            f"to it"
        ).with_details("--store", uri, allowed) from error

    def names(self, folder: str) -> dict[str, int]:
        """Return the files below a folder, with their sizes in bytes.

        Names are relative to the folder. The result is empty if the folder does not exist.
        """
        from pyarrow import fs

        selector = fs.FileSelector(self._path(folder), recursive=True, allow_not_found=True)
        infos = self._attempt(lambda: self.system.get_file_info(selector))
        start = len(self._path(folder)) + 1
        return {info.path[start:]: info.size for info in infos if info.is_file}

    def has(self, name: str) -> bool:
        """Return whether a file with that name exists."""
        return bool(self._attempt(lambda: self.system.get_file_info(self._path(name))).is_file)

    def put(
        self, folder: Path, name: str, last: str = "", heartbeat: Heartbeat = lambda: None
    ) -> None:
        """Upload all files of a folder.

        Args:
            folder: The local folder.
            name: The remote folder.
            last: The file name that is uploaded after all others.
            heartbeat: Called after each chunk, as a heartbeat.
        """
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == last):
            target = f"{name}/{file.relative_to(folder).as_posix()}"
            self._attempt(partial(self._put, file, target, heartbeat))

    def get(
        self,
        name: str,
        folder: Path,
        wanted: Callable[[str], bool] = lambda name: True,
        heartbeat: Heartbeat = lambda: None,
    ) -> None:
        """Download files below a remote folder.

        Args:
            name: The remote folder.
            folder: The local folder.
            wanted: Predicate of a file's relative name; files for which it is false are skipped.
            heartbeat: Called after each chunk, as a heartbeat.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: A name points outside `folder`, or the download fails.
        """
        names = [each for each in self.names(name) if wanted(each)]
        if not names:
            raise FileNotFoundError(f"{name} is not in {self.uri}")
        for each in names:
            target = folder / each
            if not target.resolve().is_relative_to(folder.resolve()):
                raise OSError(f"{each!r} in {self.uri} points outside its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._attempt(partial(self._get, f"{name}/{each}", target, heartbeat))

    def write_json(self, name: str, value: Any) -> None:
        """Replace a file atomically: a reader sees the old content or the new content."""
        path, aside = self._path(name), self._path(f"{name}.aside")

        def write() -> None:
            with self._writing(aside if self.is_local else path) as stream:
                stream.write(json.dumps(value).encode())
            if self.is_local:
                self.system.move(aside, path)

        self._attempt(write)

    def read_json(self, name: str) -> Any:
        """Return the content of a file, None if it is missing or damaged."""
        if not self.has(name):
            return None
        try:
            return json.loads(
                self._attempt(lambda: self.system.open_input_stream(self._path(name)).read())
            )
        except ValueError:
            return None

    def remove_file(self, name: str) -> None:
        """Remove an existing file."""
        self._attempt(lambda: self.system.delete_file(self._path(name)))

    def remove(self, folder: str) -> None:
        """Remove everything below a folder, if it exists."""
        if self.names(folder):
            self._attempt(lambda: self.system.delete_dir(self._path(folder)))

    def _path(self, name: str) -> str:
        return f"{self.base.rstrip('/')}/{name}"

    def _writing(self, path: str) -> Any:
        if self.is_local:  # object stores have no folders: a folder is a part of the name
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        return self.system.open_output_stream(path)

    def _put(self, file: Path, name: str, heartbeat: Heartbeat) -> None:
        with file.open("rb") as source, self._writing(self._path(name)) as stream:
            _copy(source, stream, heartbeat)

    def _get(self, name: str, target: Path, heartbeat: Heartbeat) -> None:
        with self.system.open_input_stream(self._path(name)) as source, target.open("wb") as stream:
            _copy(source, stream, heartbeat)

    def _attempt(self, action: Callable[[], T]) -> T:
        """Return the result of `action`; retry after an outage of seconds.

        A missing file or a denied permission is not retried.
        """
        for attempt in range(ATTEMPTS - 1):
            try:
                return action()
            except (FileNotFoundError, PermissionError):
                raise
            except OSError:
                time.sleep(PAUSE_S * 2**attempt)
        return action()


def _copy(source: Any, stream: Any, heartbeat: Heartbeat) -> None:
    while chunk := source.read(CHUNK_BYTES):
        stream.write(chunk)
        heartbeat()


def _run_in_thread(action: Callable[[], T]) -> Future[T]:
    """Return the future result of `action`, whose thread does not keep the process alive.

    A library may block forever.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def has_name_in(names: Iterable[str]) -> Callable[[str], bool]:
    """Return a predicate: whether a file in any folder has one of these names."""
    wanted = frozenset(names)
    return lambda name: name.rpartition("/")[2] in wanted
