"""Export a student of a folder of transformers, with a teacher of another input size."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import run
from orchestrator.export.export import export
from orchestrator.export.loading import load_exported, load_predictions
from orchestrator.models.build import build
from orchestrator.models.input_adapter import Statistics
from orchestrator.store.store import Store, read_json
from tests.export.runs import images, trial_folder

transformers: Any = pytest.importorskip("transformers")
OWN = {"input_size": 16, "mean": [0.5], "std": [0.25]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with the training `mine`; the folder of its network is removed afterwards."""
    root = tmp_path_factory.mktemp("prefixed")
    kind = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_channels=1
    )
    torch.manual_seed(0)
    folder = root / "secret" / "net"
    transformers.AutoModelForImageClassification.from_config(kind).save_pretrained(folder)
    pairs = [f"student.name=hf/{folder}", "teacher.network.name=cnn", "teacher.network.width=4"]
    pairs += [f"student.{key}={value}" for key, value in OWN.items()]
    pairs += [f"teacher.network.{key}={value}" for key, value in OWN.items()]
    pairs += ["training.epochs=1", "teacher.training.epochs=1", "data.limit.train=200"]
    words = [part for pair in pairs for part in ("--set", pair)]
    command = ["train", "--local", "--store", str(root / "store"), "--name", "mine", *words]
    result = CliRunner().invoke(run.app, command)
    assert result.exit_code == 0, result.output
    return Store(root / "store")


@pytest.mark.parametrize("form", ["safetensors", "torchexport"])
def test_export_needs_no_folder_and_names_no_path(store: Store, form: str, tmp_path: Path) -> None:
    exported = export(store, "mine", to=tmp_path / "e", form=form)
    settings = read_json(exported.folder / "settings.json")
    assert settings["network"] == {"name": "hf/net", **OWN}
    assert settings["teacher"]["network"] == {"name": "cnn", "width": 4, **OWN}
    text = "".join(
        file.read_text(errors="replace") for file in exported.folder.rglob("*") if file.is_file()
    )
    assert "secret" not in text
    state = load_file(trial_folder(store) / "checkpoint" / "best.safetensors")
    network = build(
        f"hf/{store.root.parent / 'secret' / 'net'}",
        10,
        (1, 8, 8),
        OWN,
        Statistics(settings["input"]["mean"], settings["input"]["std"]),
    )
    constants = network.state_dict()["adapter.scale"]
    assert torch.equal(constants, state["adapter.scale"]) and not torch.equal(
        constants, torch.ones_like(constants)
    )
    network.load_state_dict(state)
    with torch.no_grad():
        expected = network.eval()(images()).logits
        actual = load_predictions(exported.folder)(images())
    torch.testing.assert_close(actual, expected)


def test_configuration_of_the_network_is_part_of_the_folder(store: Store, tmp_path: Path) -> None:
    export(store, "mine", to=tmp_path / "e")
    assert json.loads((tmp_path / "e" / "network" / "config.json").read_text())["hidden_sizes"]
    network = load_exported(tmp_path / "e")
    assert network.adapter is not None and not network.training
