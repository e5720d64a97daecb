"""Test saving and loading of weights, and all misfits, without a download."""

import re
import shlex
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import run
from orchestrator.core.errors import PreflightError
from orchestrator.models._misfits import MAX_ROWS
from orchestrator.models.build import build, build_on_meta
from orchestrator.models.network import Network
from orchestrator.models.weights import (
    load_weights,
    network_fingerprint,
    require_weights,
    save_weights,
)
from tests.refusal import ANY, refused


def network(
    name: str = "resnet8",
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    seed: int = 0,
) -> Network:
    torch.manual_seed(seed)
    return build(name, classes, shape, {})


def fingerprint(module: nn.Module) -> str:
    return network_fingerprint(module.state_dict())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file of weights of resnet8 with 10 classes."""
    save_weights(network(), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def refusal(module: Network, weights: Any, allowed: object = ANY) -> str:
    before = fingerprint(module)
    with refused("weights", str(weights), allowed) as caught:
        load_weights(module, str(weights))
    assert fingerprint(module) == before, "a network that refuses weights keeps its own"
    return str(caught.value)


def test_weights_survive_saving_and_loading(file: Path) -> None:
    other = network(seed=1)
    assert fingerprint(other) != fingerprint(network())
    load_weights(other, str(file))
    assert fingerprint(other) == fingerprint(network())


def test_only_the_file_is_left(file: Path) -> None:
    save_weights(network(seed=2), file)
    assert list(file.parent.iterdir()) == [file]


def test_layout_in_memory_does_not_matter(tmp_path: Path) -> None:
    moved = network().to(memory_format=torch.channels_last)
    save_weights(moved, tmp_path / "a" / "b.safetensors")
    load_weights(other := network(seed=1), str(tmp_path / "a" / "b.safetensors"))
    assert fingerprint(other) == fingerprint(network()) == fingerprint(moved)


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    shared = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
    shared["two"].weight = shared["one"].weight
    save_weights(shared, tmp_path / "shared.safetensors")
    assert (tmp_path / "shared.safetensors").is_file()


def test_unwritable_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed")
    file = tmp_path / "taken" / "weights.safetensors"
    with refused(str(file), allowed="a file that can be written", error=PreflightError):
        save_weights(network(), file)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "resnet8 with 10 classes" in refusal(
        network(), tmp_path / "none.safetensors", "a file that exists"
    )


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_truncated_file_is_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    message = refusal(network(seed=1), file, "a complete .safetensors file")
    assert str(file) in message and "resnet8 with 10 classes" in message


def rows(message: str) -> list[list[str]]:
    """Return the rows of the table below the sentence: tensor, given, needed."""
    return [re.split(" {2,}", line.strip()) for line in message.splitlines()[2:]]


def test_other_number_of_classes_is_refused(file: Path) -> None:
    message = refusal(network(classes=100), file, "weights of resnet8 with 100 classes")
    assert "2 tensors" in message.splitlines()[0]
    assert rows(message) == [
        ["head.weight", "float32 10x64", "float32 100x64"],
        ["head.bias", "float32 10", "float32 100"],
    ]


def test_tensors_of_another_network_are_listed_up_to_a_limit(file: Path) -> None:
    message = refusal(network("resnet20"), file, "weights of resnet20 with 10 classes")
    missing = [
        name for name in network("resnet20").state_dict() if name not in network().state_dict()
    ]
    assert f"{len(missing)} tensors" in message
    assert [row[0] for row in rows(message)[:-1]] == missing[:MAX_ROWS] and message.endswith(
        f"and {len(missing) - MAX_ROWS} more"
    )


def test_every_kind_of_misfit_is_in_one_table(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    state["extra"] = torch.zeros(1)
    state["head.weight"] = state["head.weight"].to(torch.int8)
    state["head.bias"][[1, 4]] = torch.tensor([torch.nan, -torch.inf])
    counter = next(name for name in state if name.endswith("num_batches_tracked"))
    state[counter] = torch.tensor(1.0)
    large = next(name for name in state if name.endswith("running_mean"))
    state[large] = state[large].double().fill_(1e300)  # finite only in its own type
    removed, negative, *_ = (name for name in state if name.endswith("running_var"))
    del state[removed]
    state[negative][0] = -1
    save_file(state, tmp_path / "odd.safetensors")
    with torch.device("meta"):
        built = network()
    for check in (load_weights, require_weights):
        with refused(
            "weights", str(tmp_path / "odd.safetensors"), "weights of resnet8 with 10 classes"
        ) as caught:
            check(network() if check is load_weights else built, str(tmp_path / "odd.safetensors"))
        given = {name: (what, needed) for name, what, needed in rows(str(caught.value))}
        assert len(given) == 7 and given[negative] == (
            "1 variances below 0",
            "values of at least 0",
        )
        assert given[removed] == ("missing", "float32 16") and given["extra"] == (
            "float32 1",
            "not part of the network",
        )
        assert given["head.weight"] == ("int8 10x64", "float32 10x64, or another float type")
        assert given["head.bias"] == ("2 of 10 values NaN or infinite", "finite values")
        assert given[counter] == ("float32 scalar", "int64 scalar, or another integer type")
        assert given[large] == ("16 of 16 values NaN or infinite", "finite values")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_taken(tmp_path: Path, kind: torch.dtype) -> None:
    state = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor
        for name, tensor in network().state_dict().items()
    }
    save_file(state, tmp_path / "cast.safetensors")
    load_weights(other := network(seed=1), str(tmp_path / "cast.safetensors"))
    assert torch.equal(other.head.weight, state["head.weight"].float())


class Harmful:
    """An object that runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    "name", ["teacher.pth", "teacher.pt", "pytorch_model.bin", "last.ckpt", "renamed.safetensors"]
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_checkpoint_is_refused_unopened_with_the_command(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    file = tmp_path / name
    torch.save(
        {"fc.weight": Harmful(tmp_path / "ran")}, file, _use_new_zipfile_serialization=zipped
    )
    message = refusal(network("resnet18"), file, "a .safetensors file")
    assert message.startswith(f"{file} is a PyTorch checkpoint")
    assert "`python run.py import-weights " in message and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["my teacher.pth", "renamed.safetensors"])
