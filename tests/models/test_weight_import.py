"""Test the import of weights: five layouts of checkpoints, refusals, and no code of a file."""

import os
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orchestrator.models._misfits import find_misfits
from orchestrator.models.build import build
from orchestrator.models.checkpoint_files import read_checkpoint
from orchestrator.models.network import Network
from orchestrator.models.weight_files import read_class_names
from orchestrator.models.weight_import import ImportedWeights, Matching, Wanted, convert_checkpoint
from orchestrator.models.weights import load_weights
from tests.models.repdistiller import trained
from tests.refusal import refused

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"


def network(classes: int = 10, name: str = "resnet8") -> Network:
    torch.manual_seed(7)
    made = build(name, classes, (3, 32, 32), {})
    made(torch.randn(8, 3, 32, 32))  # other statistics than those of a fresh network
    return made.eval()


def save(content: object, file: Path, zipped: bool = True) -> Path:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file


def convert(
    file: Path, wanted: Wanted | None = None, key: str | None = None, matching: Matching = "names"
) -> ImportedWeights:
    return convert_checkpoint(read_checkpoint(file, key), wanted or Wanted("resnet8", {}), matching)


def assert_same(imported: ImportedWeights, state: State) -> None:
    assert imported.match.state.keys() == state.keys()
    assert all(torch.equal(imported.match.state[name], state[name]) for name in state)


def prefixed(state: State, *prefixes: str) -> State:
    return {f"{''.join(prefixes)}{name}": tensor for name, tensor in state.items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


LAYOUTS: dict[str, Callable[[State], tuple[object, str]]] = {
    "plain": lambda state: (state, ""),
    "with a namespace": lambda state: (
        {"model": state, "opt": Namespace(lr=0.1), "best_acc": np.float64(0.7), "epoch": 3},
        "model",
    ),
    "of DataParallel": lambda state: ({"state_dict": prefixed(state, "module.")}, "state_dict"),
    "compiled, with an average": lambda state: (
        {
            "model": prefixed(zeros(state), "_orig_mod."),
            "state_dict_ema": prefixed(state, "_orig_mod.module."),
        },
        "state_dict_ema",
    ),
    "of Lightning": lambda state: (
        {"state_dict": prefixed(state, "model."), "hyper_parameters": {"lr": 0.1}},
        "state_dict",
    ),
    "with another classifier": lambda state: (
        {"net": {name.replace("head.", "linear."): state[name] for name in state}, "acc": 9.1},
        "net",
    ),
    "a backbone and a head": lambda state: (
        {
            name.replace("head.", "head.fc.").replace("body.", "backbone."): state[name]
            for name in state
        },
        "",
    ),
    "an averaged model": lambda state: (
        {**prefixed(state, "module."), "n_averaged": torch.tensor(3)},
        "",
    ),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_weights(tmp_path: Path, layout: str, zipped: bool) -> None:
    state = network().state_dict()
    content, key = LAYOUTS[layout](state)
    imported = convert(save(content, tmp_path / "file.pth", zipped))
    assert_same(imported, state)
    assert imported.checkpoint.key == key and imported.network.classes == 10


def test_repdistiller_by_order_has_equal_logits(tmp_path: Path) -> None:
    teacher, images = trained(), torch.randn(4, 3, 32, 32)
    content = {"opt": Namespace(model="resnet8"), "model": teacher.state_dict(), "optimizer": {}}
    file = save(content, tmp_path / "resnet8_last.pth")
    with refused("FILE", str(file), "weights of resnet8 with 10 classes") as caught:
        convert(file)
    assert "--match order" in str(caught.value).splitlines()[0]
    convert(file, matching="order").save(tmp_path / "r.safetensors")
    own = build("resnet8", 10, (3, 32, 32), {}).eval()
    load_weights(own, str(tmp_path / "r.safetensors"))
    with torch.no_grad():
        assert torch.equal(own(images).logits, teacher(images))


@pytest.mark.parametrize("matching", ["names", "order"])
def test_missing_counters_of_old_files_are_zero(tmp_path: Path, matching: Matching) -> None:
    state = network().state_dict()
    old = {name: tensor for name, tensor in state.items() if COUNTER not in name}
    imported = convert(save(old, tmp_path / "old.pth"), matching=matching)
    expected = {name: state[name] * 0 if COUNTER in name else state[name] for name in state}
    assert_same(imported, expected)
    assert len(imported.match.filled) == sum(COUNTER in name for name in state)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda state: state.pop("bn1.bias"), "body.1.bias"),
        (lambda state: state.update({"aux.weight": torch.zeros(3, 3)}), "aux.weight"),
        (lambda state: state.update({"fc.weight": torch.zeros(10, 63)}), "head.weight"),
        (lambda state: state.update({"bn1.bias": torch.full((16,), torch.nan)}), "body.1.bias"),
        (lambda state: state.update({"bn1.running_var": -torch.ones(16)}), "body.1.running_var"),
    ],
)
def test_order_does_not_accept_another_sequence(
    tmp_path: Path, change: Callable[[State], object], name: str
) -> None:
    state = dict(trained().state_dict())
    change(state)
    with refused("FILE", allowed="weights of resnet8 with 10 classes") as caught:
        convert(save(state, tmp_path / "changed.pth"), matching="order")
    sentence, _, *rows = str(caught.value).splitlines()
    assert "1 tensor does not fit" in sentence and [row.split()[0] for row in rows] == [name]


