"""Test the command line: messages, exit codes, help, and an interrupted and resumed run."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import run
from orchestrator.store.store import FORMAT_FILE
from tests.pairs import weighing_method

ROOT = Path(__file__).parent.parent
OK, NO_USABLE_TRIAL, BAD_CONFIGURATION, UNFIT = 0, 1, 2, 3


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and everything printed."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.output


def refuse(*arguments: str) -> tuple[int, str]:
    """Return the exit code and standard error of a refused command."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.stderr


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def array_file(folder: Path, **changes: Any) -> str:
    """Write an .npz file in MedMNIST's layout, with arrays replaced."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "train_images": generator.integers(0, 255, (120, 8, 8), dtype=np.uint8),
        "train_labels": np.arange(120) % 3,
        "test_images": generator.integers(0, 255, (30, 8, 8), dtype=np.uint8),
        "test_labels": np.arange(30) % 3,
    }
    np.savez(folder / "data.npz", allow_pickle=False, **(arrays | changes))
    return str(folder / "data.npz")


@pytest.mark.parametrize(
    ("pairs", "code", "fragment"),
    [
        (["method.name=kdd"], BAD_CONFIGURATION, "did you mean 'kd'"),
        (["student.name=resnet21"], BAD_CONFIGURATION, "'resnet21'"),
        (["data.name=digit"], BAD_CONFIGURATION, "did you mean 'digits'"),
        (["trainning.epochs=1"], BAD_CONFIGURATION, "did you mean 'training'"),
        (["method.temperature=0"], BAD_CONFIGURATION, "temperature"),
        (["method.alpha=1.5"], BAD_CONFIGURATION, "alpha"),
        (["training.learning_rate=-1"], BAD_CONFIGURATION, "training.learning_rate"),
        (["data.limit.train=10"], BAD_CONFIGURATION, "training.batch_size"),
        (["data.name=npz", "data.path=none.npz"], BAD_CONFIGURATION, "none.npz"),
        (["data.name=CIFAR10"], BAD_CONFIGURATION, "data.download=true"),
        (["teacher.network.weights=none.safetensors"], BAD_CONFIGURATION, "none.safetensors"),
        (["resources.workers=1000"], UNFIT, "1000 CPU"),
        (["resources.address=127.0.0.1:1"], UNFIT, "resources.address"),
        (["search.objective=validation/acc"], BAD_CONFIGURATION, "search.objective"),
    ],
)
@pytest.mark.parametrize("command", ["sweep", "train"])
def test_bad_settings_are_refused(
    command: str, pairs: list[str], code: int, fragment: str, store: str
) -> None:
    exit_code, output = refuse(
        command, "--store", store, *(part for pair in pairs for part in ("--set", pair))
    )
    assert (exit_code, output.count("\n")) == (code, 1), output
    assert fragment in output, output
    assert not Path(store, "sweeps").exists()  # nothing was started


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"train_images": np.zeros((120, 8, 8), dtype=np.float32)}, "float32"),
        ({"test_images": np.zeros((30, 9, 8), dtype=np.uint8)}, "(9, 8, 1)"),
        ({"train_labels": np.arange(119) % 3}, "119"),
        ({"classes": np.array(["a", "b"])}, "2 classes"),
        ({"test_labels": np.zeros(30, dtype=np.int64)}, "class '1'"),
    ],
)
def test_bad_data_are_refused(
    changes: dict[str, Any], fragment: str, store: str, tmp_path: Path
) -> None:
    code, output = refuse(
        "train",
        "--store",
        store,
        "--set",
        "data.name=npz",
        "--set",
        f"data.path={array_file(tmp_path, **changes)}",
    )
    assert (code, output.count("\n")) == (BAD_CONFIGURATION, 1), output
    assert fragment in output, output


def test_truncated_data_are_refused(store: str, tmp_path: Path) -> None:
    file = Path(array_file(tmp_path))
    file.write_bytes(file.read_bytes()[:2000])
    code, output = call(
        "sweep", "--store", store, "--set", "data.name=npz", "--set", f"data.path={file}"
    )
    assert code == BAD_CONFIGURATION and str(file) in output


@pytest.mark.parametrize(
    ("arguments", "code", "fragment"),
    [
        (["sweep", "--trials", "0"], BAD_CONFIGURATION, "search.trials = 0"),
        (["sweep", "--time-budget", "soon"], BAD_CONFIGURATION, "--time-budget"),
        (["sweep", "--config", "none.yaml"], BAD_CONFIGURATION, "--config none.yaml"),
        (["sweep", "--name", "../out"], BAD_CONFIGURATION, "'../out'"),
        (["sweep", "--scheduler", "fastest"], BAD_CONFIGURATION, "search.scheduler"),
        (["sweep", "--scheduler", "pbt", "--trials", "1"], BAD_CONFIGURATION, "search.trials = 1"),
        (["sweep", "--resume", "mine", "--scheduler", "pbt"], BAD_CONFIGURATION, "--resume"),
        (["sweep", "--resume", "nothing"], BAD_CONFIGURATION, "does not exist"),
        (["status", "nothing"], BAD_CONFIGURATION, "does not exist"),
        (["export", "nothing"], BAD_CONFIGURATION, "does not exist"),
        (["ui"], BAD_CONFIGURATION, "does not exist"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], code: int, fragment: str, store: str
) -> None:
    exit_code, output = refuse(*arguments, "--store", store)
    assert (exit_code, output.count("\n")) == (code, 1) and fragment in output, output


def test_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = call("sweep", "--store", str(tmp_path / "file"))
    assert code == UNFIT and "--store" in output


def test_port_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code, output = call("ui", "--store", str(tmp_path), "--port", str(server.getsockname()[1]))
    assert code == UNFIT and "is in use" in output


def test_existing_name_is_refused(store: str) -> None:
    settings = [
        "--set",
        "training.epochs=1",
        "--set",
        "data.limit.train=200",
        "--set",
        "teacher=null",
        "--set",
        "method.name=cross_entropy",
    ]
    code, output = call("train", "--local", "--store", store, "--name", "mine", *settings)
    assert code == OK and "test accuracy" in output
    for command in ("train", "sweep"):
        code, output = call(command, "--store", store, "--name", "mine")
        assert code == BAD_CONFIGURATION and "--name 'mine' already exists" in output
    code, output = call("status", "mine", "--store", store, "--json")
    assert code == OK and json.loads(output)["state"] == "finished"
    code, output = call("status", "--store", store)
    assert code == OK and "mine" in output and "finished" in output and "1 complete" in output
    code, output = call("status", "--store", store, "--json")
    assert code == OK and [each["sweep"] for each in json.loads(output)] == ["mine"]


def test_diverging_training_has_no_usable_trial(store: str) -> None:
    code, output = call(
        "train",
        "--local",
        "--store",
        store,
        "--set",
        "training.learning_rate=1e12",
        "--set",
        "method.name=kd",
        "--set",
        "data.limit.train=200",
        "--set",
        "teacher.training.epochs=1",
    )
    assert code == NO_USABLE_TRIAL and "the loss is not finite in epoch 1" in output


def test_plan(store: str) -> None:
    code, output = call(
        "sweep",
        "--store",
        store,
        "--dry-run",
        "--set",
        "resources.groups=1",
        "--set",
        "data.augmentation=crop",
    )
    assert code == OK
    for fragment in (
        "train 1222, validation 216, test 359",
        "1 x 1 workers",
        "crop (shifted by up to 1 pixel): set by data.augmentation; auto is none for digits",
        "mean [0.3061], std [0.3759]: those of the training images; set data.mean "
        "and data.std to change them",
        "asha compares after 4, 12, 16",
        "406 KiB for 16 views and the clean one",
        "to be trained once",
    ):
        assert fragment in output, output
    assert [file.name for file in Path(store).iterdir()] == [FORMAT_FILE]


@pytest.mark.parametrize("command", ["sweep", "train"])
def test_plan_of_a_method_with_sample_weights(
    command: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weighing_method(monkeypatch)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        "orchestrator.sweep.preflight.preflight.local_resources", lambda: {"CPU": 2.0, "GPU": 0.0}
    )

    def plan(*pairs: str) -> tuple[int, str]:
        settings = ["method.name=weighing", "search.methods=[]", *pairs]
        return call(
            command,
            "--store",
            store,
            "--dry-run",
            *(part for pair in settings for part in ("--set", pair)),
        )

    code, output = plan()
    assert (
        code == OK
        and "floor(2 CPU / 2 (1 x 1 of the workers + an influence actor of 1 CPU) per group) = "
        "1 fit"
        in output
    ), output
    code, output = plan("resources.influence_backend=inline")
    assert code == OK and "floor(2 CPU / 1 per group) = 2 fit" in output, output
    for setting, fragment in {
        "resources.influence_cpus=1.5": "2.5 CPU",
        "resources.influence_gpus=0.5": "resources.influence_gpus = 0.5",
    }.items():
        code, output = plan(setting)
        assert (code, output.count("\n")) == (BAD_CONFIGURATION, 1) and fragment in output, output
        assert "resources.influence_backend=inline" in output, output


def test_teacher_is_trained_once(store: str) -> None:
    arguments = ["teacher", "--local", "--store", store, "--set", "teacher.training.epochs=2"]
    code, output = call(*arguments)
    assert code == OK and "epoch 2" in output
    code, output = call(*arguments)
    assert (
        code == OK and "epoch" not in output and "validation/accuracy" in output
    )  # found in the store


def test_methods_lists_every_setting() -> None:
    from methods import METHODS

    code, output = call("methods")
    assert code == OK
    for name, method in METHODS.items():
        assert name in output and all(
            f"  {setting} = " in output for setting in method.Settings.model_fields
        )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['run.py', '--help']; import runpy\ntry: "
        "runpy.run_path('run.py', run_name='__main__')\n"
    )
    code += (
        "except SystemExit: pass\nprint(sorted({'torch', 'ray', 'mlflow', 'optuna', "
        "'pydantic', 'numpy'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert output.strip().endswith("[]") and "sweep" in output


def test_documented_commands_exist() -> None:
    text = "".join(
        file.read_text()
        for file in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.yaml")]
    )
    commands = set(re.findall(r"python run\.py ([a-z-]+)", text))
    assert commands and commands <= {
        command.callback.__name__.replace("_", "-")
        for command in run.app.registered_commands
        if command.callback
    }
    assert set(re.findall(r"`?make ([a-z]+)", (ROOT / "README.md").read_text())) <= set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )


def test_links_of_pages_lead_to_files() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        text = page.read_text()
        assert not re.search(r"@[A-Z]+@|TODO", text), page
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), (page, link)
