"""Test exported programs: every format gives the student's logits, and none is pickled."""

import importlib.util
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._export.serde.schema import SCHEMA_VERSION
from torch._export.serde.serialize import serialize

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.export.check import compare_logits
from orchestrator.export.formats import FORMATS, Predictions, load_onnx, load_program, read_plain
from orchestrator.models._cifar_resnet import DEPTHS
from orchestrator.models._vgg import CONVOLUTIONS
from orchestrator.models._wide_resnet import SIZES
from orchestrator.models.build import MODELS, build
from orchestrator.models.network import Network
from tests.families import SMALL, trained

LARGE = ("resnet18", "mobilenet_v2")  # seconds each as ONNX
# tests/tracking/test_served_families.py writes and reads the program of every family
REPEATED = pytest.mark.slow
ONNX_MARKS = {"cnn": REPEATED}  # separable_cnn has its layers
ONNX = [
    package for package in FORMATS["onnx"].packages if importlib.util.find_spec(package) is None
]
needs_onnx = pytest.mark.skipif(
    bool(ONNX), reason=f"{', '.join(ONNX)} not installed: pip install '.[onnx]'"
)


def same(
    network: Network, written: Predictions, shape: tuple[int, int, int], tolerance: float
) -> None:
    inputs = {str(size): torch.randn(size, *shape) for size in (1, 2, 7)}
    result = compare_logits(lambda images: network(images).logits, written, inputs, tolerance)
    assert result.same, result.largest


def test_every_network_is_of_a_family_that_is_looked_at() -> None:
    # the last ones are only deeper or wider
    deeper = {*DEPTHS, *SIZES, *CONVOLUTIONS, "resnet34", "resnet50"}
    assert set(MODELS) == set(SMALL) | deeper


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=REPEATED if name in LARGE else ()) for name in SMALL]
)
def test_a_program_gives_the_logits_of_the_student_for_any_batch_and_unpickles_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*arguments: Any, **named: Any) -> None:
        raise AssertionError("something was unpickled")

    shape, settings = SMALL[name]
    network = trained(name, shape, settings)
    FORMATS["torchexport"].write(network, shape, tmp_path / "model.pt2")
    for owner, attribute in (
        (torch, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
    ):
        monkeypatch.setattr(owner, attribute, no)
    same(network, load_program(tmp_path / "model.pt2"), shape, FORMATS["torchexport"].tolerance)


@needs_onnx
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.faults if name in LARGE else ONNX_MARKS.get(name, ()))
        for name in SMALL
    ],
)
def test_a_graph_gives_the_logits_of_the_student_for_any_batch(name: str, tmp_path: Path) -> None:
    shape, settings = SMALL[name]
    network = trained(name, shape, settings)
    FORMATS["onnx"].write(network, shape, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]  # no separate weights
    same(network, load_onnx(tmp_path / "model.onnx"), shape, FORMATS["onnx"].tolerance)


