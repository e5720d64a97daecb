"""Test the published numbers: their values, marks and sources, and where they are shown."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.reporting.statistics import mean
from orchestrator.sweep.comparison import page
from orchestrator.sweep.comparison._published import find_published, list_differences, select_rows
from orchestrator.sweep.comparison._published_table import Published, list_published, name_published
from orchestrator.sweep.comparison.result import Cost, Result, Row

CONFIGS = Path(__file__).parents[2] / "configs"
NOTHING = Cost(0, None, None)


def pair(teacher: str, student: str) -> Published:
    (found,) = [one for one in list_published() if (one.teacher, one.student) == (teacher, student)]
    return found


def shown(published: Published, *methods: str, chosen: bool = False) -> Result:
    """Return a result of one seed; with `chosen`, it has the best test epoch."""
    means = {"accuracy": mean([0.7]), "best_accuracy": mean([0.71])}
    means |= {"best_test_accuracy": mean([0.7234])} if chosen else {}
    rows = tuple(Row(name, {}, "", means, {}, None, NOTHING, NOTHING) for name in methods)
    return Result(
        name="mine",
        data="CIFAR100",
        sizes={"train": 50_000},
        teacher=published.teacher,
        teacher_accuracy=0.75,
        student=published.student,
        epochs=240,
        seeds=(1,),
        trials=0,
        rows=rows,
        published=published,
        remarks=("differs from the published training: one thing",),
    )


@pytest.mark.parametrize(
    ("teacher", "student", "method", "text", "epochs", "chosen", "source"),
    [
        ("wrn_40_2", "wrn_16_2", "kd", "74.92 ± 0.28", 240, "last epoch", "RepDistiller"),
        ("wrn_40_2", "wrn_40_1", "dkd", "74.81", 240, "best test epoch", "mdistiller"),
        ("resnet56", "resnet20", "wttm", "71.92 ± 0.40", 240, "not stated", "2402.11148"),
        ("resnet32x4", "resnet8x4", "kd+standardize", "76.62", 240, "best test epoch", "logit-st"),
        ("vgg13", "vgg8", "review_kd", "74.84 ?", 240, "not stated", "review-kd"),
        ("resnet110", "resnet32", "mlkd", "74.11 *", 240, "best test epoch", "logit-st"),
        ("resnet50", "mobilenet_v2_half", "mlkd", "71.04 *", 480, "best test epoch", "logit-st"),
        ("resnet32x4", "shuffle_v2", "mlkd", "78.44 *", 960, "best test epoch", "logit-st"),
        ("resnet50", "mobilenet_v2_half", "kd", "67.35 ± 0.32", 240, "last epoch", "RepDistiller"),
        ("wrn_40_2", "shuffle_v1", "crd", "76.05 ± 0.14", 240, "last epoch", "RepDistiller"),
        ("resnet34", "resnet18", "wttm", "72.19", None, "not stated", "2402.11148"),
    ],
)
def test_a_number_has_its_protocol_and_source(
    teacher: str, student: str, method: str, text: str, epochs: int | None, chosen: str, source: str
) -> None:
    one = pair(teacher, student).accuracies[method]
    assert (one.text, one.epochs, one.chosen) == (text, epochs, chosen)
    assert source in one.source and one.protocol and one.views
    assert (one.verified, one.comparable) == ("?" not in text, "*" not in text)


def test_the_tables_are_complete() -> None:
    cifar = [one for one in list_published() if one.data == "CIFAR100"]
    assert len(cifar) == 13 and len(list_published()) == 16
    assert "dkd" not in pair("resnet50", "vgg8").accuracies
    assert "review_kd" not in pair("resnet110", "resnet20").accuracies
    students = {one.student: one.accuracies["cross_entropy"].accuracy for one in cifar}
    assert all(
        students[one.student] == one.accuracies["cross_entropy"].accuracy for one in cifar
    ), "a student has one accuracy without a teacher"
    teachers = {one.teacher: one.teacher_accuracy for one in cifar}
    assert all(teachers[one.teacher] == one.teacher_accuracy for one in cifar)
    for one in cifar:
        below = one.teacher_accuracy + 2.0
        assert all(50 < each.accuracy < below for each in one.accuracies.values())
        notes = [each.note for each in one.accuracies.values() if each.note]
        assert all(re.search(r"README", note) for note in notes)
    unverified = [
        (one.student, name)
        for one in cifar
        for name, each in one.accuracies.items()
        if not each.verified
    ]
    assert unverified == [("vgg8", "review_kd"), ("mobilenet_v2_half", "review_kd")]


def test_settings_select_the_row_of_a_variant() -> None:
    published = pair("resnet56", "resnet20")
    assert name_published("dkd", {"standardize": True, "beta": 2}) == "dkd+standardize"
    assert name_published("dkd", {"standardize": False}) == "dkd"
    loaded = load(CONFIGS / "cifar100_wttm.yaml", ["method.name=kd"])
    rows = select_rows(loaded, published, {"kd": {"standardize": True}, "akd": {}, "ttm": {}})
    assert rows is not None and {key: one.text for key, one in rows.accuracies.items()} == {
        "kd": "71.43",
        "ttm": "71.83 ± 0.16",
    }
    assert select_rows(loaded, None, {"kd": {}}) is None


def test_results_are_found_for_their_own_task_only() -> None:
    wttm = load(CONFIGS / "cifar100_wttm.yaml", [])
    assert find_published(wttm) == pair("resnet56", "resnet20")
    for pairs in (
        "student.name=resnet8x4",
        "data.label_noise=0.1",
        "data.class_weights=balanced",
        "data.sampling=balanced",
        "data.pack=true",
        "data.color_jitter=0.3",
        "teacher.classes=[0] teacher.network.weights=a.safetensors",
        "teacher.network.input_size=64",
        "student.input_size=64",
        "student.mean=[0,0,0] student.std=[1,1,1]",
        "student.weights=a.safetensors",
        "teacher=null",
    ):
        assert find_published(load(CONFIGS / "cifar100_wttm.yaml", pairs.split())) is None
    assert find_published(load(CONFIGS / "digits.yaml", [])) is None


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ((), ["training.precision: auto here, float32 in the sources"]),
        (
            ("training.epochs=200", "training.milestones=[10]", "training.precision=float32"),
            [
                "training.epochs: 200 here, 240 in the sources",
                "training.milestones: [10] here, [150, 180, 210] in the sources",
            ],
        ),
        (
            ("training.batch_size=128", "training.precision=float32", "training.patience=5"),
            [
                "training.patience: 5 here, null in the sources",
                "training.batch_size: 128 here, 64 in the sources",
            ],
        ),
        (
            ("data.views=4", "data.augmentation=none", "training.precision=float32"),
            [
                "data.augmentation: none here, crop_flip in the sources",
                "data.views: 4 here, a new one in each epoch in the sources",
            ],
        ),
    ],
)
def test_every_difference_to_the_published_training_has_a_sentence(
    change: tuple[str, ...], sentences: list[str]
) -> None:
    pairs = [*change, "search.freeze=[training.learning_rate]"]
    loaded = load(CONFIGS / "cifar100_wttm.yaml", pairs)
    published = pair("resnet56", "resnet20")
    teacher = "test accuracy of the teacher: 71.00 % here, 72.34 % in the sources"
    assert list_differences(loaded, published, 50_000, 0.71) == [*sentences, teacher]
    fewer = list_differences(loaded, published, 49_000, None)
    assert [one.partition(" in the sources")[0] for one in fewer[-2:]] == [
        "training images: 49,000 here, 50,000",
        "test accuracy of the teacher: unknown here, 72.34 %",
    ]


def test_a_searched_rate_and_a_students_own_rate_are_differences() -> None:
    loaded = load(CONFIGS / "cifar100_wttm.yaml", ["training.precision=float32"])
    found = list_differences(loaded, pair("resnet56", "resnet20"), 50_000, 0.7)
    assert found[0].startswith("training.learning_rate is searched") and len(found) == 2
    slow = list_differences(loaded, pair("vgg13", "mobilenet_v2_half"), 50_000, 0.7)
    assert slow[0] == "training.learning_rate: 0.05 here, 0.01 in the sources"


def test_numbers_are_shown_with_marks_and_protocols() -> None:
    """An unverified number and one of another protocol keep their marks; no number is `–`."""
    published = pair("vgg13", "vgg8")
    found = shown(published, "cross_entropy", "review_kd", "mlkd", "akd", chosen=True)
    rows = select_rows(
        load(CONFIGS / "cifar100_wttm.yaml", []), published, {row.method: {} for row in found.rows}
    )
    found = replace(found, published=rows)
    titles, cells = page.quality(found)
    assert titles[1:4] == [
        "accuracy, last epoch, %",
        "accuracy, best epoch, %",
        "accuracy, best test epoch, %",
    ]
    assert cells[0][1:4] == ["70.00", "71.00", "72.34"]
    assert [row[-1] for row in cells] == ["70.36", "74.84 ?", "75.18 *", "–"]
    titles, cells = page.published(found)
    assert titles[:5] == ["method", "published, %", "epochs", "views", "epoch"]
    assert [row[:3] for row in cells] == [
        ["cross_entropy", "70.36", "240"],
        ["review_kd", "74.84 ?", "240"],
        ["mlkd", "75.18 *", "240"],
    ]
    text = page.markdown(found)
    assert "review-kd" in text and "? was not verified in the source" in text
    assert "- differs from the published training: one thing\n" in text
    assert "no search: each method has the settings listed for it" in text


def test_the_best_test_epoch_has_no_column_without_its_values() -> None:
    titles, _ = page.quality(shown(pair("vgg13", "vgg8"), "kd", "ttm"))
    assert "accuracy, best test epoch, %" not in titles
