"""Test batches: order, ranks, normalisation, images from files."""

import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_made import folder, npz, opened
from PIL import Image

from orchestrator.config.data_schema import Data
from orchestrator.data._augmentation import FLIP, draw_crop_boxes
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.passes import Inputs
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views
from tests.refusal import refused

FASHION = Path(
    os.environ.get("FASHION_MNIST", Path(__file__).parents[3] / "shared" / "data" / "FashionMNIST")
)


def views(dataset: Dataset) -> Views:
    """Return crops and flips for arrays, and resized crops for files."""
    return Views.from_config(
        dataset, Data(augmentation="crop_flip" if dataset.root is None else "auto"), 0
    )


def batches(
    dataset: Dataset,
    size: int = 16,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    workers: int = 0,
) -> Batches:
    return Batches(dataset, views(dataset), size, seed, rank, world_size, loader_workers=workers)


def indices(passed: list[Inputs]) -> list[int]:
    return torch.cat([batch.index for batch in passed]).tolist()


def test_an_epoch_uses_every_sample_once_and_drops_the_incomplete_batch(dataset: Dataset) -> None:
    taken = indices(list(batches(dataset).train(0, None)))
    assert len(dataset.train) == 102 and len(taken) == 96 == len(set(taken))
    assert batches(dataset).steps() == 6
    assert sorted(indices(list(batches(dataset, 102).train(0, None)))) == list(range(102))


def test_the_order_depends_only_on_seed_and_epoch(dataset: Dataset) -> None:
    first = indices(list(batches(dataset).train(0, 0)))
    assert indices(list(batches(dataset).train(0, 7))) == first
    assert indices(list(batches(dataset).train(1, 0))) != first
    assert indices(list(batches(dataset, seed=1).train(0, 0))) != first


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_share_each_global_batch(dataset: Dataset, world_size: int) -> None:
    ranks = [list(batches(dataset, 16, rank, world_size).train(2, 3)) for rank in range(world_size)]
    for whole, *parts in zip(batches(dataset).train(2, 3), *ranks, strict=True):
        assert torch.equal(whole.index, torch.cat([part.index for part in parts]))
        assert torch.equal(whole.inputs, torch.cat([part.inputs for part in parts]))
        assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_ordered_pass_yields_every_sample_in_order(
    dataset: Dataset, split: str, world_size: int
) -> None:
    passes = [
        list(batches(dataset, 15, rank, world_size).iterate_in_order(split, None))  # type: ignore[arg-type]
        for rank in range(world_size)
    ]
    taken = [batch for one in passes for batch in one]
    assert indices(taken) == list(range(len(dataset.split(split))))
    assert torch.equal(
        torch.cat([batch.labels for batch in taken]), torch.from_numpy(dataset.split(split).labels)
    )
    assert max(len(one) for one in passes) - min(len(one) for one in passes) <= 1


def test_training_and_an_ordered_pass_yield_the_same_images_of_a_view(dataset: Dataset) -> None:
    ordered = torch.cat(
        [batch.inputs for batch in batches(dataset, 20).iterate_in_order("train", 5)]
    )
    for batch in batches(dataset).train(1, 5):
        assert torch.equal(batch.inputs, ordered[batch.index])


