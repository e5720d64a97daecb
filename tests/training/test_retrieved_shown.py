"""Test the retrieved samples that a trial keeps: places, images, labels, the teacher's class."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from trials_run import records_of

from methods import METHODS, Knowledge
from methods.bank_plan import BankPlan
from methods.cross_entropy import CrossEntropy
from methods.kd import KD
from methods.retrieval import Neighbours
from orchestrator.config.data_schema import Data
from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views
from orchestrator.models.build import build
from orchestrator.models.weights import load_weights
from orchestrator.teacher.frozen import WEIGHTS, FrozenTeacher
from orchestrator.training.capabilities._displayed_samples import (
    NUM_NEIGHBOURS,
    NUM_QUERIES,
    collect_retrieved,
)

Specify = Callable[..., TrialSpec]
SMALL = (
    "data.limit.train=96",
    "data.limit.validation=40",
    "data.limit.test=40",
    "data.label_noise=0.25",
)


def random_neighbours(samples: int, positives: int = 7, negatives: int = 9) -> Neighbours:
    """Return random neighbours, because the figures must not depend on the retrieved samples."""
    generator = torch.Generator().manual_seed(3)
    sides = [
        torch.randint(samples, (samples, width), generator=generator, dtype=torch.int32)
        for width in (positives, negatives)
    ]
    likeness = [
        torch.rand(samples, width, generator=generator).sort(descending=True).values
        for width in (positives, negatives)
    ]
    return Neighbours(sides[0], sides[1], likeness[0], likeness[1])


def batches_of(dataset: Dataset, size: int = 32) -> Batches:
    return Batches(dataset, Views.from_config(dataset, Data(), 0), size, 0)


class Retrieving(KD):
    """KD that reports retrieved samples."""

    def bank_plan(self, epochs: int) -> BankPlan:
        """Return a plan of the student's own bank, whose content is ignored."""
        return BankPlan("own", 7, 9, first=1)

    def update_bank(self, knowledge: Knowledge) -> None:
        """Ignore the bank."""

    @property
    def neighbours(self) -> Neighbours | None:
        """Return random neighbours."""
        return random_neighbours(96)


def test_finished_trial_keeps_neighbours_of_evenly_spaced_samples(
    distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "kd", Retrieving)
    spec = distil(
        *SMALL,
        "method.name=kd",
        "training.epochs=1",
        "training.batch_size=32",
        "student.name=mlp",
        "student.width=8",
    )
    records_of(spec)
    found, expected, dataset = (
        load_file(spec.folder / CHECKPOINT / "shown.safetensors"),
        random_neighbours(96),
        Dataset.open(spec.data),
    )
    queries = found["queries"].long()
    assert queries.tolist() == [0, 23, 47, 71, 95]
    for side, rows in expected._asdict().items():
        if side != "recall":
            assert torch.equal(found[side], rows[queries][:, :NUM_NEIGHBOURS]), side
    places = found["retrieved"].tolist()
    seen = {
        *found["queries"].tolist(),
        *found["positives"].flatten().tolist(),
        *found["negatives"].flatten().tolist(),
    }
    assert places == sorted(seen), "each position occurs once"
    assert found["retrieved_images"].numpy().tobytes() == dataset.train.inputs[places].tobytes()
    assert found["retrieved_labels"].tolist() == dataset.train.labels[places].tolist()
    assert found["retrieved_truths"].tolist() == dataset.clean_labels[places].tolist()
    assert not torch.equal(found["retrieved_labels"], found["retrieved_truths"]), (
        "a quarter of the labels is wrong"
    )
    teacher = build("mlp", len(dataset.classes), dataset.shape, {"width": 32}).eval()
    assert spec.teacher is not None
    load_weights(teacher, str(spec.teacher / WEIGHTS))
    (whole,) = batches_of(dataset, 96).iterate_in_order("train")
    with torch.no_grad():
        classes = teacher(whole.inputs).logits.argmax(dim=1)
    assert found["retrieved_classes"].tolist() == classes[places].tolist()


