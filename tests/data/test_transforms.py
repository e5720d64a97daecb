"""Test the transforms of a view: against torchvision, and as a function of (seed, view, index)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import npz, opened
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from orchestrator.config.data_schema import Data
from orchestrator.config.loader import load
from orchestrator.data._operations import OPERATIONS, apply_operations
from orchestrator.data._transforms import BINS, IS_SIGNED, Transforms, magnitudes
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.passes import Inputs
from orchestrator.data.prepare import describe, prepare
from orchestrator.data.preprocessing import explain
from orchestrator.data.views import Views
from tests.refusal import refused

EVERY: dict[str, Any] = {
    "randaugment": {"operations": 2, "magnitude": 9},
    "color_jitter": 0.4,
    "random_erasing": 0.5,
}
SETTINGS = [{name: value} for name, value in EVERY.items()] + [{"trivial_augment": True}, EVERY]
# the names of torchvision's spaces, in the order of OPERATIONS
NAMES = list(v2.RandAugment._AUGMENTATION_SPACE)
HEIGHT, WIDTH, COUNT = 24, 32, 40


def smooth_images(count: int, channels: int = 3) -> torch.Tensor:
    """Return (count, HEIGHT, WIDTH, channels) uint8 of a coarse and a fine pattern."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, channels, 4, 5, generator=generator)
    fine = torch.rand(count, channels, HEIGHT, WIDTH, generator=generator)
    mixed = 0.8 * torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear")
    return (255 * (mixed + 0.2 * fine)).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def torchvision_images(images: torch.Tensor, name: str, level: float) -> torch.Tensor:
    """Return images (B, C, H, W) after torchvision's own operation."""
    applied: torch.Tensor = v2.RandAugment()._apply_image_or_video_transform(
        images, name, level, v2.InterpolationMode.NEAREST, {torch.Tensor: None}
    )
    return applied


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("number", range(len(OPERATIONS)), ids=OPERATIONS)
def test_operations_agree_with_torchvision(number: int, wide: bool, channels: int) -> None:
    images = smooth_images(3, channels).permute(0, 3, 1, 2).contiguous()
    table = magnitudes(HEIGHT, WIDTH, wide)
    # a shear by a multiple of 0.1 takes every fifth line halfway between two pixels
    for level in {0.0, *table[number, [1, 9, 14, 29]].tolist()}:
        for sign in (1, -1) if IS_SIGNED[number] else (1,):
            operations = np.full(len(images), number, dtype=np.uint8)
            levels = np.full(len(images), sign * level)
            ours = apply_operations(images, operations, levels).int()
            theirs = torchvision_images(images, NAMES[number], sign * level).int()
            if OPERATIONS[number] in ("rotate", "shear_x", "shear_y"):
                # the nearest pixel of a few coordinates halfway between two
                assert (ours != theirs).float().mean() < 0.002
            elif OPERATIONS[number] in ("color", "contrast", "sharpness"):
                # torchvision's fused sums are cut to whole numbers below a multiple
                assert (ours - theirs).abs().max() <= 1
                assert (ours != theirs).float().mean() < 0.02
            else:
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("wide", "theirs"), [(False, v2.RandAugment), (True, v2.TrivialAugmentWide)]
)
def test_strengths_are_those_of_torchvision(wide: bool, theirs: Any) -> None:
    table, space = magnitudes(HEIGHT, WIDTH, wide), theirs._AUGMENTATION_SPACE
    assert len(space) == len(OPERATIONS)
    for number, (values, signed) in enumerate(space.values()):
        expected = values(BINS, HEIGHT, WIDTH)
        assert bool(IS_SIGNED[number]) == signed
        assert np.allclose(table[number], 0 if expected is None else expected.numpy(), atol=1e-5)


def mean_after_jitter(image: torch.Tensor, order: list[int], factors: list[float]) -> torch.Tensor:
    """Return an image (H, W, C) after torchvision's functions, in an order of operations."""
    names = {"brightness": 0, "contrast": 1, "color": 2}
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    )
    planes = image.permute(2, 0, 1)
    for operation, factor in zip(order, factors, strict=True):
        planes = adjust[names[OPERATIONS[operation]]](planes, factor)
    return planes.permute(1, 2, 0)


def test_colour_jitter_multiplies_by_its_factors_in_its_order() -> None:
    images = smooth_images(COUNT)
    jitter = Transforms({"color_jitter": 0.4}, 0, 0, COUNT, HEIGHT, WIDTH, (0, 0, 0))
    found = jitter.apply(images, np.arange(COUNT))
    for index in range(COUNT):
        factors = (1 + jitter.rounds.levels[index]).tolist()
        expected = mean_after_jitter(
            images[index], jitter.rounds.operations[index].tolist(), factors
        )
        assert (found[index].int() - expected.int()).abs().max() <= 3  # 1 for each operation


def drawn(settings: dict[str, Any], count: int = 20_000) -> Transforms:
    return Transforms(settings, 0, 0, count, HEIGHT, WIDTH, (7, 8, 9))


