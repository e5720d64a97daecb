"""Test one teacher per recipe: its name, the trial that fits it, and given weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config.data_schema import Data
from orchestrator.config.loader import load
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views
from orchestrator.models.build import build
from orchestrator.models.weights import network_fingerprint, save_weights
from orchestrator.store.store import Store
from orchestrator.teacher import fit
from orchestrator.teacher.frozen import WEIGHTS, FrozenTeacher
from orchestrator.training._trainer import train
from tests.refusal import refused

CPU = torch.device("cpu")
TINY = (
    "data.limit.train=128",
    "data.limit.validation=40",
    "data.limit.test=40",
    "teacher.training.epochs=2",
)

Specify = Callable[..., TrialSpec]


def place(root: Path, *pairs: str) -> Path:
    configuration = load(None, [*TINY, *pairs])
    return fit.teacher_folder(
        Store(root), configuration, prepare(configuration.data, root, configuration.data.seed)
    )


@pytest.mark.parametrize(
    "pair",
    [
        "teacher.training.epochs=3",
        "teacher.training.learning_rate=0.01",
        "teacher.network.width=17",
        "teacher.network.name=cnn",
        "teacher.seed=1",
        "data.label_noise=0.1",
        "data.seed=1",
        "data.augmentation=crop",
        "data.mixing=mixup",
        "data.class_weights=balanced",
        "data.sampling=balanced",
        "teacher.training.patience=2",
        "resources.workers=2",
    ],
)
def test_recipe_network_seed_and_data_change_the_fingerprint(digits_store: Path, pair: str) -> None:
    assert place(digits_store, pair) != place(digits_store)


@pytest.mark.parametrize(
    "pair",
    [
        "seed=5",
        "data.views=2",
        "data.on_device=true",
        "teacher.cache_gib=1",
        "student.width=3",
        "training.epochs=7",
        "training.patience=2",
        "method.temperature=2",
        "search.trials=3",
        "teacher.mode=online",
        "teacher.dtype=float32",
        "project=other",
        "resources.groups=2",
    ],
)
def test_settings_without_effect_on_the_teacher_keep_the_fingerprint(
    digits_store: Path, pair: str
) -> None:
    assert place(digits_store, pair) == place(digits_store)


def test_given_weights_are_identified_by_their_bytes(digits_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "given.safetensors"
    pairs = (f"teacher.network.weights={file}", "teacher.network.width=8")
    names = []
    for content in (b"one", b"two", b"one"):
        file.write_bytes(content)
        names.append(place(digits_store, *pairs))
    assert names[0] == names[2] != names[1]
    assert place(digits_store, *pairs, "teacher.seed=4") == names[0], (
        "nothing is fitted, so the recipe has no effect"
    )


def given(tmp_path: Path, classes: int = 10, **settings: int) -> Path:
    file = tmp_path / "given.safetensors"
    torch.manual_seed(3)
    save_weights(build("mlp", classes, (1, 8, 8), settings), file)
    return file


def adopt(specify: Specify, folder: Path, *pairs: str) -> TrialSpec:
    spec = specify(*TINY, "teacher.network.name=mlp", *pairs)
    assert spec.configuration.teacher is not None
    fit.adopt_weights(folder, spec.configuration.teacher, spec.data)
    return spec


def test_given_weights_become_the_teacher(specify: Specify, tmp_path: Path) -> None:
    file = given(tmp_path, width=8, depth=1)
    adopt(
        specify,
        tmp_path / "adopted",
        f"teacher.network.weights={file}",
        "teacher.network.width=8",
        "teacher.network.depth=1",
    )
    card = fit.card(tmp_path / "adopted")
    assert card is not None and card["classes"] == 10 and card["shape"] == [1, 8, 8]
    torch.manual_seed(3)
    expected = build("mlp", 10, (1, 8, 8), {"width": 8, "depth": 1}).state_dict()
    opened = FrozenTeacher.open(tmp_path / "adopted", CPU).network.state_dict()
    assert all(torch.equal(opened[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("settings", "given_classes", "fragment"),
    [
        ({"width": 9, "depth": 1}, 10, "9x64"),
        ({"width": 8, "depth": 2}, 10, "body.3"),
        ({"width": 8, "depth": 1}, 7, "7x8"),
    ],
)
def test_weights_of_another_shape_are_refused(
    specify: Specify, tmp_path: Path, settings: dict[str, int], given_classes: int, fragment: str
) -> None:
    file = given(tmp_path, classes=given_classes, **settings)
    with refused("teacher.network.weights", str(file), "weights of mlp with 10 classes") as raised:
        adopt(
            specify,
            tmp_path / "adopted",
            f"teacher.network.weights={file}",
            "teacher.network.width=8",
            "teacher.network.depth=1",
        )
    sentence, *table = str(raised.value).splitlines()
    assert (
        sentence.startswith(str(file)) and len(table) > 1 and any(fragment in row for row in table)
    )
    assert not (tmp_path / "adopted").exists()


def test_published_weights_with_another_classifier_are_refused(
    specify: Specify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setattr(
        ResNet18_Weights, "get_state_dict", lambda *_, **__: resnet18().state_dict()
    )
    with refused("teacher.network.weights", "IMAGENET1K_V1", "a classifier for 10 classes"):
        adopt(
            specify,
            tmp_path / "adopted",
            "teacher.network.name=resnet18",
            "teacher.network.weights=IMAGENET1K_V1",
        )
    assert not (tmp_path / "adopted").exists()


def test_the_teacher_is_identified_by_its_weights(specify: Specify, tmp_path: Path) -> None:
    """A recipe that is fitted again may give other weights; their outputs must not be mixed."""
    configuration, data = (
        (
            spec := specify(*TINY, "teacher.network.name=mlp", "teacher.network.width=8")
        ).configuration,
        spec.data,
    )
    folder, names = tmp_path / "teachers" / "fitted", []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        student = build("mlp", 10, (1, 8, 8), {"width": 8})
        save_weights(
            student, folder.with_name("fitted.fitting") / "checkpoint" / "student.safetensors"
        )
        fit.adopt_fitted(folder, configuration, data, {})
        names.append(FrozenTeacher.open(folder, CPU).fingerprint)
        assert names[-1] == network_fingerprint(student.state_dict())
    assert names[0] == names[2] != names[1]
    file = folder / WEIGHTS
    adopt(
        specify, tmp_path / "adopted", f"teacher.network.weights={file}", "teacher.network.width=8"
    )
    assert FrozenTeacher.open(tmp_path / "adopted", CPU).fingerprint == names[2]


@pytest.mark.parametrize("content", [None, b"", b"no weights at all"])
def test_a_file_without_weights_is_refused(
    specify: Specify, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "given.safetensors"
    if content is not None:
        file.write_bytes(content)
    allowed = "a file that exists" if content is None else "a complete .safetensors file"
    with refused("teacher.network.weights", str(file), allowed) as raised:
        adopt(specify, tmp_path / "adopted", f"teacher.network.weights={file}")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "adopted").exists()


def test_a_fitted_student_becomes_the_teacher(specify: Specify, tmp_path: Path) -> None:
    pairs = (
        "teacher.network.name=cnn",
        "teacher.network.width=4",
        "teacher.training.batch_size=16",
        "teacher.seed=6",
    )
    configuration, data = (spec := specify(*TINY, *pairs)).configuration, spec.data
    folder = tmp_path / "teachers" / "fitted"
    trial = fit.specification(folder, configuration, data)
    assert fit.card(folder) is None
    assert configuration.teacher is not None
    assert (
        trial.role == "teacher" and trial.configuration.training == configuration.teacher.training
    )
    assert (
        trial.configuration.student == configuration.teacher.network
        and trial.configuration.seed == 6
    )
    records: list[Any] = []
    train(trial, TrialContext(report=records.append))
    metrics: dict[str, Any] = records[-1].metrics
    fit.adopt_fitted(folder, configuration, data, metrics)
    card = fit.card(folder)
    assert card is not None and card["metrics"] == metrics and card["fingerprint"] == "fitted"
    assert [path.name for path in folder.parent.iterdir()] == ["fitted"]
    teacher, dataset = FrozenTeacher.open(folder, CPU), Dataset.open(data)
    (whole,) = Batches(dataset, Views.from_config(dataset, Data(), 0), 128, 0).iterate_in_order(
        "validation"
    )
    accuracy = (teacher(whole.inputs).logits.argmax(dim=1) == whole.labels).double().mean().item()
    assert metrics["validation/accuracy"] == pytest.approx(accuracy, abs=1e-12)


def test_a_teacher_without_weights_does_not_exist(specify: Specify, tmp_path: Path) -> None:
    file = given(tmp_path, width=8, depth=1)
    adopt(
        specify,
        tmp_path / "adopted",
        f"teacher.network.weights={file}",
        "teacher.network.width=8",
        "teacher.network.depth=1",
    )
    (tmp_path / "adopted" / WEIGHTS).unlink()
    assert fit.card(tmp_path / "adopted") is None


def test_missing_weights_of_a_fitted_teacher_are_refused(specify: Specify, tmp_path: Path) -> None:
    spec = specify(*TINY)
    trained = tmp_path / "teacher.fitting" / "checkpoint" / "student.safetensors"
    with refused("--store", str(trained), "a folder that all nodes share, or a URI"):
        fit.adopt_fitted(tmp_path / "teacher", spec.configuration, spec.data, {})


def test_a_newer_setting_keeps_the_fingerprint_of_stored_teachers() -> None:
    """A teacher's evaluation does not affect its weights; its batch norm does, if changed."""

    def name(*pairs: str) -> str:
        return fit.fingerprint(load(None, list(pairs)), "data", "none")

    assert name("teacher.training.eval_precision=float32") == name()
    assert name("teacher.training.sync_batch_norm=true") != name()
    assert name("training.sync_batch_norm=true") == name(), "this is a setting of the student"


