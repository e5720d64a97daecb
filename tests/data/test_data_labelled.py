"""Test training samples without a label, labels of the validation part, and their batches."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import CLASSES, folder, identities, npz, opened
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data, Limit
from orchestrator.data import memory
from orchestrator.data.batches import Batches, labelled_per_batch
from orchestrator.data.dataset import Dataset, read_summary
from orchestrator.data.prepare import describe, prepare
from orchestrator.data.views import Views
from tests.refusal import refused

SAMPLES = 102  # of `data_made`, in the training part
LABELLED = 20


def shown(dataset: Dataset) -> NDArray[np.bool_]:
    """Return (n,) whether the label is known."""
    mask: NDArray[np.bool_] = dataset.train.labels >= 0
    return mask


@pytest.fixture
def few(tmp_path: Path) -> Dataset:
    """Return arrays with few labelled training samples."""
    return opened(tmp_path, npz(tmp_path), labelled=LABELLED)


def batches(
    dataset: Dataset,
    size: int = 16,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
    share: float | None = 0.25,
) -> Batches:
    views = Views("crop_flip", 0, len(dataset.train), 1)
    return Batches(dataset, views, size, seed, rank, world, labelled_share=share)


def order(made: Batches, epoch: int) -> NDArray[np.int64]:
    """Return (steps, B) indices of the samples in the batches of an epoch."""
    return np.array([batch.index.tolist() for batch in made.train(epoch, None)])


@pytest.mark.parametrize("wanted", [CLASSES, 20, 41, SAMPLES - 1])
def test_the_exact_number_of_labels_is_kept_stratified_by_class(
    tmp_path: Path, wanted: int
) -> None:
    file = npz(tmp_path)
    whole, part = opened(tmp_path, file), opened(tmp_path, file, labelled=wanted)
    kept = shown(part)
    assert kept.sum() == wanted and set(part.train.labels[~kept]) == {-1}
    assert np.array_equal(part.train.labels[kept], whole.train.labels[kept]) and np.array_equal(
        part.clean_labels, whole.train.labels
    )
    shares = np.bincount(part.train.labels[kept], minlength=CLASSES) / np.bincount(
        whole.train.labels
    )
    assert np.abs(shares - wanted / SAMPLES).max() <= 1 / np.bincount(whole.train.labels).min()
    assert (
        np.array_equal(part.train.inputs, whole.train.inputs) and part.content == whole.content
    ), "the images are the same"
    for name in ("validation", "test"):
        assert np.array_equal(part.split(name).labels, whole.split(name).labels)


def test_the_labelled_samples_depend_only_on_the_seed(tmp_path: Path) -> None:
    config = Data(name="npz", path=npz(tmp_path), labelled=LABELLED)
    made = {seed: Dataset.open(prepare(config, tmp_path, seed)) for seed in (0, 1)}
    noisy = Dataset.open(prepare(config.model_copy(update={"label_noise": 0.3}), tmp_path, 0))
    again = Dataset.open(prepare(config, tmp_path / "elsewhere", 0))
    assert np.array_equal(shown(made[0]), shown(noisy)) and np.array_equal(
        made[0].train.labels, again.train.labels
    )
    assert identities(made[0].train.inputs[shown(made[0])]) != identities(
        made[1].train.inputs[shown(made[1])]
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.99])
def test_label_noise_affects_only_labelled_samples(tmp_path: Path, share: float) -> None:
    noisy = opened(tmp_path, npz(tmp_path), labelled=LABELLED, label_noise=share)
    kept = shown(noisy)
    assert kept.sum() == LABELLED
    assert (noisy.train.labels[kept] != noisy.clean_labels[kept]).sum() == round(share * LABELLED)
    assert np.array_equal(noisy.clean_labels, opened(tmp_path, npz(tmp_path)).train.labels)


def test_prepared_data_keep_their_folder() -> None:
    """Fingerprints from before `labelled`; others would prepare data and fit the teacher again."""
    from orchestrator.data.prepare import _folder

    store = Path("store")
    assert _folder(Data(), store, 0).name == "d6fd73b803521e33"
    older = Data(label_noise=0.2, limit=Limit(train=400), validation=0.2, labelled_share=0.5)
    assert _folder(older, store, 3).name == "235ac40554067b23"
    changes: list[dict[str, Any]] = [
        {},
        {"labelled": 20},
        {"labelled": 21},
        {"validation_in_training": True},
    ]
    assert len({_folder(Data(**change), store, 0) for change in changes}) == len(changes)


def test_the_summary_has_the_number_of_labelled_samples_if_some_are_unlabelled(
    tmp_path: Path,
) -> None:
    file = npz(tmp_path)
    for change, expected_labelled in (
        ({}, None),
        ({"labelled": 30}, 30),
        ({"labelled": 30, "validation_in_training": True}, 30 + 18),
    ):
        config, store = Data(name="npz", path=file, **change), tmp_path / "store"  # type: ignore[arg-type]
        before = describe(config, store, 0)
        written = read_summary(prepare(config, store, 0))
        assert before == replace(written, sha256={}, augmentation="none")
        assert before.labelled == expected_labelled
        assert before.validation_in_training is config.validation_in_training


@pytest.mark.parametrize("wanted", [SAMPLES, 5000, 3])
def test_an_impossible_number_of_labels_is_refused(tmp_path: Path, wanted: int) -> None:
    config = Data(name="npz", path=npz(tmp_path), labelled=wanted)
    for refuse in (prepare, describe):
        with refused("data.labelled", wanted, (4, SAMPLES - 1)) as refusal:
            refuse(config, tmp_path / "store", 0)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "store").exists()


def test_the_labelled_samples_form_a_separate_data_set(few: Dataset) -> None:
    part, kept = few.labelled(), shown(few)
    assert np.array_equal(part.train.inputs, few.train.inputs[kept]) and np.array_equal(
        part.train.labels, few.train.labels[kept]
    )
    assert (
        np.array_equal(part.clean_labels, few.clean_labels[kept])
        and len(part.clean_labels) == LABELLED
    )
    assert part.validation is few.validation and part.test is few.test and part.mean == few.mean
    assert part.fingerprint != few.fingerprint and part.content != few.content
    assert part.labelled() is part, "all its samples are labelled"


def test_the_fingerprints_depend_on_the_labelled_samples(tmp_path: Path) -> None:
    file = npz(tmp_path)
    several = [
        opened(tmp_path, file, **change).labelled()
        for change in ({"labelled": 20}, {"labelled": 21}, {})
    ]
    assert (
        len({part.content for part in several}) == len({part.fingerprint for part in several}) == 3
    )
    assert opened(tmp_path, file, labelled=20).labelled().content == several[0].content


def test_the_labelled_samples_of_a_folder_form_a_data_set(tmp_path: Path) -> None:
    config = Data(
        name="folder",
        path=folder(tmp_path / "images", ("train", "val", "test")),
        size=16,
        labelled=4,
    )
    files = Dataset.open(prepare(config, tmp_path, 0))
    part = files.labelled()
    assert (
        part.train.inputs.tolist() == files.train.inputs[shown(files)].tolist()
        and len(part.train) == 4
    )
    (batch,) = batches(part, 4).iterate_in_order("train")
    (whole,) = batches(files, 12, share=None).iterate_in_order("train")
    assert torch.equal(batch.inputs, whole.inputs[torch.from_numpy(shown(files))])


def test_all_and_labelled_samples_are_not_confused_in_device_memory(few: Dataset) -> None:
    memory._resident.clear()
    part, kept = few.labelled(), torch.from_numpy(shown(few))
    for dataset in (few, part, few):
        held = memory.images_on_device(dataset, "train", torch.device("cpu"))
        assert torch.equal(
            held,
            torch.from_numpy(np.array(few.train.inputs))[kept if dataset is part else slice(None)],
        )
    memory._resident.clear()


@pytest.mark.parametrize(
    "change", [{}, {"label_noise": 0.4}, {"labelled": LABELLED, "label_noise": 0.5}]
)
def test_the_validation_part_in_training_has_clean_labels_and_comes_last(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    file = npz(tmp_path)
    apart, joined = (
        opened(tmp_path, file, validation_in_training=both, **change) for both in (False, True)
    )
    assert len(joined.train) == SAMPLES + 18
    for mine, its in (
        (joined.train, apart.train),
        (joined.validation, apart.validation),
        (joined.test, apart.test),
    ):
        assert np.array_equal(mine.inputs[: len(its)], its.inputs) and np.array_equal(
            mine.labels[: len(its)], its.labels
        )
    assert np.array_equal(joined.train.inputs[SAMPLES:], apart.validation.inputs)
    assert np.array_equal(joined.train.labels[SAMPLES:], apart.validation.labels)
    assert np.array_equal(
        joined.clean_labels, np.concatenate([apart.clean_labels, apart.validation.labels])
    )
    assert joined.content != apart.content and len(joined.validation) == 18
    assert (joined.mean, joined.std) == (apart.mean, apart.std), (
        "the setting does not change the images of a student"
    )


def test_files_that_are_in_two_parts_are_opened_once(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", ("train", "val", "test"))
    config = Data(name="folder", path=root, size=16, validation_in_training=True)
    joined = Dataset.open(prepare(config, tmp_path, 0))
    assert (
        joined.train.inputs[12:].tolist() == joined.validation.inputs.tolist()
        and len(joined.train) == 24
    )
    (root / "val" / "cat" / "0.png").write_bytes(b"no image")
    with refused(str(root / "val" / "cat" / "0.png")) as refusal:
        prepare(config, tmp_path / "again", 0)
    assert str(refusal.value).startswith("1 of 36 ")


@pytest.mark.parametrize(
    ("size", "share", "workers", "expected"),
    [
        (64, 0.25, 1, 16),
        (64, 0.25, 4, 16),
        (64, 0.001, 4, 4),  # one each
        (64, 0.999, 4, 60),  # never all
        (12, 0.25, 4, 4),
        (10, 0.33, 1, 3),
        (2, 0.5, 1, 1),
    ],
)
def test_labelled_samples_of_a_batch_are_shared_evenly(
    size: int, share: float, workers: int, expected: int
) -> None:
    assert labelled_per_batch(size, share, workers, 1000) == expected


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9])
def test_every_batch_has_the_labelled_share_and_every_unlabelled_sample_comes_once(
    few: Dataset, share: float
) -> None:
    made = batches(few, share=share)
    many = max(round(16 * share), 1)
    found, kept = order(made, 3), shown(few)
    assert made.steps() == len(found) == (SAMPLES - LABELLED) // (16 - many)
    assert (kept[found].sum(axis=1) == many).all()
    hidden = found[~kept[found]]
    assert len(set(hidden.tolist())) == len(hidden) == len(found) * (16 - many)
    for batch in made.train(3, None):
        assert torch.equal(batch.labels, torch.from_numpy(few.train.labels)[batch.index])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_labelled_samples_are_repeated_equally_often(few: Dataset, share: float) -> None:
    """Share 0.9 uses them several times an epoch, 0.1 less than once."""
    made, kept, seen = (
        batches(few, share=share),
        np.flatnonzero(shown(few)).tolist(),
        Counter[int](),
    )
    orders = []
    for epoch in range(5):
        drawn = order(made, epoch)
        orders.append(drawn[np.isin(drawn, kept)].tolist())
        seen.update(orders[-1])
        counts = [seen[place] for place in kept]
        assert max(counts) - min(counts) <= 1, epoch
    assert len({tuple(drawn) for drawn in orders}) == 5, "each round has another order"


def test_an_epoch_depends_only_on_its_seed_and_number(few: Dataset) -> None:
    assert np.array_equal(order(batches(few), 4), order(batches(few), 4))
    for other in (order(batches(few), 5), order(batches(few, seed=1), 4)):
        kept = shown(few)[other]
        mine = order(batches(few), 4)
        assert not np.array_equal(mine[kept], other[kept]) and not np.array_equal(
            mine[~kept], other[~kept]
        )


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_labelled_and_unlabelled_samples_of_the_same_batches(
    few: Dataset, world: int
) -> None:
    kept = shown(few)
    ranks = [order(batches(few, 16, rank, world), 2) for rank in range(world)]
    for whole, *parts in zip(order(batches(few), 2), *ranks, strict=True):
        assert sorted(whole) == sorted(np.concatenate(parts))
        assert {int(kept[part].sum()) for part in parts} == {4 // world} and {
            len(part) for part in parts
        } == {16 // world}


def test_a_labelled_share_has_no_effect_if_all_samples_are_labelled(tmp_path: Path) -> None:
    whole = opened(tmp_path, npz(tmp_path))
    for epoch in range(2):
        expected = np.random.default_rng([0, epoch, 1]).permutation(SAMPLES)[:96].reshape(6, 16)
        assert np.array_equal(order(batches(whole), epoch), expected)
        assert np.array_equal(order(batches(whole, share=None), epoch), expected)


def test_without_a_labelled_share_all_samples_are_drawn_alike(few: Dataset, tmp_path: Path) -> None:
    assert np.array_equal(
        order(batches(few, share=None), 1),
        order(batches(opened(tmp_path, npz(tmp_path)), share=None), 1),
    )


def test_ordered_passes_and_full_blocks_include_unlabelled_samples(few: Dataset) -> None:
    made = batches(few)
    assert torch.cat([batch.index for batch in made.iterate_in_order("train")]).tolist() == list(
        range(SAMPLES)
    )
    assert torch.cat([batch.index for batch in made.full_blocks(None, 0, 1)])[
        :SAMPLES
    ].tolist() == list(range(SAMPLES))


def test_a_blend_with_an_unlabelled_partner_has_the_unlabelled_mark(few: Dataset) -> None:
    views = Views("none", 0, SAMPLES, 1, "mixup")
    partners = views.mixing(0, 8, 8)
    assert partners is not None
    for batch in Batches(few, views, 16, 0, labelled_share=0.25).train(0, 0):
        assert batch.mix is not None
        assert torch.equal(
            batch.mix.labels, torch.from_numpy(few.train.labels)[partners.partner[batch.index]]
        )


@pytest.mark.parametrize(
    ("size", "world", "allowed"),
    [(4, 4, (8, None)), (100, 1, "at most 12 unlabelled samples in a batch")],
)
def test_batches_without_room_for_labelled_and_unlabelled_samples_are_refused(
    tmp_path: Path, size: int, world: int, allowed: object
) -> None:
    most = opened(tmp_path, npz(tmp_path), labelled=90)
    with refused("training.batch_size", size, allowed) as refusal:
        batches(most, size, 0, world)
    assert "\n" not in str(refusal.value)
    batches(most, size, 0, world, share=None)


@pytest.mark.parametrize("share", [None, 0.25])
@pytest.mark.parametrize("count", [1, 7, 40, SAMPLES])
def test_drawn_last_returns_the_last_samples_of_all_ranks(
    few: Dataset, share: float | None, count: int
) -> None:
    """Each sample once, even if it was repeated; fewer if fewer were drawn."""
    alone, ranks = (
        batches(few, share=share),
        [batches(few, rank=rank, world=2, share=share) for rank in (0, 1)],
    )
    for epoch in (0, 3):
        last: list[int] = []
        for sample in order(alone, epoch).ravel()[::-1].tolist():
            if sample not in last:
                last.append(sample)
        for made in (alone, *ranks):
            assert made.drawn_last(epoch, count).tolist() == last[:count]
        assert set(last) == {
            sample for made in ranks for sample in order(made, epoch).ravel().tolist()
        }
