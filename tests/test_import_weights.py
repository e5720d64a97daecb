"""Test `run.py import-weights`: the file, the accuracy, the next commands, and refused options."""

import re
import shlex
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import run
from orchestrator.config.loader import load
from orchestrator.data.dataset import Dataset
from orchestrator.models.build import build
from orchestrator.models.network import Network
from orchestrator.store.store import Store
from tests.refusal import refused

SMALL = ("--set", "data.limit.train=128", "--set", "data.limit.validation=60")
NETWORK = ("--network", "cnn", "--set", "width=4")


def network(classes: int = 10) -> Network:
    torch.manual_seed(2)
    return build("cnn", classes, (1, 8, 8), {"width": 4}).eval()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Work in a folder with a checkpoint of a cnn for 10 classes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    torch.save({"model": network().state_dict()}, tmp_path / "my net.pth")
    torch.save(network(12).state_dict(), tmp_path / "twelve.pth")
    return "my net.pth"


def call(*words: str) -> str:
    """Return the output of a command that succeeds."""
    result = CliRunner().invoke(run.app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def printed_options(output: str, use: str) -> list[str]:
    (command,) = re.findall(rf"^as {use}: python run\.py sweep (.+)$", output, re.MULTILINE)
    return shlex.split(command)


def validation_accuracy(
    model: Network, positions: list[int], statistics: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Return the accuracy of a network and of guessing on the only prepared data of the store.

    The network expects images with the mean and deviation `statistics`, or those of the data.
    """
    (folder,) = (each.parent for each in Store.open("runs").root.glob("data/*/data.json"))
    dataset = Dataset.open(folder)
    images = torch.from_numpy(np.array(dataset.validation.inputs)).permute(0, 3, 1, 2).float() / 255
    mean, std = statistics or (dataset.mean[0], dataset.std[0])
    images = (images - mean) / std
    labels = torch.from_numpy(np.array(dataset.validation.labels))
    with torch.no_grad():
        correct = model(images).logits[:, positions].argmax(1) == labels
    return correct.double().mean().item(), labels.bincount().max().item() / len(labels)


def test_accuracy_is_that_of_the_network_and_the_next_commands_work(file: str) -> None:
    output = call("import-weights", file, *NETWORK, *SMALL)
    accuracy, guess = validation_accuracy(network(), list(range(10)))
    assert f"validation accuracy {accuracy:.4f} on 60 images of digits" in output
    assert f"guessing reaches {guess:.4f}" in output
    written = Path("my net.safetensors")
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    for use in ("teacher", "student"):
        plan = call("train", "--dry-run", *printed_options(output, use))
        assert "my net.safetensors" in plan and "train 128" in plan
    assert "already in the store" in call("train", "--dry-run", *printed_options(output, "teacher"))


def test_accuracy_is_that_with_the_normalisation_of_the_network(file: str) -> None:
    given = [f"teacher.network.{key}" for key in ("mean=[0.9]", "std=[0.1]")]
    output = call(
        "import-weights",
        file,
        *NETWORK,
        *SMALL,
        *(word for key in given for word in ("--set", key)),
    )
    accuracy, _ = validation_accuracy(network(), list(range(10)), (0.9, 0.1))
    assert accuracy != validation_accuracy(network(), list(range(10)))[0]
    assert f"validation accuracy {accuracy:.4f} on 60 images of digits" in output


def test_a_file_keeps_the_input_of_its_network(file: str) -> None:
    given = ("--set", "mean=[0.9]", "--set", "std=[0.1]", "--set", "input_size=16")
    output = call("import-weights", file, *NETWORK, *given)
    assert "input_size 16, mean [0.9], std [0.1]" in output
    chosen = ["student.name=cnn", "student.width=4", "student.weights=my net.safetensors"]
    student = load(None, chosen).student
    assert (student.input_size, student.mean, student.std) == (16, (0.9,), (0.1,))
    other = load(None, [*chosen, "student.input_size=8"]).student
    assert (other.input_size, other.mean) == (8, (0.9,))


def test_without_data_nothing_but_the_file_is_written(file: str) -> None:
    output = call("import-weights", file, *NETWORK, "--to", "new.safetensors")
    assert "note: add --config FILE or --set data.name=" in output
    assert {path.name for path in Path().iterdir()} == {file, "twelve.pth", "new.safetensors"}


def test_other_classes_than_the_data_need_the_setting_for_an_accuracy(file: str) -> None:
    positions = [3, 11, 2, 10, 4, 5, 6, 7, 8, 9]
    Path("names.txt").write_text("\n".join(f"class {number}" for number in range(12)))
    names = ("--class-names", "names.txt")
    output = call("import-weights", "twelve.pth", *NETWORK, *SMALL, *names)
    assert "no accuracy" in output and "--set teacher.classes=" in output
    classes = [f"class {number}" if number > 9 else number for number in positions]
    output = call(
        *("import-weights", "twelve.pth", *NETWORK, *SMALL, *names, "--to", "b.safetensors"),
        *("--set", f"teacher.classes={classes}"),
    )
    accuracy, _ = validation_accuracy(network(12), positions)
    assert f"validation accuracy {accuracy:.4f} on 60 images" in output
    plan = call("train", "--dry-run", *printed_options(output, "teacher"))
    assert "10 of their classes" in plan or "already in the store" in plan


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--match", "shape"], "--match"),
        (["--to", "weights.pth"], "weights.safetensors"),
        (["--to", "taken.safetensors"], "nothing is overwritten"),
        (["--image-size", "8", "--set", "data.name=digits"], "--image-size"),
        (["--class-names", "names.txt"], "1 names"),
        (["--set", "widht=3"], "widht"),
        (["--set", "width=8"], "tensors do not fit"),
        (["--set", "data.nam=digits"], "data.nam"),
        (["--from", "optimizer"], "--from optimizer"),
        (["--network", "cn"], "did you mean 'cnn'"),
        (["--network", "cn", "--to", "taken.safetensors"], "did you mean 'cnn'"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(
    file: str, words: list[str], fragment: str
) -> None:
    Path("names.txt").write_text("one")
    Path("taken.safetensors").write_text("kept")
    before = {path.name for path in Path().iterdir()}
    result = CliRunner().invoke(run.app, ["import-weights", file, *NETWORK, *words])
    assert result.exit_code == 2 and result.output.startswith("error: "), result.output
    assert fragment in result.output
    assert {path.name for path in Path().iterdir()} == before
    assert Path("taken.safetensors").read_text() == "kept"


def test_class_names_must_be_text(file: str) -> None:
    from orchestrator.cli.import_weights import _read_class_names

    Path("names.txt").write_bytes(b"\xff\xfe\xff")
    with refused("--class-names", "names.txt", "UTF-8 text"):
        _read_class_names(Path("names.txt"), 3)