def test_parameters_have_their_distributions() -> None:
    chosen = drawn({"randaugment": {"operations": 2, "magnitude": 9}}).rounds
    shares = np.bincount(chosen.operations.ravel(), minlength=len(OPERATIONS)) / 40_000
    assert np.abs(shares - 1 / len(OPERATIONS)).max() < 0.006
    assert abs(np.mean(chosen.operations[:, 0] == chosen.operations[:, 1]) - 1 / 14) < 0.01
    rotations = chosen.levels[chosen.operations == OPERATIONS.index("rotate")]
    assert set(np.abs(rotations).tolist()) == {9.0} and abs(np.mean(rotations > 0) - 0.5) < 0.05
    wide = drawn({"trivial_augment": True}).rounds
    bits = wide.levels[wide.operations == OPERATIONS.index("posterize")]
    assert set(bits.tolist()) == {2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}
    jitter = drawn({"color_jitter": 0.4}).rounds
    orders, counts = np.unique(jitter.operations, axis=0, return_counts=True)
    assert len(orders) == 6 and np.abs(counts / 20_000 - 1 / 6).max() < 0.01
    assert jitter.levels.min() < -0.39 and jitter.levels.max() > 0.39
    assert np.abs(jitter.levels).max() <= 0.4 and abs(jitter.levels.mean()) < 0.01


def test_erased_boxes_lie_inside_with_the_drawn_area() -> None:
    boxes = drawn({"random_erasing": 0.25}).boxes
    assert boxes is not None
    erased = boxes[boxes.any(axis=1)]
    assert abs(len(erased) / len(boxes) - 0.25) < 0.01
    top, left, bottom, right = erased.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (bottom <= HEIGHT).all() and (right <= WIDTH).all()
    area = (bottom - top) * (right - left) / (HEIGHT * WIDTH)
    assert area.max() < 0.4 and 0.15 < area.mean() < 0.19  # (0.02 + 0.33) / 2, less what is cut
    theirs = v2.RandomErasing(p=1)
    torch.manual_seed(0)
    reference = [theirs.make_params([torch.zeros(3, HEIGHT, WIDTH)]) for _ in range(1500)]
    for mine, name in ((bottom - top, "h"), (right - left, "w"), (top, "i"), (left, "j")):
        expected = np.array([each[name] for each in reference])
        assert mine.mean() == pytest.approx(expected.mean(), rel=0.08)


def test_an_erased_box_is_filled_and_the_rest_is_kept() -> None:
    images, transforms = smooth_images(COUNT), drawn({"random_erasing": 1.0}, COUNT)
    found = transforms.apply(images, np.arange(COUNT))
    assert transforms.boxes is not None
    for index, (top, left, bottom, right) in enumerate(transforms.boxes.tolist()):
        expected = images[index].clone()
        expected[top:bottom, left:right] = torch.tensor([7, 8, 9], dtype=torch.uint8)
        assert torch.equal(found[index], expected)


@pytest.mark.parametrize("settings", SETTINGS)
def test_an_image_does_not_depend_on_its_batch(settings: dict[str, Any]) -> None:
    images = smooth_images(COUNT)
    transforms = Transforms(settings, 3, 5, COUNT, HEIGHT, WIDTH, (1, 2, 3))
    whole = transforms.apply(images, np.arange(COUNT))
    shuffled = np.random.default_rng(0).permutation(COUNT)
    assert torch.equal(transforms.apply(images[shuffled], shuffled), whole[shuffled])
    for index in range(COUNT):
        assert torch.equal(transforms.apply(images[[index]], np.array([index]))[0], whole[index])
    for seed, view in ((4, 5), (3, 6)):
        other = Transforms(settings, seed, view, COUNT, HEIGHT, WIDTH, (1, 2, 3))
        assert not torch.equal(other.apply(images, np.arange(COUNT)), whole)


def test_the_numbers_of_a_transform_do_not_depend_on_the_others() -> None:
    alone = drawn({"random_erasing": 0.5}, COUNT).boxes, drawn({"color_jitter": 0.4}, COUNT).rounds
    together = drawn(EVERY, COUNT)
    assert np.array_equal(together.boxes, alone[0])  # type: ignore[arg-type]
    assert np.array_equal(together.rounds.levels[:, 2:], alone[1].levels)


def samples(dataset: Dataset, views: Views, size: int, **given: Any) -> dict[int, torch.Tensor]:
    """Return the inputs of an epoch by sample, over all ranks of `world_size`."""
    seen: dict[int, torch.Tensor] = {}
    for rank in range(given.get("world_size", 1)):
        for batch in Batches(dataset, views, size, 0, rank, **given).train(1, 2):
            seen |= dict(zip(batch.index.tolist(), batch.inputs, strict=True))
    return seen