def test_printed_command_imports_the_file(tmp_path: Path, name: str) -> None:
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, tmp_path / name)
    message = refusal(network(seed=1), tmp_path / name)
    words = shlex.split(message.partition("`")[2].partition("`")[0])
    assert words[:3] == ["python", "run.py", "import-weights"]
    assert CliRunner().invoke(run.app, words[2:]).exit_code == 0
    written = tmp_path / message.rpartition("and give ")[2]
    load_weights(other := network(seed=1), str(written))
    assert fingerprint(other) == fingerprint(network())


def test_command_for_a_pickle_has_the_settings_of_the_network(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "cnn.pth")
    model = build_on_meta("cnn", 10, (1, 8, 8), {"width": 4})
    with refused("weights", str(tmp_path / "cnn.pth"), "a .safetensors file") as caught:
        require_weights(model, str(tmp_path / "cnn.pth"), settings={"width": 4})
    assert "--network cnn --set width=4`" in str(caught.value)


def test_foreign_names_in_a_safetensors_file_are_refused_with_the_command(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in network().state_dict().items()}
    save_file(state, file := tmp_path / "foreign.safetensors")
    message = refusal(network(seed=1), file, "weights of resnet8 with 10 classes")
    words = shlex.split(message.partition("`")[2].partition("`")[0])
    assert CliRunner().invoke(run.app, words[2:]).exit_code == 0
    load_weights(other := network(seed=1), words[-1])
    assert fingerprint(other) == fingerprint(network())


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("teacher.bin", None, ""),
        ("model.h5", b"\x89HDF\r\n\x1a\n and more", "HDF5"),
        ("model.onnx", b"\x08\x07 and more", "ONNX"),
        ("cut.pth", b"PK\x03\x04 and no end", "damaged zip"),
        ("odd.weights", b"unknown", "format"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes | None, kind: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    message = refusal(
        network(),
        tmp_path / name,
        "a file that exists" if content is None else "a .safetensors file",
    )
    assert message.startswith(f"{tmp_path / name} ") and kind in message


def test_safetensors_under_another_name_are_to_be_renamed(file: Path) -> None:
    moved = file.rename(file.with_name("teacher.bin"))
    assert "rename" in refusal(network(), moved, "teacher.safetensors")


def test_fingerprint_sees_names_shapes_types_and_values() -> None:
    state = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": torch.arange(12.0)[:6].clone()}
    assert network_fingerprint(state) == network_fingerprint(same)
    others: list[dict[str, Tensor]] = [
        {"c": state["a"], "b": state["b"]},
        {**state, "a": state["a"].reshape(2, 3)},
        {**state, "a": state["a"].to(torch.int32)},
        {**state, "a": state["a"].to(torch.bfloat16)},
        {**state, "a": -state["a"]},
        {"a": state["a"]},
    ]
    assert len({network_fingerprint(other) for other in [state, *others]}) == 7


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Replace torchvision's download for resnet18 by a fresh state without batch counters."""
    from torchvision.models import ResNet18_Weights, resnet18

    torch.manual_seed(9)
    state = {
        name: tensor
        for name, tensor in resnet18().state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    return state


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"])
def test_published_weights_fill_all_when_all_fits(
    published: dict[str, Tensor], weights: str
) -> None:
    module = network("resnet18", 1000, (3, 224, 224))
    load_weights(module, weights)
    state = module.state_dict()
    assert torch.equal(state["head.weight"], published["fc.weight"])
    assert torch.equal(state["head.bias"], published["fc.bias"])
    assert all(
        torch.equal(state[f"body.{name}"], published[name])
        for name in published
        if not name.startswith("fc.")
    )


def test_published_weights_leave_out_a_classifier_and_a_stem_of_another_shape(
    published: dict[str, Tensor],
) -> None:
    module, fresh = network("resnet18", 10, (3, 32, 32)), network("resnet18", 10, (3, 32, 32))
    load_weights(module, "IMAGENET1K_V1")
    state = module.state_dict()
    assert torch.equal(state["head.weight"], fresh.head.weight)
    assert torch.equal(state["body.conv1.weight"], fresh.state_dict()["body.conv1.weight"])
    rest = [name for name in published if not name.startswith(("fc.", "conv1."))]
    assert all(torch.equal(state[f"body.{name}"], published[name]) for name in rest)


@pytest.mark.parametrize(
    ("classes", "shape", "allowed"),
    [
        (10, (3, 224, 224), "a classifier for 10 classes"),
        (1000, (3, 32, 32), {"body.conv1.weight": (64, 3, 3, 3)}),
    ],
)
def test_published_weights_that_do_not_fit_are_refused_if_exact(
    published: dict[str, Tensor], classes: int, shape: tuple[int, int, int], allowed: object
) -> None:
    module = network("resnet18", classes, shape)
    before = fingerprint(module)
    with refused("weights", "IMAGENET1K_V1", allowed) as caught:
        load_weights(module, "IMAGENET1K_V1", exact=True)
    assert "\n" not in str(caught.value) and "teacher.network.weights" in str(caught.value)
    assert fingerprint(module) == before
    with refused("weights", "IMAGENET1K_V1", allowed) as dry:
        require_weights(module, "IMAGENET1K_V1", exact=True)
    assert str(dry.value) == str(caught.value)
    load_weights(fitting := network("resnet18", 1000, (3, 224, 224)), "IMAGENET1K_V1", exact=True)
    require_weights(fitting, "IMAGENET1K_V1", exact=True)
    assert torch.equal(fitting.head.weight, published["fc.weight"])


def test_published_weights_of_mobilenet_go_to_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    state = mobilenet_v2().state_dict()
    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", lambda *_, **__: state)
    module = network("mobilenet_v2", 1000, (3, 32, 32))
    load_weights(module, "IMAGENET1K_V2")
    assert torch.equal(module.head.weight, state["classifier.1.weight"])
    assert torch.equal(
        module.state_dict()["body.features.0.0.weight"], state["features.0.0.weight"]
    )


@pytest.mark.parametrize("weights", ["IMAGENET1K_V9", "ResNet34_Weights.IMAGENET1K_V1", ""])
def test_unknown_published_weights_are_refused_with_the_known(weights: str) -> None:
    refusal(
        network("resnet18"), weights, ("ResNet18_Weights.IMAGENET1K_V1", "ResNet18_Weights.DEFAULT")
    )


def test_network_without_published_weights_is_refused() -> None:
    assert "resnet8" in refusal(network(), "IMAGENET1K_V1", "a .safetensors file")


@pytest.mark.parametrize(
    "error", [URLError("no route"), TimeoutError("timed out"), RuntimeError("invalid hash value")]
)
def test_failed_download_is_refused(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    from torchvision.models import ResNet18_Weights

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    refusal(network("resnet18"), "IMAGENET1K_V1", "a connection, or a .safetensors file")


def test_a_download_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = (
        tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    )  # as torch keeps IMAGENET1K_V1
    file.parent.mkdir(parents=True)
    torch.save({"fc.weight": Harmful(tmp_path / "ran")}, file)
    assert str(file) in refusal(network("resnet18"), "IMAGENET1K_V1", "weights alone")
    assert not (tmp_path / "ran").exists()