def test_order_compares_kinds_of_equal_shape(tmp_path: Path) -> None:
    names = [name for name in trained().state_dict() if COUNTER not in name]
    state = trained().state_dict()
    first, second = names.index("bn1.weight"), names.index("bn1.bias")
    names[first], names[second] = names[second], names[first]
    swapped = OrderedDict((name, state[name]) for name in names)
    with refused("FILE"):
        convert(save(swapped, tmp_path / "swapped.pth"), matching="order")


def test_safetensors_has_no_order(tmp_path: Path) -> None:
    save_file(trained().state_dict(), tmp_path / "sorted.safetensors")
    with refused("--match", "order", ("names",)):
        convert(tmp_path / "sorted.safetensors", matching="order")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_safetensors_of_any_suffix_are_read(tmp_path: Path, name: str) -> None:
    state = network().state_dict()
    save_file(prefixed(state, "module."), tmp_path / name)
    assert_same(convert(tmp_path / name), state)


def test_all_misfits_are_in_one_table(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    del state["body.0.weight"]
    state |= {"head.weight": torch.zeros(10, 3), "extra.weight": torch.zeros(2)}
    with refused("FILE", allowed="weights of resnet8 with 10 classes") as caught:
        convert(save(state, tmp_path / "wrong.pth"))
    sentence, head, *rows = str(caught.value).splitlines()
    assert "3 tensors do not fit" in sentence and head.split() == ["tensor", "given", "needed"]
    assert {row.split()[0] for row in rows} == {"body.0.weight", "head.weight", "extra.weight"}


@pytest.mark.parametrize("key", ["student", "teacher"])
def test_one_of_several_state_dicts_is_chosen(tmp_path: Path, key: str) -> None:
    state = network().state_dict()
    content = {"student": state, "teacher": zeros(state)}
    file = save(content, tmp_path / "both.pth")
    with refused("--from", None, ("student", "teacher")):
        read_checkpoint(file)
    with refused("--from", "pupil", ("student", "teacher")):
        read_checkpoint(file, "pupil")
    assert_same(convert(file, key=key), content[key])
    prefixes = {**prefixed(state, "student."), **prefixed(zeros(state), "teacher.")}
    assert_same(convert(save(prefixes, tmp_path / "names.pth"), key=key), content[key])


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_whole_module_is_refused_with_two_lines_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, wrapped: bool
) -> None:
    module, kind = trained(), "tests.models.repdistiller.ResNet"
    file = save({"model": module} if wrapped else module, tmp_path / "whole.pth", zipped)
    with refused("FILE", str(file), f"a state dict instead of {kind}") as caught:
        read_checkpoint(file)
    sentence, *lines = str(caught.value).splitlines()
    assert kind in sentence and len(lines) == 2
    monkeypatch.chdir(tmp_path)
    code = "\n".join(["import torch", *map(str.strip, lines)])
    if wrapped and not zipped:  # the key is unknown, and the lines say so
        code = code.replace("  # and its key, such as ", "").replace(", if this is a mapping", "")
    Path("owner.py").write_text(code)
    run_path("owner.py")
    imported = convert(tmp_path / "whole-state.pth", matching="order")
    given = list(module.state_dict().values())
    assert all(map(torch.equal, imported.match.state.values(), given))


class Harmful:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Settings(dict[str, int]):
    """A mapping of a class that the reader does not know."""


