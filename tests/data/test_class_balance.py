"""Test balanced draws and the weights of classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import images, npz, opened
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.config.loader import load
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.class_balance import compute_class_weights, draw_balanced
from orchestrator.data.prepare import describe
from orchestrator.data.preprocessing import explain
from orchestrator.data.views import Views
from orchestrator.training.process_cache import open_batches
from tests.refusal import ANY, refused

SIZES = (60, 20, 10, 7)
LABELS = np.repeat(np.arange(len(SIZES)), SIZES)
Make = Callable[..., Batches]


@pytest.fixture
def rare(tmp_path: Path) -> Path:
    """Return an .npz file with classes of `SIZES` training samples, and a validation part."""
    held_out = {"val_images": images(20, 900), "val_labels": np.arange(20) % 4}
    return npz(tmp_path, train_images=images(97), train_labels=LABELS, **held_out)


@pytest.fixture
def make(rare: Path, tmp_path: Path) -> Make:
    dataset = opened(tmp_path, rare)

    def batches(size: int = 8, **settings: Any) -> Batches:
        views = Views.from_config(dataset, Data(), 0)
        return Batches(dataset, views, size, settings.pop("seed", 5), balanced=True, **settings)

    return batches


def drawn(batches: Batches, epoch: int) -> NDArray[np.int64]:
    return np.concatenate([batch.index.numpy() for batch in batches.train(epoch, None)])


@pytest.mark.parametrize("size", [4, 8, 10])
def test_classes_have_equal_counts_in_every_epoch_and_in_total(make: Make, size: int) -> None:
    batches = make(size)
    counts = np.array(
        [np.bincount(LABELS[drawn(batches, epoch)], minlength=4) for epoch in range(5)]
    )
    assert batches.steps() == 97 // size and (counts.sum(axis=1) == 97 // size * size).all()
    assert np.ptp(counts, axis=1).max() <= 1 and np.ptp(counts.sum(axis=0)) <= 1


def test_samples_of_a_class_are_drawn_equally_often(make: Make) -> None:
    batches = make(8)
    order = np.concatenate([drawn(batches, epoch) for epoch in range(7)])
    counts = np.bincount(order, minlength=97)
    for label in range(4):
        assert np.ptp(counts[label == LABELS]) <= 1
    expected = counts.mean() * batches.rates()
    assert batches.rates().mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(counts, expected, atol=1.01)


def test_draws_depend_on_seed_and_epoch_alone(make: Make) -> None:
    one, same, other = make(8), make(8), make(8, seed=6)
    assert np.array_equal(drawn(one, 3), drawn(same, 3))
    assert not np.array_equal(drawn(one, 3), drawn(one, 2))
    assert not np.array_equal(drawn(one, 3), drawn(other, 3))
    assert np.ptp(LABELS[drawn(one, 0)][:24]) > 0, "classes are mixed within an epoch"


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_global_batches(make: Make, world_size: int) -> None:
    whole = drawn(make(8), 1).reshape(-1, 8)
    parts = [
        drawn(make(8, rank=rank, world_size=world_size), 1).reshape(len(whole), -1)
        for rank in range(world_size)
    ]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_the_last_draws_are_distinct_and_latest_first(make: Make) -> None:
    order = drawn(make(8), 2)[::-1]
    latest = order[np.sort(np.unique(order, return_index=True)[1])]
    assert make(8).drawn_last(2, 20).tolist() == latest[:20].tolist()


def test_a_class_without_samples_is_left_out() -> None:
    labels = np.array([0, 0, 2, 2, 2])
    counts = np.bincount(labels[draw_balanced(labels, 10, 0, 0)], minlength=3)
    assert counts.tolist() == [5, 0, 5]


def test_balanced_weights_give_every_class_the_same_total_and_samples_the_mean_one() -> None:
    weights = compute_class_weights(Data(class_weights="balanced"), SIZES)
    assert weights is not None
    totals = weights * torch.tensor(SIZES)
    torch.testing.assert_close(totals, torch.full((4,), 97 / 4))
    assert float(totals.sum() / 97) == pytest.approx(1)
    given = compute_class_weights(Data(class_weights=(1, 2, 3, 4)), SIZES)
    assert given is not None and given.tolist() == [1, 2, 3, 4]
    assert compute_class_weights(Data(), SIZES) is None


def test_labels_with_noise_determine_the_balance(rare: Path, tmp_path: Path) -> None:
    noisy = opened(tmp_path, rare, label_noise=0.3)
    batches = Batches(noisy, Views.from_config(noisy, Data(), 0), 8, 0, balanced=True)
    assert batches.class_sizes == np.bincount(noisy.train.labels, minlength=4).tolist()
    counts = np.bincount(noisy.train.labels[drawn(batches, 0)], minlength=4)
    assert np.ptp(counts) <= 1 and batches.class_sizes != list(SIZES)


def test_the_plan_states_weights_and_draws(rare: Path, tmp_path: Path) -> None:
    data = Data(name="npz", path=rare, class_weights="balanced")
    lines = explain(data, describe(data, tmp_path, 0))
    assert "0.404 (class 0) to 3.46 (class 3)" in lines["class weights"]
    assert "sampling" not in lines
    data = Data(name="npz", path=rare, sampling="balanced")
    lines = explain(data, describe(data, tmp_path, 0))
    assert "24.25 draws per class and epoch" in lines["sampling"] and "class weights" not in lines
    assert "3.46 for a sample of the smallest" in lines["sampling"]
    data = Data(name="npz", path=rare, class_weights=(2.0,) * 4)
    lines = explain(data, describe(data, tmp_path, 0))
    assert lines["class weights"].startswith("given, the same for all classes")


def test_the_settings_reach_the_batches_but_no_precomputation(specify: Any) -> None:
    spec = specify("data.sampling=balanced", "training.batch_size=32")
    fill = spec.model_copy(update={"role": "fill"})
    balanced = [open_batches(each, TrialContext()).balanced for each in (spec, fill)]
    assert balanced == [True, False]


@pytest.mark.parametrize(
    "value", [[], [1, 0], [1, -2], [1, "a"], [True, 1], "even", 3, [1, float("inf")]]
)
def test_weights_that_are_no_positive_numbers_are_refused(value: Any) -> None:
    with refused("data.class_weights", ANY, "balanced, or one positive number for each class"):
        load(None, [f"data.class_weights={value}"])


@pytest.mark.parametrize("weights", [(1.0,), (1.0,) * 5])
def test_another_number_of_weights_is_refused(weights: tuple[float, ...]) -> None:
    with refused("data.class_weights", weights, "4 weights"):
        compute_class_weights(Data(class_weights=weights), SIZES)


@pytest.mark.parametrize(
    "pair", ["data.labelled=40", "data.mixing=mixup", "data.class_weights=balanced"]
)
def test_balanced_draws_refuse_what_they_cannot_balance(pair: str) -> None:
    with refused("data.sampling", "balanced", ("uniform",)):
        load(None, ["data.sampling=balanced", pair])


def test_prepared_data_do_not_depend_on_the_balance(rare: Path, tmp_path: Path) -> None:
    prints = {
        describe(Data(name="npz", path=rare, **change), tmp_path, 0).fingerprint
        for change in ({}, {"sampling": "balanced"}, {"class_weights": "balanced"})
    }
    assert len(prints) == 1
