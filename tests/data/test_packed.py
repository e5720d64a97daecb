"""Test packed images: their pixels, crops, identity, reuse, and refusals."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import folder, npz
from PIL import Image

from orchestrator.config.data_schema import Data
from orchestrator.config.loader import load
from orchestrator.core.errors import PreflightError
from orchestrator.data import _image_check
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset, read_summary
from orchestrator.data.decoding import ORIENTATION, decode_image
from orchestrator.data.packed import PIXELS_FILE, PackWriter, estimate_bytes, packed_size
from orchestrator.data.prepare import describe, list_notes, prepare
from orchestrator.data.views import Views
from tests.refusal import refused

PARTS = ("train", "val", "test")


def config(root: Path, **settings: Any) -> Data:
    return Data.model_validate(
        {"name": "folder", "path": root, "size": 16, "pack": True} | settings
    )


def opened(tmp_path: Path, root: Path, **settings: Any) -> Dataset:
    return Dataset.open(prepare(config(root, **settings), tmp_path / "store", 0))


def inputs(dataset: Dataset, part: Any, view: int | None = None, **given: Any) -> torch.Tensor:
    policy = given.pop("policy", "resized_crop_flip")
    views = Views(policy, 0, len(dataset.train), 1)
    batches = Batches(dataset, views, 4, 0, **given)
    return torch.cat([batch.inputs for batch in batches.iterate_in_order(part, view)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path / "images", PARTS)


def test_packed_images_are_the_files_reduced_to_one_shorter_side(
    tmp_path: Path, root: Path
) -> None:
    data = opened(tmp_path, root, pack_size=24)
    assert data.packed is not None and data.root is not None
    sides = []
    for part in PARTS:
        for path in data.split({"val": "validation"}.get(part, part)).inputs:
            image = decode_image(data.root / os.fsdecode(bytes(path)), 3).image
            scale = min(24 / min(image.size), 1)
            size = (round(image.width * scale), round(image.height * scale))
            expected = image.resize(size, Image.Resampling.BILINEAR)
            packed = data.packed.read(bytes(path))
            assert np.array_equal(packed, np.asarray(expected))
            sides.append(min(packed.shape[:2]))
    assert set(sides) == {20, 24}  # images with a side of 20 are smaller, and stay as they are


def test_packed_images_that_are_not_reduced_give_the_views_of_the_files(
    tmp_path: Path, root: Path
) -> None:
    packed, files = (
        opened(tmp_path, root, pack=pack, pack_size=size)
        for pack, size in ((True, 44), (False, None))
    )
    assert packed.packed is not None and files.packed is None
    for part, view in (("train", 3), ("train", None), ("validation", None), ("test", None)):
        for workers in (0, 1):
            assert torch.equal(
                inputs(packed, part, view, loader_workers=workers), inputs(files, part, view)
            )
    assert torch.equal(
        inputs(packed, "train", 1, policy="crop"), inputs(files, "train", 1, policy="crop")
    )


def test_the_default_size_makes_the_clean_view_the_middle_of_the_packed_image(
    tmp_path: Path,
) -> None:
    root = folder(tmp_path / "images", PARTS, sizes=(20, 30, 40))
    data = opened(tmp_path, root, size=14)
    summary = read_summary(tmp_path / "store" / "data" / data.fingerprint)
    assert summary.packed_side == 16 == config(root, size=14).packed_side
    assert config(root, size=224).packed_side == 256
    assert data.packed is not None
    compared = 0
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    for path, image in zip(data.test.inputs, inputs(data, "test"), strict=True):
        packed = data.packed.read(bytes(path))
        if packed.shape[0] % 2 or packed.shape[1] % 2:
            continue  # the middle lies between two pixels
        compared += 1
        top, left = ((side - 14) // 2 for side in packed.shape[:2])
        middle = torch.tensor(packed[top : top + 14, left : left + 14]).permute(2, 0, 1)
        assert torch.equal(image, (middle.float() - mean) / std)
    assert compared == 8


def test_packing_changes_every_identity_and_is_reused(tmp_path: Path, root: Path) -> None:
    notes: list[str] = []
    first = prepare(config(root), tmp_path / "store", 0, notes.append)
    assert len(notes) == 1 and notes[0].startswith("packing 36 images")
    assert prepare(config(root), tmp_path / "store", 0, notes.append) == first and len(notes) == 1
    lines = list_notes(config(root), describe(config(root), tmp_path / "store", 0))
    assert "19 pixels" in lines["packed"]
    variants = [
        Dataset.open(prepare(changed, tmp_path / "store", 0))
        for changed in (config(root), config(root, pack=False), config(root, pack_size=30))
    ]
    assert len({each.fingerprint for each in variants}) == 3
    assert len({each.content for each in variants}) == 3
    image = root / "train" / "cat" / "0.png"
    Image.new("RGB", (30, 30), (1, 2, 3)).save(image)
    changed = Dataset.open(prepare(config(root), tmp_path / "store", 0))
    assert changed.packed is not None and changed.fingerprint != first.name
    assert (changed.packed.read(b"train/cat/0.png") == [1, 2, 3]).all()


def test_data_that_are_not_packed_keep_their_record(tmp_path: Path, root: Path) -> None:
    target = prepare(config(root, pack=False), tmp_path / "store", 0)
    assert "packed_side" not in json.loads((target / "data.json").read_text())
    assert not (target / PIXELS_FILE).exists()


def test_a_damaged_pack_is_set_aside_and_written_again(tmp_path: Path, root: Path) -> None:
    target = prepare(config(root), tmp_path / "store", 0)
    before = (target / PIXELS_FILE).read_bytes()
    (target / PIXELS_FILE).write_bytes(before[:-1])
    assert prepare(config(root), tmp_path / "store", 0) == target
    assert (target / PIXELS_FILE).read_bytes() == before


def test_packed_images_are_mapped_again_in_another_process(tmp_path: Path, root: Path) -> None:
    packed = opened(tmp_path, root).packed
    assert packed is not None
    kind, arguments = packed.__reduce__()  # what is sent
    again = kind(*arguments)
    assert np.array_equal(again.read(b"test/dog/1.png"), packed.read(b"test/dog/1.png"))


def test_damaged_files_are_named_and_nothing_is_left(tmp_path: Path, root: Path) -> None:
    damaged = root / "train" / "dog" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with refused(str(damaged)):
        prepare(config(root), tmp_path / "store", 0)
    assert not list((tmp_path / "store" / "data").iterdir())


def test_a_disk_that_is_too_small_is_refused_before_decoding(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_image_check, "free_bytes", lambda _: 16 * 2**20)
    monkeypatch.setattr(_image_check, "_decode_all", lambda *_: pytest.fail("decoded"))
    with refused("data.pack", True, (False,), error=PreflightError):
        prepare(config(root), tmp_path / "store", 0)


def test_a_full_disk_leaves_no_pack(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(PackWriter, "add", full)
    with pytest.raises(PreflightError):
        prepare(config(root), tmp_path / "store", 0)
    assert not list((tmp_path / "store" / "data").iterdir())


def test_the_estimate_is_exact_for_few_files(tmp_path: Path, root: Path) -> None:
    data = opened(tmp_path, root)
    assert data.packed is not None and data.root is not None
    paths = [bytes(path) for path in data.packed.paths]
    assert estimate_bytes(data.root, paths, 19) == len(data.packed.pixels)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (500, 375, (341, 256)),
        (375, 500, (256, 341)),
        (100, 300, (100, 300)),
        (256, 256, (256, 256)),
    ],
)
def test_packed_sizes_keep_the_aspect(width: int, height: int, expected: tuple[int, int]) -> None:
    assert packed_size(width, height, 256) == expected


def test_large_jpeg_files_are_reduced_while_they_are_decoded(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    large = coarse.resize((640, 480), Image.Resampling.BICUBIC)
    file = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    large.save(file, quality=95, exif=exif)
    whole, notes = decode_image(file, 3)
    reduced, reduced_notes = decode_image(file, 3, 100)
    assert whole.size == (480, 640) and reduced.size == (120, 160) and notes == reduced_notes
    size = (60, 80)
    pixels = [
        np.asarray(each.resize(size, Image.Resampling.BILINEAR)).astype(int)
        for each in (whole, reduced)
    ]
    assert np.abs(pixels[0] - pixels[1]).mean() < 1.5
    assert decode_image(file, 3, 500).image.size == whole.size
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(Exception, match="truncated"):
        decode_image(file, 3, 100)


def test_packing_of_arrays_and_unsuitable_sizes_are_refused(tmp_path: Path, root: Path) -> None:
    arrays = Data(name="npz", path=npz(tmp_path), pack=True)
    for attempt in (prepare, describe):
        with refused("data.pack", True, (False,)):
            attempt(arrays, tmp_path / "store", 0)
    with refused("data.pack_size", 32):
        load(None, ["data.pack_size=32"])
    with refused("data.pack_size", 32, (64, None)):
        load(None, ["data.pack=true", "data.size=64", "data.pack_size=32"])


def test_labelled_samples_and_moved_stores_read_the_same_pack(tmp_path: Path, root: Path) -> None:
    data = opened(tmp_path, root, labelled=6)
    subset = data.labelled()
    assert len(subset.train) == 6 and subset.packed is data.packed
    chosen = np.flatnonzero(data.train.labels >= 0)
    assert torch.equal(inputs(subset, "train"), inputs(data, "train")[chosen])
    shutil.move(tmp_path / "store", tmp_path / "moved")
    moved = Dataset.open(tmp_path / "moved" / "data" / data.fingerprint)
    assert torch.equal(inputs(moved, "test"), inputs(data, "test"))