def test_a_teacher_with_other_classes_is_restricted_to_those_of_the_data(
    specify: Specify, tmp_path: Path
) -> None:
    file, classes = given(tmp_path, classes=12, width=8), [11, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    pairs = (f"teacher.network.weights={file}", "teacher.network.width=8")
    spec = adopt(specify, tmp_path / "adopted", *pairs, f"teacher.classes={classes}")
    torch.manual_seed(3)
    whole = build("mlp", 12, (1, 8, 8), {"width": 8}).eval()
    teacher, dataset = FrozenTeacher.open(tmp_path / "adopted", CPU), Dataset.open(spec.data)
    views = Views.from_config(dataset, Data(), 0)
    (batch,) = Batches(dataset, views, 128, 0).iterate_in_order("validation")
    with torch.no_grad():
        expected = whole(batch.inputs)
    output = teacher(batch.inputs)
    assert torch.allclose(output.logits, expected.logits[:, classes], rtol=1e-6, atol=1e-7)
    assert torch.equal(output.features, expected.features)


@pytest.mark.parametrize(
    ("classes", "value"), [([0] * 10, 0), ([*range(9), 12], 12), ([0, 1], (0, 1))]
)
def test_bad_classes_of_a_teacher_are_refused(
    specify: Specify, tmp_path: Path, classes: list[int], value: object
) -> None:
    file = given(tmp_path, classes=12, width=8)
    pairs = (f"teacher.network.weights={file}", "teacher.network.width=8")
    with refused("teacher.classes", value) as caught:
        adopt(specify, tmp_path / "adopted", *pairs, f"teacher.classes={classes}")
    assert str(caught.value).startswith("teacher.classes ")
    assert not (tmp_path / "adopted").exists()


def test_classes_of_a_teacher_need_given_weights() -> None:
    with refused("teacher.classes", (0, 1)) as caught:
        load(None, ["teacher.classes=[0, 1]"])
    assert str(caught.value).startswith("teacher.classes = [0, 1] ")


@pytest.mark.parametrize("entry", ["-1", "true", "1.5", "null", "[1]"])
def test_an_entry_of_the_classes_is_a_position_or_a_name(entry: str) -> None:
    with refused("teacher.classes.0") as caught:
        load(None, ["teacher.network.weights=x.safetensors", f"teacher.classes=[{entry}]"])
    assert "a position of at least 0, or a name" in str(caught.value)


def test_classes_are_part_of_the_fingerprint_only_if_set(tmp_path: Path) -> None:
    pairs = [f"teacher.network.weights={given(tmp_path, width=8)}", "teacher.network.width=8"]

    def name(*more: str) -> str:
        return fit.fingerprint(load(None, [*pairs, *more]), "data", "none")

    assert name("teacher.classes=null") == name()
    names = {name(), name("teacher.classes=[0, 1]"), name("teacher.classes=[1, 0]")}
    assert len(names) == 3