class Values(list[int]):
    """A list of a class that the reader does not know."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [Path.touch, Path.mkdir, os.mkdir])
def test_no_function_of_a_file_is_called(
    tmp_path: Path, function: Callable[..., object], zipped: bool
) -> None:
    target = tmp_path / "ran"
    argument = str(target) if function is os.mkdir else target
    content = {"state_dict": network().state_dict(), "x": Harmful(function, argument)}
    with refused("FILE"):
        read_checkpoint(save(content, tmp_path / "harmful.pth", zipped))
    assert not target.exists()


def test_objects_of_other_classes_are_skipped_and_named(tmp_path: Path) -> None:
    state = network().state_dict()
    content = {
        "model": state,
        "settings": Settings(a=1),
        "values": Values([1, 2]),
        "log": defaultdict(list, {"loss": [1.0]}),
        "where": Path("/x"),
    }
    checkpoint = read_checkpoint(save(content, tmp_path / "objects.pth"))
    assert {f"{__name__}.Settings", f"{__name__}.Values", "collections.defaultdict"} <= set(
        checkpoint.skipped
    )
    assert checkpoint.tensors.keys() == state.keys()


@pytest.mark.parametrize(
    ("content", "word"),
    [({}, "empty"), ([1], "list"), (torch.zeros(3), "Tensor"), ({"a": "b"}, "'a'")],
)
def test_a_file_without_tensors_is_refused(tmp_path: Path, content: object, word: str) -> None:
    with refused("FILE") as caught:
        read_checkpoint(save(content, tmp_path / "nothing.pth"))
    assert word in str(caught.value)


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.empty(3, device="meta")])
def test_tensors_without_dense_values_are_refused(tmp_path: Path, tensor: Tensor) -> None:
    with refused("FILE") as caught:
        read_checkpoint(save({"state_dict": {"w": tensor}}, tmp_path / "odd.pth"))
    assert "contains w" in str(caught.value)


def _archive(file: Path, name: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"content")


@pytest.mark.parametrize(
    ("name", "write", "word"),
    [
        ("program.pt", lambda file: _archive(file, "program/code/x.py"), "TorchScript"),
        ("model.keras", lambda file: _archive(file, "model.weights.h5"), "Keras"),
        ("model.h5", lambda file: file.write_bytes(b"\x89HDF\r\n\x1a\n"), "Keras"),
        ("model.onnx", lambda file: file.write_bytes(b"\x08\x07"), "ONNX"),
        ("arrays.npz", lambda file: np.savez(file, a=np.zeros(2)), "NumPy"),
        ("cut.pth", lambda file: file.write_bytes(b"PK\x03\x04"), "damaged"),
        ("cut.ckpt", lambda file: file.write_bytes(b"\x80\x02}q"), "damaged"),
        ("text.pth", lambda file: file.write_text("hello"), "unknown format"),
    ],
)
def test_other_formats_are_refused_in_one_sentence(
    tmp_path: Path, name: str, write: Callable[[Path], object], word: str
) -> None:
    write(tmp_path / name)
    with refused("FILE", str(tmp_path / name)) as caught:
        read_checkpoint(tmp_path / name)
    assert word in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(tmp_path: Path, zipped: bool) -> None:
    file = save(network().state_dict(), tmp_path / "cut.pth", zipped)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with refused("FILE", str(file)):
        read_checkpoint(file)


@pytest.mark.parametrize("classes", [None, 10, 9])
def test_the_number_of_classes_is_that_of_the_file(tmp_path: Path, classes: int | None) -> None:
    file = save(network().state_dict(), tmp_path / "ten.pth")
    wanted = Wanted("resnet8", {}, classes)
    if classes == 9:
        with refused("FILE", str(file), "weights of resnet8 with 9 classes"):
            convert(file, wanted)
    else:
        assert convert(file, wanted).network.classes == 10


def test_inputs_of_an_mlp_are_those_of_the_file(tmp_path: Path) -> None:
    state = build("mlp", 4, (3, 8, 8), {"width": 6}).state_dict()
    file = save(state, tmp_path / "mlp.pth")
    assert convert(file, Wanted("mlp", {"width": 6})).shape == (3, 8, 8)
    with refused("FILE", str(file), "weights of mlp with 4 classes"):
        convert(file, Wanted("mlp", {"width": 6}, side=9))


def test_torchvision_names_choose_the_stem_that_fits(tmp_path: Path) -> None:
    with torch.device("meta"):
        small = build("resnet18", 3, (3, 32, 32), {})
    from torchvision.models import resnet18

    state = resnet18(num_classes=3).state_dict()
    file = save(prefixed(state, "module."), tmp_path / "resnet18.pth")
    imported = convert(file, Wanted("resnet18", {}))
    assert imported.shape == (3, 224, 224)
    assert torch.equal(imported.match.state["head.weight"], state["fc.weight"])
    assert find_misfits(small.state_dict(), imported.match.state)[0].name == "body.conv1.weight"


def test_written_file_records_its_origin_and_is_the_same_each_time(tmp_path: Path) -> None:
    state = {name: tensor.double() for name, tensor in network(2).state_dict().items()}
    state |= {name: tensor.long() for name, tensor in state.items() if COUNTER in name}
    imported = convert(save({"model": state}, tmp_path / "two.pth"))
    for name in ("a.safetensors", "b.safetensors"):
        imported.save(tmp_path / name, ["cat", "dog"])
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert read_class_names(tmp_path / "a.safetensors") == ("cat", "dog")
    assert load_file(tmp_path / "a.safetensors")["head.weight"].dtype == torch.float32
    load_weights(build("resnet8", 2, (3, 32, 32), {}), str(tmp_path / "a.safetensors"))


def test_the_same_module_below_a_prefix_of_the_network(tmp_path: Path) -> None:
    """A network that wraps a module has the module's own names below one prefix."""
    module = nn.Sequential(OrderedDict(stem=nn.Linear(4, 3), fc=nn.Linear(3, 2)))
    wrapper = nn.ModuleDict({"anything": module})
    from orchestrator.models._matching import match_by_name

    match = match_by_name(wrapper.state_dict(), prefixed(module.state_dict(), "module."))
    assert not match.misfits and match.names["anything.fc.weight"] == "module.fc.weight"
    renamed = {name.replace("fc.", "head."): tensor for name, tensor in module.state_dict().items()}
    match = match_by_name(wrapper.state_dict(), renamed)
    assert not match.misfits and match.names["anything.fc.weight"] == "head.weight"