@pytest.mark.parametrize("world_size", [1, 2, 4, 5])
def test_full_blocks_of_all_ranks_cover_the_training_part_in_order(
    dataset: Dataset, world_size: int
) -> None:
    ranks = [
        list(batches(dataset, 20).full_blocks(5, rank, world_size)) for rank in range(world_size)
    ]
    assert {len(one) for one in ranks} == {-(-6 // world_size)}, "102 samples are 6 blocks of 20"
    dealt = [block for turn in zip(*ranks, strict=True) for block in turn]
    assert all(len(block.index) == 20 for block in dealt)
    assert indices(dealt[:6]) == [*range(102), *range(18)]
    assert all(torch.equal(block.index, dealt[5].index) for block in dealt[6:]), (
        "a rank without a block repeats the last one"
    )


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("resident", [False, True])
def test_full_blocks_yield_the_training_images(dataset: Dataset, mix: str, resident: bool) -> None:
    made = Batches(dataset, Views("crop_flip", 0, 102, 1, mix), 20, 0, 1, 2, on_device=resident)
    seen = {
        index: picture
        for batch in made.full_blocks(5, 0, 1)
        for index, picture in zip(batch.index.tolist(), batch.inputs, strict=True)
    }
    taken = [
        (index, picture)
        for batch in made.train(1, 5)
        for index, picture in zip(batch.index.tolist(), batch.inputs, strict=True)
    ]
    known = [(index, picture) for index, picture in taken if index in seen]
    assert len(known) > 10 and all(torch.equal(seen[index], picture) for index, picture in known)


def test_full_blocks_of_a_divisible_part_repeat_nothing(dataset: Dataset) -> None:
    assert indices(list(batches(dataset, 51).full_blocks(None, 0, 1))) == list(range(102))


def held_out(
    dataset: Dataset, epoch: int, count: int, size: int = 16, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    return [
        batch.index.tolist()
        for batch in batches(dataset, size, rank, world_size).draw_validation_batches(epoch, count)
    ]


@pytest.mark.parametrize(("size", "each"), [(4, 4), (16, 16), (60, 18)])
def test_held_out_batches_come_from_the_validation_part_and_are_not_larger(
    dataset: Dataset, size: int, each: int
) -> None:
    assert len(dataset.validation) == 18
    taken = list(batches(dataset, size).draw_validation_batches(0, 7))
    assert [len(batch.index) for batch in taken] == [each] * 7
    whole = next(batches(dataset, 18).iterate_in_order("validation"))
    for batch in taken:
        assert torch.equal(batch.inputs, whole.inputs[batch.index]) and torch.equal(
            batch.labels, whole.labels[batch.index]
        )
        assert batch.mix is None


@pytest.mark.parametrize("size", [4, 7, 16, 60])
def test_held_out_batches_start_a_new_permutation_after_all_samples(
    dataset: Dataset, size: int
) -> None:
    taken = indices(list(batches(dataset, size).draw_validation_batches(3, 20)))
    for first in range(0, len(taken) - 17, 18):
        assert sorted(taken[first : first + 18]) == list(range(18))
    rest = taken[len(taken) // 18 * 18 :]
    assert len(set(rest)) == len(rest)
    assert taken[:18] != taken[18:36], "the second round has another order"


def test_the_held_out_order_depends_only_on_seed_and_epoch(dataset: Dataset) -> None:
    assert held_out(dataset, 1, 3) == held_out(dataset, 1, 3) == held_out(dataset, 1, 9)[:3]
    assert held_out(dataset, 1, 3) != held_out(dataset, 2, 3)
    other = [
        batch.index.tolist() for batch in batches(dataset, seed=1).draw_validation_batches(1, 3)
    ]
    assert held_out(dataset, 1, 3) != other
    assert held_out(dataset, 1, 1)[0] != next(iter(batches(dataset).train(1, None))).index.tolist()


@pytest.mark.parametrize(("size", "world_size"), [(16, 2), (16, 4), (60, 3), (4, 4)])
def test_the_ranks_share_each_held_out_batch(dataset: Dataset, size: int, world_size: int) -> None:
    """A single worker sees the same batches, if the ranks can share the samples evenly."""
    ranks = [held_out(dataset, 2, 5, size, rank, world_size) for rank in range(world_size)]
    together = [[index for part in parts for index in part] for parts in zip(*ranks, strict=True)]
    assert together == held_out(dataset, 2, 5, size)
    assert all(len(set(batch)) == len(batch) for batch in together[:1])


def test_a_part_smaller_than_the_ranks_still_gives_each_of_them_two_samples(tmp_path: Path) -> None:
    small = opened(tmp_path, npz(tmp_path), limit={"validation": 4})
    assert [[len(batch) for batch in held_out(small, 0, 6, 16, rank, 8)] for rank in range(8)] == [
        [2] * 6
    ] * 8


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 17]), (5, [0, 4, 8, 12, 17]), (18, list(range(18))), (99, list(range(18)))],
)
def test_spaced_samples_are_evenly_spaced_on_every_rank(
    dataset: Dataset, count: int, expected: list[int]
) -> None:
    for rank in range(2):
        assert (
            indices(list(batches(dataset, 8, rank, 2).spaced_samples("validation", count)))
            == expected
        )