class WithoutTeacher(CrossEntropy):
    """Plain training that reports retrieved samples: the bank cannot be the teacher's."""

    @property
    def neighbours(self) -> Neighbours | None:
        """Return random neighbours."""
        return random_neighbours(96)

    bank_plan, update_bank = Retrieving.bank_plan, Retrieving.update_bank


def test_unused_teacher_gives_no_classes_of_retrieved_samples(
    distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "cross_entropy", WithoutTeacher)
    spec = distil(
        *SMALL,
        "method.name=cross_entropy",
        "training.epochs=1",
        "training.batch_size=32",
        "student.width=8",
    )
    records_of(spec)
    found = load_file(spec.folder / CHECKPOINT / "shown.safetensors")
    assert "retrieved" in found and "retrieved_classes" not in found


def test_queries_are_samples_for_which_something_was_retrieved(specify: Specify) -> None:
    batches = batches_of(Dataset.open(specify(*SMALL).data))
    rows = random_neighbours(96)
    known = torch.tensor([3, 10, 50])
    kept = torch.zeros(96, 1, dtype=torch.bool).index_fill(0, known, True)
    rows = rows._replace(
        positives=rows.positives.where(kept, -1), negatives=rows.negatives.where(kept, -1)
    )
    rows.positives[10] = -1  # alone in its class
    rows.positives[50, 2:] = -1
    found = collect_retrieved(rows, None, batches)
    assert found["queries"].tolist() == [3, 10, 50] and "retrieved_classes" not in found
    assert found["positives"][1].eq(-1).all() and found["positives"][2, 2:].eq(-1).all()
    assert (found["retrieved"] >= 0).all() and {3, 10, 50} <= set(found["retrieved"].tolist())
    no_neighbours = rows._replace(
        positives=torch.full_like(rows.positives, -1), negatives=torch.full_like(rows.negatives, -1)
    )
    assert collect_retrieved(no_neighbours, None, batches) == {}


@pytest.mark.parametrize(("positives", "negatives"), [(0, 3), (2, 0)])
def test_a_side_may_have_no_width(specify: Specify, positives: int, negatives: int) -> None:
    batches = batches_of(Dataset.open(specify(*SMALL).data))
    found = collect_retrieved(random_neighbours(96, positives, negatives), None, batches)
    assert found["positives"].shape == (NUM_QUERIES, positives) and found["negatives"].shape == (
        NUM_QUERIES,
        negatives,
    )
    assert collect_retrieved(random_neighbours(96, 0, 0), None, batches) == {}


def files(root: Path) -> Dataset:
    """Write two classes of eight training images, oblong and of two sizes."""
    generator = np.random.default_rng(7)
    for part, each in (("train", 8), ("val", 2), ("test", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                image = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
                image.resize((24 + 8 * (number % 2), 30)).save(root / part / name / f"{number}.png")
    return Dataset.open(prepare(Data(name="folder", path=root, size=16), root.parent / "store", 0))


def test_pictures_of_files_are_those_that_the_teacher_saw(tmp_path: Path) -> None:
    """Decoded images of a folder; the teacher's class is that of the same normalised pixels."""
    dataset = files(tmp_path / "images")
    teacher = FrozenTeacher(
        build("cnn", len(dataset.classes), dataset.shape, {"width": 4}), "untrained"
    )
    found = collect_retrieved(
        random_neighbours(len(dataset.train), 2, 2), teacher, batches_of(dataset, 2)
    )
    images = found["retrieved_images"]
    assert images.dtype == torch.uint8 and images.shape[1:] == (
        dataset.shape[1],
        dataset.shape[2],
        3,
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
    pixels = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    assert found["retrieved_classes"].tolist() == teacher(pixels).logits.argmax(dim=1).tolist()
    assert len(np.unique(found["retrieved"])) == len(images)
