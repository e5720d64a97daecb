"""Train with user code by commands: records, copies, fingerprints, and what needs the code."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import orchestrator as od
import run
from orchestrator.config.loader import load
from orchestrator.config.objectives import goals
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import describe, prepare
from orchestrator.extensions.loading import load_code
from orchestrator.extensions.record import describe_code, require_code
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.comparison.design import search_of
from orchestrator.sweep.comparison.record import Comparison
from orchestrator.sweep.space_snapshot import describe_sweep
from orchestrator.teacher.fit import fingerprint
from tests.refusal import refused
from tests.user_code import NETWORKS, unload_all, write_code

SETTINGS = (
    "data={name: my/noise, augmentation: my/negative, settings: {samples: 48}}",
    "teacher.network={name: my/tiny, width: 12}",
    "teacher.training={epochs: 1, batch_size: 8}",
    "student={name: my/tiny, width: 4}",
    "method.name=my/labels",
    "training={epochs: 1, batch_size: 8}",
)
SET = [word for pair in SETTINGS for word in ("--set", pair)]


def call(*words: str) -> tuple[int, str]:
    """Run a command in a process without user code; return exit code and output."""
    unload_all()
    result = CliRunner().invoke(run.app, list(words))
    return result.exit_code, result.output


class Run:
    """A training with user code."""

    def __init__(self, folder: Path) -> None:
        self.store, self.files = str(folder / "store"), write_code(folder / "code")
        self.code = [word for file in self.files for word in ("--code", str(file))]
        words = ["train", "--local", "--store", self.store, "--name", "first", *SET, *self.code]
        exit_code, self.output = call(*words)
        assert exit_code == 0, self.output
        self.folder = Path(self.store) / "sweeps" / "first"

    def call(self, *words: str) -> tuple[int, str]:
        return call(*words, "--store", self.store)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield Run(tmp_path_factory.mktemp("trained"))
    unload_all()


@pytest.fixture
def changed(trained: Run) -> Iterator[list[str]]:
    """Change the file of networks for a test, and return the options of the changed code."""
    trained.files[0].write_text(NETWORKS + "# changed\n")
    yield trained.code
    trained.files[0].write_text(NETWORKS)


def test_the_run_records_its_code(trained: Run) -> None:
    sweep = Sweep.open(Store(Path(trained.store)), "first")
    (trial,) = sweep.trials.values()
    assert trial.state == "complete"
    for part in ("validation", "test/best", "test/last"):
        expected = pytest.approx(trial.metrics[f"{part}/accuracy"])
        assert trial.metrics[f"{part}/my/accuracy"] == expected
        assert trial.metrics[f"{part}/my/top2"] >= trial.metrics[f"{part}/accuracy"]
    assert list(sweep.described["code"]) == ["networks.py", "others.py"]
    for file in trained.files:
        assert (trained.folder / "code" / file.name).read_text() == file.read_text()


def test_mlflow_has_the_hashes_and_the_files(trained: Run) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{trained.store}/mlflow.db")
    (parent,) = (
        found
        for found in client.search_runs(["1"], "tags.kind = 'train'")
        if found.info.run_name == "first"
    )
    recorded = Sweep.open(Store(Path(trained.store)), "first").described["code"]
    tags = {key: value for key, value in parent.data.tags.items() if key.startswith("code.")}
    assert tags == {f"code.{name}": value for name, value in recorded.items()}
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id, "code")}
    assert names == {"code/networks.py", "code/others.py"}


def test_names_are_unknown_without_the_code(trained: Run) -> None:
    exit_code, output = trained.call("train", "--local", *SET)
    assert exit_code == 2 and "--code" in output


@pytest.mark.parametrize(
    "words", [("export", "first"), ("report", "first"), ("sweep", "--resume", "first")]
)
def test_other_commands_need_the_same_code(
    words: tuple[str, ...], trained: Run, changed: list[str]
) -> None:
    exit_code, output = trained.call(*words)
    assert exit_code == 2 and "needs --code networks.py with the SHA-256" in output
    recorded = Sweep.open(Store(Path(trained.store)), "first").described["code"]["networks.py"]
    exit_code, output = trained.call(*words, *changed)
    new = describe_code(load(None, []))["networks.py"]
    assert exit_code == 2 and recorded[:12] in output and new[:12] in output and new != recorded


def test_status_needs_no_code(trained: Run) -> None:
    exit_code, output = trained.call("status", "first")
    assert exit_code == 0 and "complete" in output


def test_export_and_predict_need_the_code_of_the_network(trained: Run, tmp_path: Path) -> None:
    export, images = tmp_path / "export", tmp_path / "images.npy"
    np.save(images, np.zeros((1, 8, 8, 1), dtype=np.uint8))
    exit_code, output = trained.call("export", "first", "--to", str(export), *trained.code)
    assert exit_code == 0, output
    settings = json.loads((export / "settings.json").read_text())
    assert list(settings["code"]) == ["networks.py", "others.py"]
    exit_code, output = call("predict", str(export), str(images))
    assert exit_code == 2 and "--code networks.py" in output
    exit_code, output = call("predict", str(export), str(images), *trained.code)
    assert exit_code == 0 and "%" in output
    exit_code, output = trained.call("report", "first", *trained.code)
    assert exit_code == 0, output


def test_a_network_of_python_alone_is_used_there() -> None:
    with refused("--code") as caught:
        require_code({"network my/Gone-ab6b5240": "ab6b52"}, "the report of 'mine'")
    assert all(call in str(caught.value) for call in ("study.report()", "result.predict"))


def test_other_code_at_a_resume_is_refused(trained: Run, tmp_path: Path) -> None:
    extra = tmp_path / "extra.py"
    extra.write_text("")
    exit_code, output = trained.call(
        "sweep", "--resume", "first", *trained.code, "--code", str(extra)
    )
    assert exit_code == 2 and "started without extra.py" in output


def test_fingerprints_have_the_code_that_takes_part(tmp_path: Path) -> None:
    files = write_code(tmp_path)
    load_code(files)
    plain = load(None, [])
    own = load(None, [*SETTINGS])
    augmented = load(None, ["data.augmentation=my/negative"])

    def prints() -> list[str]:
        return [
            fingerprint(plain, "data", "none"),
            fingerprint(augmented, "data", "my/negative"),
            fingerprint(own, "data", "none"),
            describe(plain.data, tmp_path / "store", 0).fingerprint,
            describe(own.data, tmp_path / "store", 0).fingerprint,
        ]

    before = prints()
    files[1].write_text(files[1].read_text() + "# changed\n")
    load_code(files)
    same = [one == other for one, other in zip(before, prints(), strict=True)]
    assert same == [True, False, True, True, False]
    files[0].write_text(files[0].read_text() + "# changed\n")
    load_code(files)
    assert prints()[2] != before[2]


def test_records_without_code_stay_as_they_were(tmp_path: Path) -> None:
    configuration = load(None, [])
    assert describe_code(configuration) == {}
    comparison = Comparison.create(
        Store.open(tmp_path), "plain", load(None, ["search.methods=[kd, cross_entropy]"]), 2
    )
    file = comparison.folder / "comparison.json"
    values = json.loads(file.read_text())
    assert values.pop("code") == {}
    del values["checksum"]
    file.write_text(json.dumps(values | {"format": 3}))
    assert Comparison.open(Store.open(tmp_path), "plain").code == {}, "of an earlier version"


def test_comparisons_record_the_code(tmp_path: Path) -> None:
    load_code(write_code(tmp_path / "code"))
    configuration = load(None, ["search.methods=[my/labels, kd]", "student.name=my/tiny"])
    comparison = Comparison.create(Store.open(tmp_path / "store"), "mine", configuration, 2)
    assert comparison.runs[0].search("my/labels") == "mine-my-labels"
    assert list(Comparison.open(Store.open(tmp_path / "store"), "mine").code) == [
        *("networks.py", "others.py")
    ]
    assert search_of(configuration, "my/labels").method.name == "my/labels"
    unload_all()
    exit_code, output = call("compare", "--resume", "mine", "--store", str(tmp_path / "store"))
    assert exit_code == 2 and "needs --code networks.py" in output


def test_the_settings_of_a_network_are_searched(tmp_path: Path) -> None:
    words = ["sweep", "--dry-run", "--store", str(tmp_path / "store"), *SET]
    words += ["--set", "search.extra_space={student.width: [2, 4]}", "--set", "search.trials=3"]
    words += [f"--code={file}" for file in write_code(tmp_path / "code")]
    exit_code, output = call(*words)
    assert exit_code == 0, output
    assert "networks.py (" in output and "others.py (" in output
    exit_code, output = call(*words, "--set", "search.extra_space={student.width: [2, 99]}")
    assert exit_code == 2 and "[1, 64]" in output


def test_a_metric_that_fails_is_refused_before_the_start(tmp_path: Path) -> None:
    file = tmp_path / "failing.py"
    file.write_text(
        "import orchestrator as od\n\n@od.metric('bad', direction='maximize')\n"
        "def bad(logits, labels):\n    return 1 / 0\n"
    )
    words = ("--code", str(file), "--store", str(tmp_path / "store"), "--dry-run")
    exit_code, output = call("sweep", *words, "--set", "search.objective=validation/my/bad")
    output = " ".join(output.split())
    assert exit_code == 2 and "failing.py:5" in output and "ZeroDivisionError" in output


def test_settings_of_data_are_checked(tmp_path: Path) -> None:
    load_code(write_code(tmp_path))
    for settings, field in (("{sample: 3}", "sample"), ("{samples: many}", "samples")):
        data = load(None, [f"data={{name: my/noise, settings: {settings}}}"]).data
        with refused(f"data.settings.{field}"):
            describe(data, tmp_path, 0)
    with refused("data.settings", {"samples": 3}):
        describe(load(None, ["data.settings={samples: 3}"]).data, tmp_path, 0)


def test_data_at_a_path_are_prepared_again_after_a_change(tmp_path: Path) -> None:
    @od.dataset("file")
    def read(path: Path) -> Any:
        images = np.load(path)
        return (images, np.arange(len(images)) % 2), (images, np.arange(len(images)) % 2)

    file, images = tmp_path / "images.npy", np.zeros((20, 4, 4), dtype=np.uint8)
    np.save(file, images)
    data = load(None, [f"data={{name: my/file, path: {file}}}"]).data
    first = prepare(data, tmp_path / "store", 0)
    assert prepare(data, tmp_path / "store", 0) == first
    np.save(file, np.concatenate([images, images]))
    assert len(Dataset.open(prepare(data, tmp_path / "store", 0)).test) == 40
    with refused("data.name", "my/file") as caught:
        prepare(data.model_copy(update={"path": tmp_path / "none.npy"}), tmp_path / "store", 0)
    assert "FileNotFoundError" in str(caught.value) and "test_code_commands.py:" in str(
        caught.value
    )


def test_the_description_of_a_sweep_has_the_code(tmp_path: Path) -> None:
    load_code(write_code(tmp_path))
    configuration = load(None, [])
    described = describe_sweep(configuration, "train", prepare(configuration.data, tmp_path, 0))
    assert described["code"] == describe_code(configuration)


def test_check_code_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    files = [str(file) for file in write_code(tmp_path)]
    exit_code, output = call("check-code", *files)
    assert exit_code == 0 and "all checks passed" in output and "failed" not in output
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import numpy as np\nimport orchestrator as od\n\n@od.transform('global')\n"
        "def noisy(image, generator):\n    return image // np.random.randint(1, 9)\n"
    )
    exit_code, output = call("check-code", str(bad))
    assert exit_code == 2 and "bad.py:4" in output and "failed: its result" in output
    exit_code, output = call("check-code", str(bad), "--shape", "3x4")
    assert exit_code == 2 and "--shape" in output
    (tmp_path / "empty.py").write_text("")
    exit_code, output = call("check-code", str(tmp_path / "empty.py"))
    assert exit_code == 2 and "registers nothing" in output


def test_the_printed_import_command_runs(tmp_path: Path) -> None:
    code = [f"--code={file}" for file in write_code(tmp_path)]
    state = {"1.weight": torch.ones(12, 64), "1.bias": torch.zeros(12)}
    state |= {"3.weight": torch.ones(10, 12), "3.bias": torch.zeros(10)}
    torch.save(state, tmp_path / "t.pth")
    words = ["train", "--local", "--store", str(tmp_path / "store"), "--dry-run", *code]
    pairs = [f"teacher.network={{name: my/tiny, width: 12, weights: {tmp_path / 't.pth'}}}"]
    words += [word for pair in (*pairs, "method.name=kd") for word in ("--set", pair)]
    exit_code, output = call(*words)
    command = shlex.split(output.partition("`")[2].partition("`")[0])
    assert exit_code == 2 and command[2] == "import-weights", output
    exit_code, output = call(*command[2:])
    assert exit_code == 0 and (tmp_path / "t.safetensors").is_file(), output
    assert output.count("--code") == 4, "in the commands for a teacher and for a student"


def test_settings_of_a_network_are_explained(tmp_path: Path) -> None:
    words = ["settings", "student.width", "--set", "student.name=my/tiny"]
    exit_code, output = call(*words, *(f"--code={file}" for file in write_code(tmp_path)))
    assert exit_code == 0 and "Units of the hidden layer" in output, output


def test_the_order_of_files_counts_alone(tmp_path: Path) -> None:
    def register(name: str) -> None:
        od.metric(name)(lambda logits, labels: 0.0)

    register("one")
    register("two")
    files = [tmp_path / name for name in ("a.py", "b.py")]
    for file in files:
        file.write_text("")
    load_code(files)
    configuration = load(None, ["search.objective=validation/my/one", "project=my/two"])
    recorded = describe_code(configuration)
    assert list(recorded) == ["a.py", "b.py", "metric my/one", "metric my/two"]
    register("one")
    assert list(describe_code(configuration)) == ["a.py", "b.py", "metric my/two", "metric my/one"]
    require_code(recorded, "resume", configuration)
    other = {name: recorded[name] for name in ("b.py", "a.py", "metric my/one", "metric my/two")}
    with refused("--code", ("a.py", "b.py"), ("b.py", "a.py")):
        require_code(other, "resume", configuration)


def test_status_needs_no_code_for_a_metric_that_is_one_of_several_objectives(
    tmp_path: Path,
) -> None:
    @od.metric("error", direction="minimize")
    def error(logits: Any, labels: Any) -> float:
        return 0.0

    store = Store.open(tmp_path)
    names = ("validation/accuracy", "validation/my/error")
    for order in (names, names[::-1]):
        configuration = load(None, [f"search.objectives=[{', '.join(order)}]"])
        sweep = Sweep.create(store.sweep(f"run-{order[0][-5:]}"), configuration, "sweep")
        for number, value in enumerate((0.5, 0.25)):
            metrics = dict.fromkeys(names, value)
            values = [value, value]
            sweep.save_trial(
                Trial(number, {}, "complete", value, 1, metrics, [value], values=values)
            )
    unload_all()
    with refused("search.objectives"):
        goals(configuration.search)
    assert [Sweep.open(store, name).goals for name in ("run-uracy", "run-error")] == [
        (("validation/accuracy", "maximize"), ("validation/my/error", "minimize")),
        (("validation/my/error", "minimize"), ("validation/accuracy", "maximize")),
    ]
    best = [Sweep.open(store, name).best() for name in ("run-uracy", "run-error")]
    assert [trial and trial.number for trial in best] == [0, 1]
    for words in ([], ["run-error"], ["run-error", "--json"]):
        exit_code, output = call("status", *words, "--store", str(tmp_path))
        assert exit_code == 0 and "run-error" in output, output
    other = Sweep.create(store.sweep("plain"), load(None, []), "train")
    assert other.described == {}


def test_a_network_for_other_images_is_one_row_that_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    file = tmp_path / "small.py"
    file.write_text(
        "from torch import nn\nimport orchestrator as od\n\n@od.network('small')\n"
        "def small(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    exit_code, output = call("check-code", str(file))
    assert exit_code == 2 and output.count("3x32x32") == 1 and "1 failed" in output
    assert "--shape C,H,W" in output and "input_size" not in output
    exit_code, output = call("check-code", str(file), "--shape", "1,8,8")
    assert exit_code == 0 and "all checks passed" in output
