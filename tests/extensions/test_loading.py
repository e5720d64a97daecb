"""Test the loading of files and plugins: order, names, identities, and errors with their lines."""

import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import orchestrator as od
from orchestrator.extensions import loading
from orchestrator.extensions.loading import load_code, load_sources, loaded_files, loaded_plugins
from orchestrator.extensions.registry import ENTRIES
from orchestrator.extensions.shipping import pack_code, unpack_code
from orchestrator.models.build import MODELS, network_code
from tests.refusal import refused
from tests.user_code import unload_all, write_code

NETWORK = """
from torch import nn
import orchestrator as od

@od.network("{name}")
def build(classes, shape, width: int = 2):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
"""


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_files_are_loaded_in_order_and_import_earlier_ones(tmp_path: Path) -> None:
    files, path = write_code(tmp_path / "code"), list(sys.path)
    load_code(files)
    assert [file.name for file in loaded_files()] == ["networks.py", "others.py"]
    assert sys.modules["others"].tiny is sys.modules["networks"].tiny
    assert sys.path == path, "a worker has no folder of the files"
    assert {name for _, name in ENTRIES} == {
        *("my/tiny", "my/labels", "my/noise", "my/negative", "my/top2", "my/accuracy")
    }
    unload_all()
    assert not {"networks", "others"} & set(sys.modules) and "my/tiny" not in MODELS
    with refused("--code") as caught:
        load_code(files[::-1])
    assert "others.py:4" in str(caught.value) and "give its file before" in str(caught.value)
    assert not ENTRIES and "others" not in sys.modules


def test_the_identity_covers_imported_files(tmp_path: Path) -> None:
    files = write_code(tmp_path)
    load_code(files)
    before = {name: entry.origin.identity for (_, name), entry in ENTRIES.items()}
    hashes = [file.sha256 for file in loaded_files()]
    files[0].write_text(files[0].read_text() + "# a comment\n")
    load_code(files)
    after = {name: entry.origin.identity for (_, name), entry in ENTRIES.items()}
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before)
    assert [file.sha256 for file in loaded_files()][1] == hashes[1]


def test_an_unchanged_file_is_not_executed_again(tmp_path: Path) -> None:
    file = write(tmp_path, "counted.py", "import sys\nsys.counted = getattr(sys, 'counted', 0) + 1")
    try:
        for _ in range(2):
            load_code([file])
        assert sys.counted == 1  # type: ignore[attr-defined]
    finally:
        del sys.counted  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("x = 1\ny = (", 2, "SyntaxError"),
        ("\n\nimport no_such_module", 3, "install no_such_module"),
        ("def f():\n    raise KeyError('k')\n\nf()", 2, "KeyError"),
        ("raise SystemExit(3)", 1, "SystemExit"),
        (NETWORK.format(name="a b"), 5, "the name 'a b'"),
        (NETWORK.format(name="twice") * 2, 12, "already registered in bad.py:5"),
    ],
)
def test_an_error_has_file_and_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    file = write(tmp_path, "bad.py", text)
    with refused("--code") as caught:
        load_code([file])
    message = str(caught.value)
    assert f"bad.py:{line}" in message and problem in message and "\n" not in message
    assert not ENTRIES and not loaded_files() and "bad" not in sys.modules


@pytest.mark.parametrize("name", ["torch.py", "json.py", "sys.py", "orchestrator.py", "numpy.py"])
def test_a_file_does_not_shadow_a_module(tmp_path: Path, name: str) -> None:
    module = sys.modules.get(name.removesuffix(".py"))
    with refused("--code"):
        load_code([write(tmp_path, name, "")])
    assert sys.modules.get(name.removesuffix(".py")) is module


@pytest.mark.parametrize("name", ["a-b.py", "a.txt", "class.py", "1a.py"])
def test_a_file_has_the_name_of_a_module(tmp_path: Path, name: str) -> None:
    with refused("--code", allowed="a file such as mine.py"):
        load_code([write(tmp_path, name, "")])


def test_two_files_have_different_names(tmp_path: Path) -> None:
    files = [write(tmp_path / part, "same.py", "") for part in ("one", "two")]
    with refused("--code", str(files[1]), "files with different names"):
        load_code(files)
    with refused("--code"):
        load_code([tmp_path / "missing.py"])
    (tmp_path / "latin.py").write_bytes(b"# \xe9")
    with refused("--code", allowed="a readable file in UTF-8"):
        load_code([tmp_path / "latin.py"])


def test_a_shipment_registers_the_same_in_another_process(tmp_path: Path) -> None:
    load_code(write_code(tmp_path))

    @od.network("lambda")
    def build(classes: int) -> None:
        return None

    shipment, code = pack_code(), {name: network_code(name) for name in ("my/tiny", "my/lambda")}
    names = set(ENTRIES)
    unload_all()
    unpack_code(shipment)
    assert set(ENTRIES) == names
    assert {name: network_code(name) for name in code} == code
    assert "test_loading.py" in ENTRIES["network", "my/lambda"].location
    assert pack_code() == shipment
    unpack_code(shipment)  # a restarted worker


def test_sources_fail_with_their_line() -> None:
    with refused("--code") as caught:
        load_sources({"mine.py": "x = 1\nimport no_such_module"})
    assert "mine.py:2" in str(caught.value)


class Points:
    """Entry points of installed plugins."""

    def __init__(self, load: object) -> None:
        self.load = load
        self.name, self.dist = "extra", SimpleNamespace(name="extra-nets", version="1.2")


def test_a_plugin_is_loaded_if_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def register() -> None:
        od.network("plugged")(lambda classes: None)

    def entry_points(group: str) -> list[Points]:
        assert group == loading.GROUP
        return [Points(lambda: register)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    load_code(())
    assert not ENTRIES
    with refused("--plugin", "extr", ("extra",)) as caught:
        load_code((), ["extr"])
    assert "did you mean 'extra'" in str(caught.value)
    load_code((), ["extra"])
    assert network_code("my/plugged") == "extra-nets 1.2"
    assert loaded_plugins() == {"extra": "extra-nets 1.2"}
    assert pack_code().plugins == ("extra",)


def test_a_plugin_that_fails_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("libx is missing")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Points(lambda: fail)])
    with refused("--plugin", "extra") as caught:
        load_code((), ["extra"])
    assert "libx is missing" in str(caught.value) and not loaded_plugins()
