"""Test the recipes of the published CIFAR-100 pairs: complete, as published, and ready to train."""

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import run
from methods import METHODS
from orchestrator.config.examples import FOLDER, find_configuration
from orchestrator.config.loader import load
from orchestrator.config.trial import METHOD
from orchestrator.models.build import MODELS
from orchestrator.sweep.comparison import design
from orchestrator.sweep.comparison._published import find_published, list_differences
from orchestrator.sweep.comparison._published_table import list_published

PAIRS = [(one.teacher, one.student) for one in list_published() if one.data == "CIFAR100"]
NAMES = [f"{teacher}-{student}" for teacher, student in PAIRS]
# beta of DKD: configs of mdistiller; ResNet-110 -> ResNet-20 is not among them
DKD = [6, 6, 2, 2, 2, 8, 6, 6, 8, 8, 8, 8, 8]
# 10 gamma, and beta of TTM and WTTM: arXiv 2402.11148, Tables 8 to 10
TTM = [
    *((1, 101, 4), (1, 76, 3), (3, 7, 1.5), (2, 8, 2), (1, 33, 1.5), (1, 100, 3), (1, 45, 2.25)),
    *((2, 16, 3), (2, 20, 5), (1, 70, 2), (2, 12, 1.4), (4, 40, 16), (3, 8, 3)),
]
# beta of ReviewKD, where it is not that of the first point: its released scripts
REVIEW = {"resnet56-resnet20": 0.6, "resnet110-resnet32": 1.0, "resnet32x4-shuffle_v2": 8.0}


class Cifar100:
    """Stub of torchvision's CIFAR-100: few images of a hundred classes."""

    classes: ClassVar[list[str]] = [f"class {number}" for number in range(100)]

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        count = 5000 if train else 200
        generator = np.random.default_rng(count)
        self.data: NDArray[Any] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = [number % 100 for number in range(count)]


def path(name: str) -> Path:
    return FOLDER / "cifar100" / f"{name}.yaml"


def test_every_pair_has_a_recipe() -> None:
    files = {file.stem for file in (FOLDER / "cifar100").glob("*.yaml")}
    assert files == {*NAMES, "recipe"} and len(NAMES) == 13
    assert find_configuration(Path("cifar100/vgg13-vgg8")) == path("vgg13-vgg8")
    for name in files:
        command = path(name).read_text().splitlines()[0]
        found = re.fullmatch(
            r"# python run\.py compare --config cifar100/(\S+) --methods all --seeds 5", command
        )
        assert found and found[1] in (name, "resnet56-resnet20")


@pytest.mark.parametrize(("name", "pair", "dkd", "ttm"), zip(NAMES, PAIRS, DKD, TTM, strict=True))
def test_a_recipe_is_the_published_one(
    name: str, pair: tuple[str, str], dkd: float, ttm: tuple[float, float, float]
) -> None:
    loaded = load(path(name), [])
    assert loaded.teacher is not None
    assert (loaded.teacher.network.name, loaded.student.name) == pair and set(pair) <= set(MODELS)
    rate = 0.01 if pair[1] in ("mobilenet_v2_half", "shuffle_v1", "shuffle_v2") else 0.05
    for recipe, expected in ((loaded.training, rate), (loaded.teacher.training, 0.05)):
        values = (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.gamma)
        assert values == (240, 64, expected, 0.1) and recipe.milestones == (150, 180, 210)
        assert (recipe.optimizer, recipe.momentum, recipe.nesterov) == ("sgd", 0.9, False)
        assert (recipe.weight_decay, recipe.warmup_epochs, recipe.patience) == (5e-4, 0, None)
    listed = {entry[METHOD]: entry for entry in loaded.search.configurations}
    review = listed.pop("review_kd", {METHOD: "review_kd", "alpha": 0.0, "beta": 5.0})
    assert review == {METHOD: "review_kd", "alpha": 0.0, "beta": REVIEW.get(name, 5.0)}
    assert set(listed) == {"dkd", "ttm", "wttm"} and listed["dkd"]["beta"] == dkd
    assert {*listed, "review_kd"} <= set(METHODS)
    for method, beta in zip(("ttm", "wttm"), ttm[1:], strict=True):
        entry = listed[method]
        assert entry["temperature"] == pytest.approx(10 / ttm[0], rel=1e-4)
        assert (entry["form"], entry["beta"], entry["normalize"]) == ("additive", beta, False)
    published = find_published(loaded)
    assert published is not None and (published.teacher, published.student) == pair
    (difference,) = list_differences(loaded, published, 50_000, 0.75)
    assert difference.startswith("test accuracy of the teacher: 75.00 % here")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "vgg13-vgg8" else pytest.mark.slow) for name in NAMES],
)
def test_a_recipe_can_be_compared(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All methods but those that need peers or the validation labels can be trained."""
    monkeypatch.setattr("torchvision.datasets.CIFAR100", Cifar100)
    arguments = ["--methods", "all", "--seeds", "5", "--dry-run", "--store", str(tmp_path)]
    done = CliRunner().invoke(run.app, ["compare", "--config", str(path(name)), *arguments])
    assert done.exit_code == 0, done.output
    left_out = set(re.findall(r"--methods all: (\w+) is left out", done.output))
    assert left_out >= {"dml", "kd_aif"}
    runnable = [method for method in METHODS if method not in left_out]
    assert {"cross_entropy", "kd", "ttm", "wttm", "dkd", "dist", "crd"} <= set(runnable)
    text = " ".join(done.output.split())
    assert f"no search, then {len(runnable)} x 5 trainings, seeds 1 to 5" in text
    assert "train 5000 with the validation part, validation 100, test 200" in text


def test_a_method_without_an_entry_has_its_first_point_and_the_recipes_rate() -> None:
    loaded = load(path("vgg13-mobilenet_v2_half"), [])
    common = design.base(loaded, ("cross_entropy", "kd", "ttm"), 5)
    kd = next(one for one in common.search.configurations if one[METHOD] == "kd")
    assert (kd["kd.temperature"], kd["kd.alpha"]) == (4.0, 0.9)
    assert "training.learning_rate" not in kd and common.training.learning_rate == 0.01
