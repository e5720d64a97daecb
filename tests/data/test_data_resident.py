"""Test data on the device: the same batches, no repeated reads, and a limit."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import folder, npz, opened

from orchestrator.config.data_schema import Data
from orchestrator.data import _image_source, memory
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset, Split
from orchestrator.data.memory import fits_on_device
from orchestrator.data.passes import Inputs
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views

POLICIES = ["none", "crop", "crop_flip", "resized_crop_flip"]
MIXES = ["none", "mixup", "cutmix"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    memory._resident.clear()
    yield
    memory._resident.clear()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return opened(tmp_path, npz(tmp_path))


def batches(
    dataset: Dataset, resident: bool, policy: str = "crop_flip", mix: str = "none", **given: Any
) -> Batches:
    views = Views(policy, 0, len(dataset.train), 1, mix)
    return Batches(dataset, views, 16, 0, on_device=resident, **given)


def every_pass(made: Batches) -> Iterator[Inputs]:
    parts = (
        made.iterate_in_order("validation"),
        made.iterate_in_order("test"),
        made.iterate_in_order("train"),
        made.iterate_in_order("train", 2),
    )
    return chain(made.train(1, 2), made.train(1, None), made.full_blocks(2, 0, 1), *parts)


def tensors(batch: Inputs) -> list[torch.Tensor]:
    return [batch.index, batch.inputs, batch.labels, *(batch.mix or ())]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_resident_data_give_the_same_bits(
    dataset: Dataset, policy: str, mix: str, channels_last: bool
) -> None:
    near, mapped = (
        batches(dataset, resident, policy, mix, channels_last=channels_last)
        for resident in (True, False)
    )
    for one, other in zip(every_pass(near), every_pass(mapped), strict=True):
        assert (one.mix is None) == (other.mix is None)
        for mine, its in zip(tensors(one), tensors(other), strict=True):
            assert torch.equal(mine, its) and mine.stride() == its.stride()


def unreadable(dataset: Dataset) -> Dataset:
    """Return the same data with images that cannot be read."""

    class Gone:
        nbytes = 0

        def __array__(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("the images were read again")

        def __getitem__(self, _: Any) -> Any:
            raise AssertionError("the images were read again")

    def emptied(split: Split) -> Split:
        return Split(Gone(), split.labels)  # type: ignore[arg-type]

    return replace(
        dataset,
        train=emptied(dataset.train),
        validation=emptied(dataset.validation),
        test=emptied(dataset.test),
    )


def test_images_are_copied_to_the_device_once_per_process(dataset: Dataset) -> None:
    seen = [batch.inputs for batch in every_pass(batches(dataset, True))]
    for again, batch in zip(seen, every_pass(batches(unreadable(dataset), True)), strict=True):
        assert torch.equal(again, batch.inputs)
    with pytest.raises(AssertionError, match="read again"):
        next(iter(batches(unreadable(dataset), False).train(0, 0)))


def test_only_one_data_set_is_resident_at_a_time(dataset: Dataset) -> None:
    list(every_pass(batches(dataset, True)))
    assert {key[:2] for key in memory._resident} == {
        (dataset.fingerprint, part) for part in ("train", "validation", "test")
    }
    list(batches(replace(dataset, fingerprint="other"), True).iterate_in_order("test"))
    assert {key[:2] for key in memory._resident} == {("other", "test")}


def test_a_copy_in_chunks_is_complete(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CHUNK", 10)
    assert np.array_equal(
        memory.images_on_device(dataset, "train", CPU).numpy(), dataset.train.inputs
    )


def test_mapped_data_are_not_copied_as_a_whole(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_copy_images", lambda *_: pytest.fail("the whole part was copied"))
    list(every_pass(batches(dataset, False)))
    assert not memory._resident


def test_batches_of_resident_data_are_entirely_on_the_device(dataset: Dataset) -> None:
    """The meta device stands for a device other than the host."""
    away = batches(dataset, True, mix="cutmix", device=torch.device("meta"))
    for batch in away.train(0, 1):
        assert all(tensor.is_meta for tensor in tensors(batch)) and len(tensors(batch)) == 5


def test_folder_data_are_decoded_even_if_on_device_is_set(tmp_path: Path) -> None:
    config = Data(
        name="folder", path=folder(tmp_path / "images", ("train", "val", "test")), size=16
    )
    files = Dataset.open(prepare(config, tmp_path, 0))
    for near, mapped in zip(
        *(
            Batches(files, Views("crop", 0, 12, 2), 4, 0, on_device=r).train(0, 1)
            for r in (True, False)
        ),
        strict=True,
    ):
        assert torch.equal(near.inputs, mapped.inputs) and torch.equal(near.index, mapped.index)
    assert not memory._resident
    assert not fits_on_device(files, torch.device("cuda"))


@pytest.mark.parametrize(("free", "fits"), [(4, True), (3.9, False)])
def test_resident_data_may_take_a_quarter_of_the_free_memory(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, free: float, fits: bool
) -> None:
    size = sum(dataset.split(name).inputs.nbytes for name in ("train", "validation", "test"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * size), 10**12))
    assert fits_on_device(dataset, torch.device("cuda", 0)) == fits
    assert not fits_on_device(dataset, CPU)


def test_data_that_are_already_resident_fit(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They use free memory themselves; the next trial must not move them to the host for that."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 10**12))
    device = torch.device("cuda", 0)
    assert not fits_on_device(dataset, device)
    memory._resident[dataset.fingerprint, "train", device] = torch.empty(0)
    assert fits_on_device(dataset, device)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@gpu
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mix", MIXES)
def test_a_resident_pass_never_waits_for_the_gpu(dataset: Dataset, policy: str, mix: str) -> None:
    device = torch.device("cuda", 0)
    near = batches(dataset, True, policy, mix, device=device)
    list(every_pass(near))
    torch.cuda.set_sync_debug_mode("error")
    try:
        passed = list(near.train(0, 1))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(tensor.device == device for batch in passed for tensor in tensors(batch))


@gpu
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mix", MIXES)
def test_a_gpu_gets_the_same_images_with_and_without_residence(
    dataset: Dataset, policy: str, mix: str
) -> None:
    device = torch.device("cuda", 0)
    near, sent = (
        batches(dataset, resident, policy, mix, device=device) for resident in (True, False)
    )
    for one, other in zip(every_pass(near), every_pass(sent), strict=True):
        assert one.index.device == device and other.index.device == CPU
        assert all(
            torch.equal(mine.cpu(), its.cpu())
            for mine, its in zip(tensors(one), tensors(other), strict=True)
        )


@pytest.mark.parametrize("policy", ["none", "crop_flip"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("resident", [False, True])
def test_small_images_kept_in_memory_give_the_same_bits(
    dataset: Dataset,
    policy: str,
    channels_last: bool,
    resident: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = batches(dataset, resident, policy, channels_last=channels_last)
    monkeypatch.setattr(_image_source, "SMALL_BYTES", 0)
    mapped = batches(dataset, resident, policy, channels_last=channels_last)
    assert kept.source.keeps_normalised and not mapped.source.keeps_normalised
    for one, other in zip(every_pass(kept), every_pass(mapped), strict=True):
        for mine, its in zip(tensors(one), tensors(other), strict=True):
            assert torch.equal(mine, its) and mine.stride() == its.stride()


def test_kept_images_are_those_of_all_parts_up_to_a_size(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = sum(len(dataset.split(part)) for part in ("train", "validation", "test"))
    size = samples * math.prod(dataset.shape) * 4
    for limit, kept in ((size, True), (size - 1, False)):
        monkeypatch.setattr(_image_source, "SMALL_BYTES", limit)
        assert batches(dataset, False).source.keeps_normalised == kept


def test_a_change_of_a_batch_does_not_change_the_images_in_memory(dataset: Dataset) -> None:
    made = batches(dataset, False, "none")
    first = next(made.iterate_in_order("validation"))
    expected = first.inputs.clone()
    first.inputs.zero_()
    assert torch.equal(next(made.iterate_in_order("validation")).inputs, expected)
