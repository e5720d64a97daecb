"""Train students from Python: one engine with the command line, given weights, resuming, state."""

import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import run
from orchestrator import api as od
from orchestrator.api._objects import Objects, keep_weights
from orchestrator.config.loader import load
from orchestrator.core.errors import TrialError
from orchestrator.data.dataset import read_summary
from orchestrator.extensions.registry import ENTRIES
from orchestrator.models.build import MODELS
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.changed_configuration import change_configuration, require_same
from orchestrator.sweep.runs import prepare_resume
from tests.api.conftest import TwoLayers
from tests.refusal import refused

QUIET: dict[str, Any] = {"progress": False, "batch_size": 32}


def student() -> nn.Module:
    return TwoLayers(10, 8)


def weights_of(store: Path, name: str) -> dict[str, torch.Tensor]:
    """Return the last weights of a training."""
    folder = Sweep.open(Store.existing(store), name).trial_folder(0)
    return load_file(folder / "checkpoint" / "student.safetensors")


def test_a_training_is_that_of_the_command_line(store: Path) -> None:
    od.distil(
        {"name": "mlp", "width": 8},
        od.teacher("mlp", width=16, epochs=1),
        od.data("digits", limit={"train": 200}),
        "kd",
        store=store,
        name="python",
        epochs=1,
        settings={"method.temperature": 3.0},
        progress=False,
    )
    pairs = (
        *("student.name=mlp", "student.width=8", "data.limit.train=200", "training.epochs=1"),
        *("teacher.network={name: mlp, width: 16}", "teacher.training.epochs=1"),
        *("method.name=kd", "method.temperature=3"),
    )
    words = ["train", "--local", "--store", str(store), "--name", "command"]
    config = store.parent / "empty.yaml"
    config.write_text("{}")
    words += ["--config", str(config), *(word for pair in pairs for word in ("--set", pair))]
    printed = CliRunner().invoke(run.app, words)
    assert printed.exit_code == 0, printed.output
    python, command = (weights_of(store, name) for name in ("python", "command"))
    assert python.keys() == command.keys()
    assert all(torch.equal(python[name], command[name]) for name in python)
    records = [Sweep.open(Store.existing(store), name) for name in ("python", "command")]
    assert records[0].configuration == records[1].configuration


def test_a_run_leaves_the_process_as_it_was(store: Path, data: od.Data) -> None:
    torch.manual_seed(7)
    before, entries, networks = torch.get_rng_state(), set(ENTRIES), set(MODELS)
    result = od.distil(student, None, data, "cross_entropy", store=store, epochs=1, **QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    assert (set(ENTRIES), set(MODELS)) == (entries, networks)
    with refused("training.learning_rate"):
        od.distil(student, None, data, "cross_entropy", store=store, learning_rate=0, **QUIET)
    assert (set(ENTRIES), set(MODELS)) == (entries, networks)
    assert result.state == "complete" and len(result.history) == 1
    assert result.history.loc[1, "validation/accuracy"] == result.metrics["validation/accuracy"]


def test_the_student_predicts_as_its_export(
    store: Path, data: od.Data, arrays: tuple[NDArray[np.uint8], NDArray[np.int64]], tmp_path: Path
) -> None:
    result = od.distil(student, None, data, "cross_entropy", store=store, epochs=1, **QUIET)
    folder = result.export(tmp_path / "out", weights="last")
    exported = load_file(folder / "model.safetensors")
    module = TwoLayers(10, 8)
    by_shape = {tensor.shape: tensor for tensor in exported.values()}  # names may have a prefix
    module.load_state_dict(
        {name: by_shape[tensor.shape] for name, tensor in module.state_dict().items()}
    )
    images = arrays[0][200:]
    probabilities = result.predict(images, weights="last")
    mean, std = (result_input(store, result.name)[key] for key in ("mean", "std"))
    inputs = (torch.from_numpy(images)[:, None].float() / 255 - mean[0]) / std[0]
    expected = module(inputs).softmax(1).detach().numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    labels = arrays[1][200:]
    accuracy = float((probabilities.argmax(1) == labels).mean())
    assert accuracy == pytest.approx(result.metrics["test/last/accuracy"])


def result_input(store: Path, name: str) -> dict[str, Any]:
    """Return the record of the data of a run."""
    return read_summary(Sweep.open(Store.existing(store), name).folder).plain()


def test_weights_of_a_teacher_in_every_form_are_the_same_teacher(
    store: Path, data: od.Data, tmp_path: Path
) -> None:
    module = TwoLayers(10, 16)
    torch.save(module.state_dict(), tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": module.state_dict()}, tmp_path / "nested.pth")
    save_file(module.state_dict(), tmp_path / "file.safetensors")
    od.distil(student, od.teacher(module), data, "kd", store=store, epochs=1, **QUIET)
    (file,) = (store / "weights").iterdir()
    folders = [each for each in (store / "teachers").iterdir() if (each / "teacher.json").exists()]
    (folder,) = folders
    stored = load_file(folder / "weights.safetensors")
    assert any(torch.equal(tensor, module.fc.weight) for tensor in stored.values())
    assert data.entry is not None
    configuration = load(None, [], {"data": dict(data.section)})
    for name in ("plain.pth", "nested.pth", "file.safetensors"):
        given = od.teacher(lambda: TwoLayers(10, 16), tmp_path / name).network
        with Objects(data=data.entry).registered():
            kept = keep_weights(Store.existing(store), given, configuration, print)
        assert Path(kept) == file, "the fingerprint of the tensors names the file"


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(TwoLayers(10, 9).state_dict(), tmp_path / "other.pth")
    with refused("weights"):
        od.teacher(lambda: TwoLayers(10, 16), tmp_path / "other.pth")
    torch.save(TwoLayers(10, 16), tmp_path / "whole.pth")
    with refused("weights", allowed="a state dict"):
        od.teacher(lambda: TwoLayers(10, 16), tmp_path / "whole.pth")
    with refused("weights") as caught:
        od.teacher(lambda: TwoLayers(10, 16), tmp_path / "gone.pth")
    assert "FILE" not in str(caught.value)
    (tmp_path / "damaged.pth").write_bytes(b"abc")
    with refused("weights", allowed="a state dict"):
        od.teacher(lambda: TwoLayers(10, 16), tmp_path / "damaged.pth")


class Interrupting(nn.Linear):
    """Layer that sends Ctrl-C at its first training step."""

    sent = threading.Event()  # no value of the code, whose hash must not change

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        main = threading.main_thread()
        trains = torch.is_grad_enabled() and threading.current_thread() is not main
        if trains and not Interrupting.sent.is_set():
            Interrupting.sent.set()
            signal.pthread_kill(main.ident or 0, signal.SIGINT)
        return super().forward(inputs)


def interrupting() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), Interrupting(8, 10))