@pytest.mark.parametrize("mix", ["none", "cutmix"])
@pytest.mark.parametrize("policy", ["none", "crop_flip", "resized_crop_flip"])
def test_batches_of_arrays_are_the_same_for_any_size_ranks_and_place(
    tmp_path: Path, policy: str, mix: str
) -> None:
    dataset = opened(tmp_path, npz(tmp_path))
    views = Views(policy, 0, len(dataset.train), 1, mix, 1.0, EVERY, (9, 9, 9))
    expected = samples(dataset, views, 102)
    assert len(expected) == 102
    again = Views(policy, 0, len(dataset.train), 1, mix, 1.0, EVERY, (9, 9, 9))
    for given in ({"size": 17}, {"size": 34, "world_size": 2}, {"size": 34, "on_device": True}):
        for index, image in samples(dataset, again, **given).items():  # type: ignore[arg-type]
            assert torch.equal(image, expected[index])
    plain = samples(dataset, Views(policy, 0, len(dataset.train), 1, mix), 102)
    assert not any(torch.equal(plain[index], expected[index]) for index in range(5))


@pytest.mark.parametrize("policy", ["none", "crop", "resized_crop_flip"])
def test_images_of_files_are_the_same_in_batches_and_in_decoding_processes(
    files: Dataset, policy: str
) -> None:
    """Each is the transformed image of the view without transforms."""
    views = Views(policy, 0, len(files.train), 2, transforms=EVERY, fill=(1, 2, 3))
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (files.mean, files.std))
    plain = samples(files, Views(policy, 0, len(files.train), 2), 12)
    transforms = views.draw_transforms(2, 16, 16)
    assert transforms is not None
    for workers, size in ((0, 12), (1, 4)):
        for index, image in samples(files, views, size, loader_workers=workers).items():
            pixels = (plain[index] * std + mean).round().to(torch.uint8).permute(1, 2, 0)
            expected = transforms.apply(pixels[None], np.array([index]))[0].permute(2, 0, 1)
            assert torch.equal(image, (expected.float() - mean) / std)


def test_the_clean_view_has_no_transforms(tmp_path: Path) -> None:
    dataset = opened(tmp_path, npz(tmp_path))

    def whole(views: Views, part: Any, view: int | None) -> Inputs:
        (batch,) = Batches(dataset, views, 102, 0).iterate_in_order(part, view, 102)
        return batch

    plain, changed = (
        Views("none", 0, len(dataset.train), 1, transforms=each) for each in ({}, EVERY)
    )
    for part in ("train", "validation", "test"):
        one, other = whole(plain, part, None), whole(changed, part, None)
        assert torch.equal(one.inputs, other.inputs)
    assert changed.varies and not plain.varies


def identity(settings: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    return Views("none", seed, 10, 1, transforms=settings).identity()


def test_the_identity_holds_transforms_only_if_they_are_set() -> None:
    assert identity({}) == {"policy": "none", "mix": "none"} == identity({}, 1)
    every = [identity(each) for each in SETTINGS]
    every += [identity({"color_jitter": 0.5}), identity({"color_jitter": 0.4}, 1)]
    assert all(each != other for place, each in enumerate(every) for other in every[:place])


def test_settings_reach_the_views_and_the_plan(tmp_path: Path) -> None:
    data = load(
        None, ["data.randaugment.magnitude=12", "data.color_jitter=0.3", "data.random_erasing=0.25"]
    ).data
    assert data.transforms == {
        "randaugment": {"operations": 2, "magnitude": 12},
        "color_jitter": 0.3,
        "random_erasing": 0.25,
    }
    file = npz(tmp_path)
    dataset = opened(tmp_path, file)
    views = Views.from_config(dataset, data, 0)
    assert views.transforms == data.transforms
    assert views.fill == tuple(round(255 * value) for value in dataset.mean)
    line = explain(data, describe(Data(name="npz", path=file), tmp_path, 0))["augmentation"]
    assert all(words in line for words in ("RandAugment", "colour jitter of 0.3", "erasing"))
    assert load(None, ["data.randaugment={}"]).data.randaugment is not None
    assert not Data().transforms


def test_conflicting_and_unsuitable_transforms_are_refused(tmp_path: Path) -> None:
    with refused("data.trivial_augment", True, (False,)):
        load(None, ["data.trivial_augment=true", "data.randaugment={}"])
    with refused("data.randaugment.magnitude", 31, (0, 30)):
        load(None, ["data.randaugment.magnitude=31"])
    two = np.zeros((120, 8, 8, 2), dtype=np.uint8)
    file = npz(tmp_path, train_images=two, test_images=two[:40])
    erased = Data(name="npz", path=file, random_erasing=0.5)
    assert prepare(erased, tmp_path, 0).exists()
    jittered = erased.model_copy(update={"color_jitter": 0.4})
    for attempt in (prepare, describe):
        with refused("data.color_jitter", 0.4):
            attempt(jittered, tmp_path, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("settings", SETTINGS)
def test_images_are_the_same_on_a_gpu_which_is_never_waited_for(settings: dict[str, Any]) -> None:
    images, transforms = smooth_images(COUNT), drawn(settings, COUNT)
    far = images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = transforms.apply(far, np.arange(COUNT))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.cpu(), transforms.apply(images, np.arange(COUNT)))