def test_logits_of_another_student_differ() -> None:
    network, other = (build("mlp", 10, (1, 8, 8), {"width": 8}).eval() for _ in range(2))
    inputs = {"random": torch.randn(4, 1, 8, 8)}
    result = compare_logits(
        lambda images: network(images).logits, lambda images: other(images).logits, inputs, 1e-2
    )
    assert not result.same and result.largest > 0
    assert not compare_logits(
        lambda images: network(images).logits, lambda images: images.flatten(1), inputs, 1e9
    ).same


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program of a small network."""
    file = tmp_path_factory.mktemp("program") / "model.pt2"
    FORMATS["torchexport"].write(trained("mlp", *SMALL["mlp"]), SMALL["mlp"][0], file)
    return file


def rewritten(program: Path, to: Path, changes: dict[str, bytes]) -> Path:
    """Return the program with members replaced or added, by the ends of their names."""
    with zipfile.ZipFile(program) as old, zipfile.ZipFile(to, "w") as new:
        for member in old.namelist():
            ours = [content for end, content in changes.items() if member.endswith(end)]
            new.writestr(member, ours[0] if ours else old.read(member))
        for end, content in changes.items():
            if not any(member.endswith(end) for member in old.namelist()):
                new.writestr(f"model/{end}", content)
    return to


def pickled_weights(program: Path) -> bytes:
    with zipfile.ZipFile(program) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("weights_config.json"))
        return archive.read(name).replace(b'"use_pickle": false', b'"use_pickle": true', 1)


def test_a_program_with_a_pickle_is_not_opened(program: Path, tmp_path: Path) -> None:
    assert read_plain(program) == program.read_bytes()
    doctored = [
        {"weights_config.json": pickled_weights(program)},
        {"sample_inputs/model.pt": pickle.dumps("run me")},
        {"data/weights/model.pt": pickle.dumps("run me")},
        {"data/constants/custom_obj_0": b"1"},
        {"data/aotinductor/model/model.so": b"1"},
        {"data/aotinductor/model/model.cpp": b""},
        {"models/other.json": b"{}"},
        {"extra/note": b"1"},
    ]
    for number, changes in enumerate(doctored):
        with pytest.raises(ConfigurationError, match=r"is not opened, because .* is pickled"):
            load_program(rewritten(program, tmp_path / f"{number}.pt2", changes))


class Touch:
    """Object that touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"x/archive_version": b"0"},
        {"model/archive_version": b"0", "model/archive_format": b"pt2"},
    ],
)
def test_the_format_of_before_pytorch_2_8_is_never_unpickled(
    program: Path, tmp_path: Path, extra: dict[str, bytes]
) -> None:
    file, touched = tmp_path / "old.pt2", tmp_path / "touched"
    members = {
        "version": ".".join(map(str, SCHEMA_VERSION)).encode(),
        "serialized_exported_program.json": serialize(torch.export.load(program)).exported_program,
        "serialized_state_dict.json": pickle.dumps(Touch(touched)),
        "serialized_constants.json": b"",
        "serialized_example_inputs.pt": b"",
    }
    for ours in (extra | members, members | extra):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in ours.items():
                archive.writestr(name, content)
        with pytest.raises(
            ConfigurationError, match="is not opened, because it is not in the format"
        ):
            load_program(file)
        assert not touched.exists()
    # raised after the harm; only the refusal prevents it
    with pytest.raises(Exception, match="magic number"):
        torch.export.load(file)
    assert touched.exists()


@pytest.mark.parametrize("name", ["version", "serialized_state_dict.json"])
def test_a_program_with_an_empty_member_of_the_older_format_is_not_opened(
    program: Path, tmp_path: Path, name: str
) -> None:
    file = Path(shutil.copy(program, tmp_path))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"")
    with pytest.raises(ConfigurationError, match="is not in the format"):
        load_program(file)


def test_a_program_is_read_without_the_older_format(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export, "load", None)
    file = rewritten(program, tmp_path / "cut.pt2", {"models/model.json": b"{}"})
    with pytest.raises(ConfigurationError, match="missing or damaged"):
        load_program(file)
    assert load_program(program)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_damaged_program_is_refused(program: Path, tmp_path: Path) -> None:
    cut, empty = tmp_path / "cut.pt2", tmp_path / "empty.pt2"
    cut.write_bytes(program.read_bytes()[:-100])
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr(
            "serialized_exported_program.json", "{}"
        )  # the format of older versions, which unpickles
    for file, message in (
        (cut, "missing or damaged"),
        (tmp_path / "none.pt2", "missing or damaged"),
        (empty, "is not in the format"),
    ):
        with pytest.raises(ConfigurationError, match=message) as refusal:
            load_program(file)
        assert "\n" not in str(refusal.value)


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object()
    )
    with pytest.raises(
        PreflightError, match="--format onnx needs onnxruntime, which is not installed: install it"
    ):
        FORMATS["onnx"].require("onnx")


@pytest.mark.faults
def test_a_program_needs_nothing_of_this_project(program: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch; program = torch.export.load(sys.argv[1]).module(); "
        "print(tuple(program(torch.zeros(3, 1, 8, 8)).shape), {'orchestrator', 'methods'} & "
        "set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "(3, 10) set()", done.stderr