def test_an_interrupted_training_is_resumed_with_the_same_call(store: Path, data: od.Data) -> None:
    Interrupting.sent.clear()
    call: dict[str, Any] = {"store": store, "epochs": 2, **QUIET}
    with pytest.raises(KeyboardInterrupt, match="resume='mine'"):
        od.distil(interrupting, None, data, "cross_entropy", name="mine", **call)
    assert Sweep.open(Store.existing(store), "mine").state == "interrupted"
    with refused("resume"):
        od.distil(
            interrupting, None, data, "cross_entropy", resume="mine", store=store, epochs=3, **QUIET
        )
    with refused("resume"):
        od.distil(student, None, data, "cross_entropy", resume="mine", **call)
    resumed = od.distil(interrupting, None, data, "cross_entropy", resume="mine", **call)
    whole = od.distil(interrupting, None, data, "cross_entropy", name="whole", **call)
    assert resumed.state == "complete"
    mine, other = (weights_of(store, name) for name in ("mine", "whole"))
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert resumed.metrics["test/last/nll"] == whole.metrics["test/last/nll"]


def test_a_taken_name_is_refused_before_the_data_are_prepared(store: Path) -> None:
    Sweep.create(Store.open(store).sweep("taken"), load(None, []), "train")
    teacher = od.teacher(TwoLayers(10, 8))
    with refused("name", "taken"):
        od.distil(student, teacher, "digits", "kd", store=store, name="taken", epochs=1, **QUIET)
    assert not (store / "data").exists() and not (store / "weights").exists()


def test_messages_of_a_resume_name_the_argument(store: Path) -> None:
    opened = Store.open(store)
    sweep = Sweep.create(opened.sweep("mine"), load(None, ["search.trials=3"]), "sweep")
    sweep.described = {"code": {"gone.py": "1"}}
    subject: dict[str, Any] = {"subject": "resume = 'mine'"}
    with refused("--code") as caught:
        sweep.save()
        prepare_resume(opened, sweep, print, **subject)
    assert str(caught.value).startswith("resume = 'mine' needs ")
    with refused("trials", 2):
        change_configuration(sweep, 2, None, None, **subject)
    sweep.described = described = {"space": {"kd": []}, "rates": {}, "points": []}
    with refused("resume") as caught:
        require_same(sweep, described | {"points": [{"seed": 1}]}, **subject)
    assert str(caught.value).startswith("resume = 'mine': ")


def test_a_failed_training_raises_its_sentence(store: Path, data: od.Data) -> None:
    with pytest.raises(TrialError, match="learning_rate"):
        od.distil(student, None, data, "cross_entropy", store=store, epochs=1, learning_rate=1e20)


def test_students_that_are_functions_learn_together(store: Path, data: od.Data) -> None:
    peers = [student, {"name": "mlp", "width": 4}]
    result = od.distil(student, None, data, "dml", peers=peers, store=store, epochs=1, **QUIET)
    networks = [
        result.settings["student"]["name"],
        *(peer["network"]["name"] for peer in result.settings["peers"].values()),
    ]
    assert networks == [networks[0], f"{networks[0]}-peers-b", "mlp"]
    assert {f"{letter}/test/best/accuracy" for letter in "abc"} <= result.metrics.keys()
    assert (result.export(student="b") / "model.safetensors").is_file()
    with refused("peers", 8, (0, 7)):
        od.distil(student, None, data, "dml", peers=[student] * 8, store=store, **QUIET)