def test_inputs_are_the_normalised_images(dataset: Dataset) -> None:
    seen = torch.cat([batch.inputs for batch in batches(dataset).iterate_in_order("train")])
    expected = (np.asarray(dataset.train.inputs) / 255 - np.array(dataset.mean)) / np.array(
        dataset.std
    )
    assert seen.dtype == torch.float32 and seen.is_contiguous()
    assert np.allclose(seen.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_channels_last_changes_only_the_memory_layout(dataset: Dataset) -> None:
    last = Batches(dataset, views(dataset), 16, 0, channels_last=True)
    for one, other in zip(last.train(0, 1), batches(dataset).train(0, 1), strict=True):
        assert one.inputs.is_contiguous(memory_format=torch.channels_last) and torch.equal(
            one.inputs, other.inputs
        )


def test_the_index_stays_on_the_host(dataset: Dataset) -> None:
    """A lookup by the index must not wait for the device."""
    away = Batches(dataset, views(dataset), 16, 0, device=torch.device("meta"))
    for batch, near in zip(away.train(0, 1), batches(dataset).train(0, 1), strict=True):
        assert (
            batch.inputs.is_meta and batch.labels.is_meta and torch.equal(batch.index, near.index)
        )


def test_digits_are_normalised_to_mean_zero_and_deviation_one(tmp_path: Path) -> None:
    digits = Dataset.open(prepare(Data(), tmp_path, 0))
    seen = torch.cat([batch.inputs for batch in batches(digits, 64).iterate_in_order("train")])
    assert abs(float(seen.mean())) < 1e-4 and abs(float(seen.std()) - 1) < 1e-3


def test_a_batch_size_that_is_no_multiple_of_the_workers_is_refused(dataset: Dataset) -> None:
    with refused("training.batch_size", 15, "a multiple of 2"):
        batches(dataset, 15, 0, 2)


def test_fewer_samples_than_a_batch_are_refused_with_the_numbers(dataset: Dataset) -> None:
    with refused("training.batch_size", 104, (2, 102)) as refusal:
        batches(dataset, 104, 0, 2)
    assert "2 x 52 = 104" in str(refusal.value)


def test_decoded_files_do_not_depend_on_the_number_of_workers(files: Dataset) -> None:
    alone, helped = (list(batches(files, 4, workers=workers).train(1, 2)) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.inputs, other.inputs) and torch.equal(one.labels, other.labels)
    ordered = torch.cat([batch.inputs for batch in batches(files, 5).iterate_in_order("train", 2)])
    assert all(torch.equal(batch.inputs, ordered[batch.index]) for batch in alone)
    assert ordered.shape == (12, 3, 16, 16)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_over_files_keeps_the_random_state_of_the_trial(
    files: Dataset, workers: int
) -> None:
    before = torch.get_rng_state()
    list(batches(files, 4, workers=workers).train(0, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_files_keep_their_parts_and_labels(files: Dataset) -> None:
    assert files.classes == ("cat", "dog") and files.shape == (3, 16, 16)
    for name, there in (("train", "train"), ("validation", "val"), ("test", "test")):
        paths = [Path(os.fsdecode(path)) for path in files.split(name).inputs]
        assert [path.parts[:2] for path in paths] == [
            (there, files.classes[label]) for label in files.split(name).labels
        ]
        assert len(set(paths)) == 12


def test_a_folder_without_test_splits_off_a_validation_part(tmp_path: Path) -> None:
    config = Data(
        name="folder", path=folder(tmp_path / "images", ("train", "val")), size=16, validation=0.34
    )
    prepared = Dataset.open(prepare(config, tmp_path, 0))
    assert all(path.startswith(b"val/") for path in prepared.test.inputs)
    assert not set(prepared.validation.inputs.tolist()) & set(prepared.train.inputs.tolist())
    assert np.bincount(prepared.validation.labels).tolist() == [2, 2]


def test_views_of_files_differ_and_the_clean_view_is_the_middle(files: Dataset) -> None:
    first, second, clean = (
        torch.cat([b.inputs for b in batches(files, 4).iterate_in_order("train", view)])
        for view in (0, 1, None)
    )
    assert not torch.equal(first, second) and not torch.equal(first, clean)
    assert files.root is not None
    image = Image.open(files.root / os.fsdecode(files.train.inputs[0]))
    side = 7 / 8 * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    middle = image.resize(
        (16, 16), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    expected = (np.asarray(middle) / 255 - np.array(files.mean)) / np.array(files.std)
    assert np.allclose(clean[0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_a_file_is_cropped_by_the_random_numbers_of_its_index(files: Dataset) -> None:
    seen = torch.cat(
        [batch.inputs for batch in batches(files, 4).iterate_in_order("train", 3)]
    ).permute(0, 2, 3, 1)
    pixels = 255 * (seen * torch.tensor(files.std) + torch.tensor(files.mean))
    assert files.root is not None
    for index, row in enumerate(views(files).numbers(3)):
        image = Image.open(files.root / os.fsdecode(files.train.inputs[index]))
        box = draw_crop_boxes(row[None], image.height, image.width, 0.08)[0]
        cut = np.asarray(
            image.resize((16, 16), Image.Resampling.BILINEAR, box=(box[0], box[1], box[2], box[3]))
        )
        assert (
            np.abs(pixels[index].numpy() - (cut[:, ::-1] if row[FLIP] < 0.5 else cut)).max() < 0.01
        )


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_the_error_names_a_damaged_image(
    files: Dataset, workers: int, content: bytes | None
) -> None:
    assert files.root is not None
    path = files.root / os.fsdecode(files.train.inputs[3])
    path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    with refused(str(path), allowed="an image that can be decoded") as refusal:
        list(batches(files, 4, workers=workers).train(0, 0))
    assert "\n" not in str(refusal.value)


def test_close_ends_an_unfinished_pass(files: Dataset) -> None:
    running = batches(files, 4, workers=1)
    epoch = running.train(0, 0)
    next(epoch)
    running.close()
    assert list(epoch) == []
    assert len(list(running.train(0, 0))) == 3


def test_fashion_mnist_is_read_from_its_files(tmp_path: Path) -> None:
    if not (FASHION / "raw").is_dir():
        pytest.skip(
            f"no FashionMNIST at {FASHION}: set FASHION_MNIST to the folder that holds raw/"
        )
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (FASHION / "raw").glob("*.gz"):
        with gzip.open(file) as packed, (raw / file.stem).open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    fashion = Dataset.open(prepare(Data(name="FashionMNIST", path=tmp_path), tmp_path / "store", 0))
    assert (len(fashion.train), len(fashion.validation), len(fashion.test)) == (51000, 9000, 10000)
    assert fashion.shape == (1, 28, 28) and fashion.classes[9] == "Ankle boot"
    assert fashion.mean[0] == pytest.approx(0.286, abs=2e-3) and fashion.std[0] == pytest.approx(
        0.353, abs=2e-3
    )
    assert next(iter(batches(fashion, 128).train(0, 0))).inputs.shape == (128, 1, 28, 28)
