"""Test an exported student: its checkpoint's logits, its provenance, and no replaced files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import run
from orchestrator.config.loader import build as configure
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.data.dataset import Dataset, read_summary
from orchestrator.export._description import describe_data
from orchestrator.export.export import export
from orchestrator.export.formats import FORMATS
from orchestrator.export.loading import load_exported, load_predictions
from orchestrator.models.build import build
from orchestrator.models.weights import network_fingerprint
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, read_json, write_json
from tests.export.runs import add_trial, give_peer, images, logits, peer, trial_folder

ROOT = Path(__file__).parents[2]
NEWER = json.dumps(
    {"format": 1000, "network": {"name": "mlp"}, "classes": [], "input": {"shape": []}}
)


@torch.no_grad()
@pytest.mark.parametrize(
    ("weights", "file"), [("best", "best.safetensors"), ("last", "student.safetensors")]
)
def test_an_export_gives_the_logits_of_its_checkpoint_without_the_store(
    store: Store, tmp_path: Path, weights: str, file: str
) -> None:
    best = trial_folder(store) / "checkpoint" / "best.safetensors"
    other = {
        name: value + 1 if value.is_floating_point() else value
        for name, value in load_file(best).items()
    }
    save_file(other, best)  # differs from the last one, whichever epoch was best
    expected = logits(
        build("cnn", 10, (1, 8, 8), {"width": 4}), trial_folder(store) / "checkpoint" / file
    )
    found = export(store, "mine", weights=weights, to=tmp_path / "out")
    shutil.rmtree(store.root)
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    network = load_exported(moved)
    assert not network.training and torch.equal(network(images()).logits, expected)
    assert found.settings.fingerprint == network_fingerprint(network.state_dict())
    assert sorted(path.name for path in moved.iterdir()) == [
        "README.md",
        "model.safetensors",
        "settings.json",
    ]


@torch.no_grad()
def test_normalized_images_reproduce_the_test_accuracy(store: Store) -> None:
    found = export(store, "mine")
    prepared, metrics = found.settings.input, found.settings.source.metrics
    split = Dataset.open(next((store.root / "data").glob("*/data.json")).parent).test
    mean, deviation = (
        torch.tensor(values).view(-1, 1, 1) for values in (prepared.mean, prepared.std)
    )
    pictures = torch.from_numpy(split.inputs.copy()).permute(0, 3, 1, 2) / 255
    answers = load_exported(found.folder)((pictures - mean) / deviation).logits.argmax(1).numpy()
    # another order of the same arithmetic may change one sample
    assert abs((answers == split.labels).mean() - metrics["test/best/accuracy"]) < 1.5 / len(split)


def test_settings_describe_the_training(store: Store) -> None:
    found = export(store, "mine")
    assert found.folder == store.root / "exports" / "mine-0-a" and found.peers == ()
    settings = read_json(found.folder / "settings.json")
    assert settings == found.settings.plain()
    data = read_json(next((store.root / "data").glob("*/data.json")))
    assert settings["network"] == {"name": "cnn", "width": 4}
    assert settings["classes"] == [str(digit) for digit in range(10)]
    assert settings["input"] == {
        "shape": [1, 8, 8],
        "range": [0, 1],
        "mean": data["mean"],
        "std": data["std"],
        "cut": None,
    }
    assert (
        settings["method"]["name"] == "kd" and settings["method"]["settings"]["temperature"] == 3.0
    )
    assert settings["method"]["settings"]["alpha"] == 0.9  # a default
    assert settings["training"]["epochs"] == 3 and settings["data"]["sizes"] == data["sizes"]
    metrics, exported = Sweep.open(store, "mine").trials[0].metrics, settings["source"]["metrics"]
    assert exported["validation/last/nll"] == metrics["validation/nll"]
    assert all(
        exported[name] == value for name, value in metrics.items() if name.startswith("test/")
    )
    progress = read_json(trial_folder(store) / "checkpoint" / "progress.json")
    assert exported["validation/best/accuracy"] == progress["best_value"]
    assert settings["source"]["epoch"] == progress["best_epoch"] == metrics["best_epoch"]
    assert export(store, "mine", weights="last", to=store.root / "last").settings.source.epoch == 3


def test_card_has_the_numbers_of_labelled_and_training_images(store: Store) -> None:
    sweep, file = Sweep.open(store, "mine"), store.sweep("mine") / "data.json"
    write_json(file, read_json(file) | {"labelled": 30})
    plain = sweep.configuration.plain()
    samples = read_json(file)["sizes"]["train"]
    for method, learned in (("kd", samples), ("cross_entropy", 30)):
        data = plain["data"] | {"labelled": 30, "validation_in_training": True}
        sweep.configuration = configure(plain | {"data": data, "method": {"name": method}})
        sweep.save()
        found = export(store, "mine", to=store.root / method)
        card = (found.folder / "README.md").read_text()
        assert (
            f"trained on {learned} images" in card
            and "Only 30 of the training images had a label." in card
        )
        assert (
            "also trained on the validation part" in card
            and found.settings.data.sizes["train"] == learned
        )


def test_card_names_class_weights_balanced_draws_and_the_imitated_data(store: Store) -> None:
    sweep = Sweep.open(store, "mine")
    configuration, summary = sweep.configuration, read_summary(sweep.folder)
    usual = describe_data(configuration, summary).model_dump()
    assert not {"class_weights", "sampling", "like"} & set(usual)
    changes: dict[str, Any] = {"class_weights": (1.0, 2.5), "sampling": "balanced", "like": "MNIST"}
    changes["augmentation"] = "none"  # else that of MNIST
    data = configuration.data.model_copy(update=changes)
    described = describe_data(configuration.model_copy(update={"data": data}), summary)
    assert described.model_dump() == usual | changes | {"class_weights": [1.0, 2.5]}


def test_an_export_names_no_path_of_this_machine(store: Store) -> None:
    sweep = Sweep.open(store, "mine")
    weights = {
        "student": {"name": "cnn", "width": 4, "weights": "/home/username/start.safetensors"}
    }
    sweep.configuration = configure(sweep.configuration.plain() | weights)
    sweep.save()
    folder = export(store, "mine").folder
    text = (folder / "README.md").read_text() + (folder / "settings.json").read_text()
    assert "start.safetensors" in text and "username" not in text and str(store.root) not in text


@torch.no_grad()
@pytest.mark.parametrize("form", FORMATS)
def test_the_card_is_read_by_hubs_and_its_code_runs(store: Store, form: str) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install '.[onnx]'")
    assert (
        CliRunner()
        .invoke(run.app, ["export", "mine", "--format", form, "--store", str(store.root)])
        .exit_code
        == 0
    )
    folder = store.exports / ("mine-0-a" if form == "safetensors" else f"mine-0-a-{form}")
    expected = logits(
        build("cnn", 10, (1, 8, 8), {"width": 4}),
        trial_folder(store) / "checkpoint" / "best.safetensors",
    )
    assert torch.allclose(load_predictions(folder)(images()), expected, atol=1e-5)
    assert read_json(folder / "settings.json")["checked"]["validation"] == 16
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(front)
    metrics = read_json(folder / "settings.json")["source"]["metrics"]
    assert {"knowledge-distillation", "kd", "cnn"} <= set(values["tags"])
    assert (
        values["model-index"][0]["results"][0]["metrics"][0]["value"]
        == metrics["test/best/accuracy"]
    )
    assert (
        f"| accuracy | {metrics['validation/best/accuracy']:.4f} | "
        f"{metrics['validation/last/accuracy']:.4f} |" in text
    )
    assert (
        "The test part was evaluated once" in text
        and "only trial of its run" in text
        and "temperature=3" in text
    )
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0] + "print(tuple(logits.shape))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "(2, 10)"


def test_a_peer_is_exported_with_its_own_weights_metrics_and_recipe(store: Store) -> None:
    give_peer(store)
    first, second = export(store, "mine"), export(store, "mine", "b")
    assert (first.peers, second.peers) == (("b",), ("a",))
    assert first.folder.name == "mine-0-a" and second.folder.name == "mine-0-b"
    last = trial_folder(store) / "checkpoint" / "b" / "student.safetensors"
    expected = logits(peer(0), last)
    written = export(store, "mine", "b", weights="last", to=store.root / "last").folder
    with torch.no_grad():
        assert torch.equal(load_exported(written)(images()).logits, expected)
    metrics = Sweep.open(store, "mine").trials[0].metrics
    for found, factor in ((first, 1.0), (second, 0.5)):
        assert (
            found.settings.source.metrics["test/last/accuracy"]
            == factor * metrics["test/last/accuracy"]
        )
    assert (
        second.settings.source.metrics["validation/best/accuracy"] == 0.25
        and second.settings.source.epoch == 1
    )
    assert (
        second.settings.training["learning_rate"] == 0.01
        and first.settings.training["learning_rate"] == 0.05
    )
    assert second.settings.plain()["beside"] == {"a": {"name": "cnn", "width": 4}}
    assert "trained together with a (`cnn`)" in (second.folder / "README.md").read_text()


def test_card_names_the_metric_that_selected_the_trial(store: Store) -> None:
    give_peer(store)
    add_trial(store, 1, value=0.0)
    sweep = Sweep.open(store, "mine")
    chosen = export(store, "mine", "b").settings.source.chosen
    assert chosen == "the best of 2 trials by validation/accuracy (mean of a, b) of the last epoch"
    objectives = {"objectives": ["b/validation/nll", "parameters"], "direction": "maximize"}
    sweep.configuration = configure(sweep.configuration.plain() | {"search": objectives})
    sweep.save()
    chosen = export(store, "mine", "b", to=store.root / "first").settings.source.chosen
    assert (
        chosen
        == "the best of 2 trials by b/validation/nll of the last epoch, the first of 2 objectives"
    )


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [(0.0, "did not exchange predictions"), (0.2, "learned from each other's predictions")],
)
def test_card_describes_peer_learning_by_the_settings(
    store: Store, weight: float, sentence: str
) -> None:
    give_peer(store)
    sweep = Sweep.open(store, "mine")
    sweep.configuration = configure(
        sweep.configuration.plain() | {"method": {"name": "dual_student", "lambda_peer": weight}}
    )
    sweep.save()
    assert sentence in (export(store, "mine").folder / "README.md").read_text()


def test_the_best_trial_is_taken_with_its_own_parameters(store: Store) -> None:
    add_trial(store, 1, value=2.0, params={"temperature": 5.0, "training.learning_rate": 0.2})
    changes = [{"epoch": 2, "source": 1, "params": {"temperature": 6.0}}]
    add_trial(
        store, 2, value=3.0, state="stopped_early", params={"temperature": 4.0}, changes=changes
    )
    best, by_number = export(store, "mine").settings, export(store, "mine", number=2).settings
    assert best.source.trial == 1 and best.source.chosen.startswith("the best of 3 trials")
    assert best.method.settings["temperature"] == 5.0 and best.training["learning_rate"] == 0.2
    assert (
        by_number.searched == {"temperature": 6.0}
        and by_number.method.settings["temperature"] == 6.0
    )
    card = (store.exports / "mine-2-a" / "README.md").read_text()
    assert "after epoch 2 (trial 1)" in card and "selected by its number" in card


def test_a_trial_that_was_stopped_early_has_no_test_metrics(store: Store) -> None:
    file = trial_folder(store) / "checkpoint" / "progress.json"
    progress = read_json(file)
    metrics = {
        name: value
        for name, value in progress["record"]["metrics"].items()
        if not name.startswith("test/")
    }
    record = {"epoch": 2, "metrics": metrics}
    write_json(
        file,
        progress
        | {"record": record, "records": [*progress["records"][:1], record], "best_epoch": 1},
    )
    found = export(store, "mine", weights="last")
    assert found.settings.source.epoch == 2
    text = (found.folder / "README.md").read_text()
    assert (
        "the test part was not evaluated" in text
        and "split: validation" in text
        and "test, best" not in text
    )


def test_export_without_data_reads_the_description_from_the_source(store: Store) -> None:
    shutil.rmtree(store.root / "data")
    first = export(store, "mine").settings
    assert first.checked and first.checked.validation == 0
    (store.sweep("mine") / "data.json").unlink()
    assert export(store, "mine", to=store.root / "again").settings == first


def test_images_of_files_are_cut_as_in_training(store: Store) -> None:
    file = store.sweep("mine") / "data.json"
    write_json(file, read_json(file) | {"root": "/home/username/images"})
    folder = export(store, "mine").folder
    assert read_json(folder / "settings.json")["input"]["cut"] == 224 / 256
    card = (folder / "README.md").read_text()
    assert (
        "central square, 0.875 of the short side, and scale it to 8 x 8 pixels" in card
        and "username" not in card
    )


def test_method_without_a_teacher_is_not_tagged_as_distillation(store: Store) -> None:
    sweep = Sweep.open(store, "mine")
    assert (export(store, "mine").settings.teacher or {})["metrics"]["validation/accuracy"] > 0
    sweep.configuration = configure(
        sweep.configuration.plain() | {"method": {"name": "cross_entropy"}}
    )
    sweep.save()
    found = export(store, "mine", to=store.root / "plain")
    assert (
        found.settings.teacher is None
        and "knowledge-distillation" not in (found.folder / "README.md").read_text()
    )


def cut(folder: Path) -> None:
    file = folder / "checkpoint" / "best.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def exchange(folder: Path) -> None:
    save_file(peer(0).state_dict(), folder / "checkpoint" / "best.safetensors")


def no_record(folder: Path) -> None:
    (folder / "checkpoint" / "progress.json").write_text("{}")


@pytest.mark.parametrize("damage", [cut, exchange, no_record])
def test_damaged_checkpoint_is_refused_and_nothing_is_written(store: Store, damage: Any) -> None:
    damage(trial_folder(store))
    with pytest.raises(
        ConfigurationError, match=r"the checkpoint of trial 0 is damaged, .* cannot be used"
    ) as refusal:
        export(store, "mine")
    assert "\n" not in str(refusal.value) and not store.exports.exists()


def test_the_old_checkpoint_serves_while_a_new_one_takes_its_place(store: Store) -> None:
    folder = trial_folder(store)
    (folder / "checkpoint").rename(folder / "checkpoint.old")
    assert load_exported(export(store, "mine").folder)


def test_export_with_different_logits_is_not_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.export.loading.load_exported",
        lambda folder: build("cnn", 10, (1, 8, 8), {"width": 4}).eval(),
    )
    with pytest.raises(PreflightError, match="logits of the written file differ"):
        export(store, "mine")
    assert not list(store.exports.iterdir())


def test_existing_files_are_not_overwritten(store: Store, tmp_path: Path) -> None:
    for name in ("out", "out.old"):
        (tmp_path / name).mkdir()
    export(store, "mine", to=tmp_path / "out")  # an empty folder
    before = (tmp_path / "out" / "README.md").read_text()
    for taken in ("out", "out/README.md"):
        with pytest.raises(ConfigurationError, match=r"--to .* nothing is overwritten"):
            export(store, "mine", weights="last", to=tmp_path / taken)
    assert (tmp_path / "out" / "README.md").read_text() == before and (
        tmp_path / "out.old"
    ).is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.old", "store"]


def test_unwritable_target_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=r"--to .* cannot be"):
        export(store, "mine", to=tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "settings.json").unlink(), "is not an exported student"),
        (lambda folder: (folder / "settings.json").write_text("[1]"), "is not an exported student"),
        (
            lambda folder: (folder / "settings.json").write_text('{"format": 1}'),
            "is not an exported student",
        ),
        (lambda folder: (folder / "settings.json").write_text(NEWER), "newer version"),
        (lambda folder: (folder / "model.safetensors").unlink(), "does not exist"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"1"),
            "is not a complete safetensors file",
        ),
    ],
)
def test_damaged_export_is_refused(store: Store, change: Any, message: str) -> None:
    folder = export(store, "mine").folder
    change(folder)
    with pytest.raises(ConfigurationError, match=message):
        load_exported(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["other"], "there is no sweep 'other'"),
        (["mine", "--trial", "7"], "--trial 7 is not a trial of 'mine': give one of 0, 1, 2, 3"),
        (["mine", "--trial", "-1"], "--trial -1 is not a trial of 'mine'"),
        (
            ["mine", "--trial", "1"],
            "--trial 1 of 'mine' failed (the loss is not finite): give one of 0, 3",
        ),
        (["mine", "--trial", "2"], "--trial 2 of 'mine' has not ended"),
        (["mine", "--trial", "3"], "trial 3 of 'mine' has no checkpoint"),
        (["mine", "--student", "b"], "--student 'b' is not a student of 'mine': give one of a"),
        (["mine", "--format", "onx"], "--format 'onx' is not allowed: did you mean 'onnx'?"),
        (["mine", "--weights", "first"], "--weights 'first' is not allowed: give best or last"),
    ],
)
def test_bad_arguments_are_one_sentence(store: Store, arguments: list[str], message: str) -> None:
    add_trial(store, 1, state="failed", message="the loss\nis not finite", value=None)
    add_trial(store, 2, state="running")
    add_trial(store, 3, value=0.0)
    shutil.rmtree(trial_folder(store, 3) / "checkpoint")
    result = CliRunner().invoke(run.app, ["export", *arguments, "--store", str(store.root)])
    assert (result.exit_code, result.output.count("\n")) == (2, 1) and message in result.output, (
        result.output
    )


def test_a_run_without_a_usable_trial(store: Store) -> None:
    file = trial_folder(store) / "trial.json"
    write_json(file, read_json(file) | {"state": "failed"})
    with pytest.raises(
        ConfigurationError,
        match=rf"no trial with results: run `python run.py status mine --store {store.root}`",
    ):
        export(store, "mine")


def test_command_prints_folder_and_accuracy(store: Store) -> None:
    give_peer(store)
    result = CliRunner().invoke(run.app, ["export", "mine", "--store", str(store.root)])
    metrics = read_json(store.exports / "mine-0-a" / "settings.json")["source"]["metrics"]
    assert result.exit_code == 0 and str(store.exports / "mine-0-a") in result.output
    assert (
        f"test/best/accuracy {metrics['test/best/accuracy']:.4f}" in result.output
        and "--student b" in result.output
    )
