"""Test paths in every key and option: one sentence per problem, and no endless read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import run
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_file, read_folder, read_path
from orchestrator.data.prepare import describe
from orchestrator.export.loading import load_exported
from orchestrator.store.store import Store
from orchestrator.sweep.preflight.preflight import require_weights
from tests.data_summary import data_summary
from tests.refusal import refused

PROBLEMS = {
    "~nosuchuser/x": "begins with ~ and an unknown user",
    "a\0b": "contains the character U+0000",
    "\ud800": "contains the character U+D800",
    "caf\udce9.npz": "has a component that is not UTF-8 (byte 0xE9; rename it)",
    "link": "has a component that is not UTF-8 (byte 0xE8; rename it)",
    "x" * 256: "has a component of 256 bytes, and at most 255 are allowed",
    "é" * 128: "has a component of 256 bytes",
    "/a" * 3000: "has 6000 bytes, and at most 4095 are allowed",
    "": "is empty",
    "/proc/self/mem": "is in a virtual file system",
    "loop": "is a loop of symbolic links",
}
HERE = {  # keys of the configuration, each with its required settings
    "data.path": ("data.name=npz",),
    "teacher.cache": (),
    "teacher.network.weights": (),
    "student.weights": (),
}
OPTIONS = (
    ("sweep", "--dry-run", "--config"),
    ("sweep", "--dry-run", "--store"),
    ("train", "--dry-run", "--store"),
    ("status", "--store"),
    ("report", "mine", "--store", ".", "--to"),
    ("export", "mine", "--store", ".", "--to"),
    ("import-weights", "--network", "cnn"),
    ("import-weights", "--network", "cnn", "file.pth", "--to"),
    ("predict", "--top=1", "--json"),
)


@pytest.fixture(autouse=True)
def links_in_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    Path("file.pth").touch()
    os.symlink(b"m\xe8re", b"link")
    yield


@pytest.mark.parametrize(("path", "message"), PROBLEMS.items())
@pytest.mark.parametrize(
    "reader",
    [
        read_path,
        lambda path, key: read_file(path, key, ""),
        lambda path, key: read_folder(path, key, ""),
    ],
)
def test_an_invalid_path_is_refused_with_its_key(path: str, message: str, reader: object) -> None:
    for key, start in (("data.path", "data.path = "), ("--store", "--store ")):
        with refused(key, path) as refusal:
            reader(path, key)  # type: ignore[operator]
        assert (
            str(refusal.value).startswith(start)
            and message in str(refusal.value)
            and len(str(refusal.value)) < 500
        )


def test_a_path_is_absolute_and_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "there").mkdir()
    os.symlink("there", "here")
    assert read_path("here/new", "--to") == tmp_path / "there" / "new"
    assert read_path("~/x y%20", "--store") == tmp_path / "x y%20"
    assert read_folder("here", "--store", "") == tmp_path / "there"


def test_a_path_that_is_only_read_may_be_no_utf_8(tmp_path: Path) -> None:
    assert read_path("caf\udce9.npy", "IMAGES", only_read=True) == tmp_path / "caf\udce9.npy"
    with refused("IMAGES", "caf\udce9\ud800"):
        read_path("caf\udce9\ud800", "IMAGES", only_read=True)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("folder", "file", "a folder"),
        ("pipe", "file", "a pipe"),
        ("/dev/zero", "file", "a device"),
        ("file", "folder", "a file"),
        ("nowhere", "file", "No such file"),
        ("file/below", "file", "Not a directory"),
        ("nowhere", "folder", "No such file"),
    ],
)
def test_a_path_of_another_file_type_is_refused(name: str, kind: str, message: str) -> None:
    os.mkdir("folder")
    os.mkfifo("pipe")
    Path("file").touch()
    with refused("data.path", name, kind) as refusal:
        (read_file if kind == "file" else read_folder)(name, "data.path", "give another")
    assert message in str(refusal.value)
    assert read_file("file", "data.path", "").name == "file"


def test_an_unreadable_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").touch()

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with refused("data.path", "file", "a file that can be read"):
        read_file("file", "data.path", "")


@pytest.mark.parametrize("key", HERE)
@pytest.mark.parametrize("path", PROBLEMS)
def test_every_key_with_a_path_is_refused_in_the_same_way(
    key: str, path: str, tmp_path: Path
) -> None:
    given = path or "''"
    end = ".safetensors" if key.endswith(".weights") and path not in ("loop", "") else ""
    if "weights" in key and path == "loop":
        os.symlink("l.safetensors", "l.safetensors")
        given = "l.safetensors"
    with refused(key) as raised:
        configuration = load(None, list(HERE[key]), {key: "" if given == "''" else f"{given}{end}"})
        require_weights(configuration)
        if key == "data.path":
            describe(configuration.data, tmp_path, 0)
        elif key == "teacher.cache":
            _cache_of(configuration, tmp_path)
    assert "\n" not in str(raised.value)


def _cache_of(configuration: Configuration, store: Path) -> None:
    from orchestrator.teacher.access import decide_access

    decide_access(Store(store), configuration, data_summary(train=10), local=True)


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
# an empty path is the current folder
@pytest.mark.parametrize("path", [path for path in PROBLEMS if path])
def test_every_option_with_a_path_is_refused_in_one_line(
    options: tuple[str, ...], path: str
) -> None:
    arguments = [*options, path, *(["image.png"] if options[0] == "predict" else [])]
    done = CliRunner().invoke(run.app, arguments)
    assert done.exit_code in (2, 3), done.output
    assert "Traceback" not in done.output
    by_the_command_line = (
        path in ("a\0b", "\ud800") and "Usage:" in done.output
    )  # typer refuses these for its own paths
    assert by_the_command_line or (
        done.output.count("\n") == 1 and (PROBLEMS[path] in done.output or "U+" in done.output)
    )


def test_an_export_is_read_from_a_path(tmp_path: Path) -> None:
    with refused("folder", "~nosuchuser", "an absolute path"):
        load_exported("~nosuchuser")


@pytest.mark.parametrize("uri", ["file:///x%00y", f"file:///{'x' * 300}", "s3://[", "file://"])
def test_the_path_of_a_uri_is_a_path(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="--store "):
        Store.named(uri)
