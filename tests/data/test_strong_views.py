"""Test strong views: independence, pairing with the weak view, ranks, files."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import folder
from torch.nn.functional import pad

from orchestrator.config.data_schema import Data
from orchestrator.data import batches as batches_module
from orchestrator.data._streams import Stream, derive_seed, open_stream
from orchestrator.data._transforms import STREAMS, Transforms
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.passes import Inputs
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views

SEED, VIEW, PAD, COUNT = 3, 5, 1, 102
FILL = (9, 8, 7)
STRONG = {"randaugment": {"operations": 2, "magnitude": 9}, "random_erasing": 0.5}


def weak_views(dataset: Dataset, policy: str = "crop_flip", **given: Any) -> Views:
    return Views(policy, SEED, len(dataset.train), PAD, fill=FILL, **given)


def batches(
    dataset: Dataset,
    size: int = 16,
    rank: int = 0,
    world_size: int = 1,
    policy: str = "crop_flip",
    strong: bool = True,
    **given: Any,
) -> Batches:
    views = weak_views(dataset, policy)
    second = views.strong(STRONG) if strong else None
    return Batches(dataset, views, size, 0, rank, world_size, strong=second, **given)


def in_order(passed: list[Inputs]) -> torch.Tensor:
    """Return the strong images, sorted by their samples."""
    strong = [batch.strong for batch in passed if batch.strong is not None]
    assert len(strong) == len(passed)
    order = torch.cat([batch.index for batch in strong]).argsort()
    return torch.cat([batch.inputs for batch in strong])[order]


def test_strong_views_have_an_identity_and_random_numbers_of_their_own(dataset: Dataset) -> None:
    weak = weak_views(dataset, transforms=STRONG)
    strong, before = weak.strong(STRONG), json.dumps(weak.identity())
    assert json.dumps(weak.identity()) == before != json.dumps(strong.identity())
    assert {**strong.identity(), "seed": SEED} == weak.identity()
    assert strong.identity() == weak.strong(STRONG).identity()
    drawn = [views.numbers(view) for views in (weak, strong) for view in range(6)]
    for number, first in enumerate(drawn):
        for second in drawn[number + 1 :]:
            assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.2


def test_the_seed_of_strong_views_is_none_of_the_streams_of_the_weak_ones() -> None:
    seeds = [derive_seed(seed, Stream.STRONG_VIEW) for seed in (*range(100), 2**31 - 1)]
    assert len({*seeds, *range(100)}) == 201 and max(seeds) < 2**32
    first = [
        open_stream(seed, view, stream).random()
        for seed in (SEED, derive_seed(SEED, Stream.STRONG_VIEW))
        for view in range(12)
        for stream in STREAMS.values()
    ]
    assert len(set(first)) == len(first)


def test_a_blended_view_has_no_strong_view(dataset: Dataset) -> None:
    with pytest.raises(AssertionError, match="blended"):
        weak_views(dataset, mix="mixup").strong(STRONG)


@pytest.mark.parametrize("on_device", [False, True])
def test_the_weak_view_does_not_change(dataset: Dataset, on_device: bool) -> None:
    both = batches(dataset, on_device=on_device).train(2, VIEW)
    for pair, alone in zip(both, batches(dataset, strong=False).train(2, VIEW), strict=True):
        assert alone.strong is None and pair.strong is not None
        for part in (pair, pair.strong):
            assert torch.equal(part.index, alone.index) and torch.equal(part.labels, alone.labels)
        assert torch.equal(pair.inputs, alone.inputs)
        assert not torch.equal(pair.inputs, pair.strong.inputs)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_strong_image_is_the_crop_then_the_transforms(dataset: Dataset, on_device: bool) -> None:
    """One sample at a time, from the numbers that the derived seed gives."""
    seed = derive_seed(SEED, Stream.STRONG_VIEW)
    numbers = np.random.default_rng([seed, VIEW]).random((COUNT, 5))
    transforms = Transforms(STRONG, seed, VIEW, COUNT, 8, 8, FILL)
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
    strong = in_order(list(batches(dataset, COUNT, on_device=on_device).train(0, VIEW)))
    for sample in range(COUNT):
        image = torch.from_numpy(dataset.train.inputs[sample].copy())
        vertical, horizontal, flip = numbers[sample, :3]
        top, left = int(vertical * 3), int(horizontal * 3)
        cut = pad(image, (0, 0, PAD, PAD, PAD, PAD))[top : top + 8, left : left + 8]
        cut = cut.flip(1) if flip < 0.5 else cut
        planes = transforms.apply(cut[None], np.array([sample]))[0].permute(2, 0, 1)
        expected = (planes.float() / 255 - mean) / std
        torch.testing.assert_close(strong[sample], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["dataset", "files"])
def test_a_strong_image_depends_on_neither_batch_nor_rank(
    name: str, request: pytest.FixtureRequest
) -> None:
    data: Dataset = request.getfixturevalue(name)
    policy, total = ("crop_flip" if data.root is None else "resized_crop_flip"), len(data.train)
    whole = in_order(list(batches(data, total, policy=policy).train(0, VIEW)))
    parts = [
        batch for rank in range(2) for batch in batches(data, total, rank, 2, policy).train(1, VIEW)
    ]
    assert torch.equal(in_order(parts), whole)
    alone = batches(data, 4, policy=policy).strong
    assert alone is not None
    by_teacher = torch.cat([block.inputs for block in alone.full_blocks(VIEW, 0, 1)])[:total]
    assert torch.equal(by_teacher, whole)


def test_evaluations_have_no_strong_view(dataset: Dataset) -> None:
    both = batches(dataset)
    for passed in (
        both.iterate_in_order("validation"),
        both.draw_validation_batches(0, 1),
        both.full_blocks(VIEW, 0, 1),
    ):
        assert all(batch.strong is None for batch in passed)


def test_closing_the_batches_ends_both_passes(dataset: Dataset) -> None:
    both = batches(dataset)
    running = both.train(0, VIEW)
    assert len(list(islice(running, 2))) == 2
    both.close()
    assert list(running) == []


@pytest.mark.parametrize("policy", ["crop_flip", "resized_crop_flip"])
def test_decoding_processes_and_packed_files_give_the_same_strong_images(
    tmp_path: Path, policy: str
) -> None:
    root = folder(tmp_path / "images", ("train", "val", "test"))
    settings: dict[str, Any] = {"name": "folder", "path": root, "size": 16}
    packed, plain = (
        Dataset.open(prepare(Data(**settings, **pack), tmp_path, 0))
        for pack in ({"pack": True, "pack_size": 44}, {})  # so large that nothing is reduced
    )
    expected = in_order(list(batches(plain, 6, policy=policy).train(0, VIEW)))
    for data, workers in ((plain, 1), (packed, 0)):
        both = batches(data, 6, policy=policy, loader_workers=workers)
        assert torch.equal(in_order(list(both.train(0, VIEW))), expected)
        both.close()


def test_the_shared_memory_of_both_passes_is_counted(
    files: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches_module, "describe_shortage", lambda size, _: str(size))
    alone, both = (batches(files, 4, strong=strong).shortage() for strong in (False, True))
    assert int(both) == 2 * int(alone) == 2 * 4 * 16 * 16 * 3
