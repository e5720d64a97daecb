"""Test that the triple (seed, view, index) alone determines an image."""

import numpy as np
import pytest
import torch
from data_made import images
from numpy.typing import NDArray

from orchestrator.data._augmentation import FLIP, HORIZONTAL, VERTICAL, draw_crop_boxes
from orchestrator.data.views import Views

COUNT = 40
AUGMENTING = ["crop", "crop_flip", "resized_crop_flip"]


def seen(views: Views, view: int | None, index: list[int], whole: torch.Tensor) -> torch.Tensor:
    """Return the images of the samples `index` in a view, from all images (n, H, W, C)."""
    places = views.augmentation_params(view, *whole.shape[1:3])
    return (
        whole[index]
        if places is None
        else views.augment(whole[index], places[index].to(whole.device))
    )


def pictures(views: Views, view: int | None, index: list[int]) -> torch.Tensor:
    return seen(views, view, index, torch.from_numpy(images(COUNT)))


@pytest.mark.parametrize("policy", AUGMENTING)
def test_an_image_does_not_depend_on_its_batch_or_on_earlier_requests(policy: str) -> None:
    whole = pictures(Views(policy, 3, COUNT, 2), 5, list(range(COUNT)))
    shuffled = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)).tolist()
    views = Views(policy, 3, COUNT, 2)
    pictures(views, 4, [0, 1])
    assert torch.equal(pictures(views, 5, shuffled), whole[shuffled])
    for index in range(COUNT):
        assert torch.equal(pictures(views, 5, [index])[0], whole[index])


@pytest.mark.parametrize("policy", AUGMENTING)
def test_seed_and_view_both_matter(policy: str) -> None:
    everyone = list(range(COUNT))
    base = pictures(Views(policy, 3, COUNT, 2), 5, everyone)
    assert not torch.equal(base, pictures(Views(policy, 3, COUNT, 2), 6, everyone))
    assert not torch.equal(base, pictures(Views(policy, 4, COUNT, 2), 5, everyone))


def test_the_random_numbers_of_the_last_view_are_cached() -> None:
    views = Views("crop", 0, COUNT, 1)
    assert views.numbers(1) is views.numbers(1)
    first = views.numbers(1).copy()
    views.numbers(2)
    assert np.array_equal(views.numbers(1), first)


@pytest.mark.parametrize(
    ("policy", "view"), [("none", 3), *((policy, None) for policy in AUGMENTING)]
)
def test_images_are_unchanged_without_a_policy_or_a_view(policy: str, view: int | None) -> None:
    whole = torch.from_numpy(images(COUNT))
    assert torch.equal(pictures(Views(policy, 0, COUNT, 2), view, list(range(COUNT))), whole)


def slow(
    image: NDArray[np.uint8], row: NDArray[np.float64], pad: int, flips: bool
) -> NDArray[np.uint8]:
    """Return one image, padded, cropped and flipped step by step."""
    height, width, channels = image.shape
    padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), dtype=np.uint8)
    padded[pad : pad + height, pad : pad + width] = image
    top, left = int(row[VERTICAL] * (2 * pad + 1)), int(row[HORIZONTAL] * (2 * pad + 1))
    cropped = padded[top : top + height, left : left + width]
    return cropped[:, ::-1] if flips and row[FLIP] < 0.5 else cropped


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("shape", [(COUNT, 8, 8, 3), (COUNT, 7, 9, 1)])
def test_crops_agree_with_a_slow_reference(flips: bool, shape: tuple[int, ...]) -> None:
    whole = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    views = Views("crop_flip" if flips else "crop", 1, COUNT, 2)
    fast = seen(views, 0, list(range(COUNT)), torch.from_numpy(whole)).numpy()
    expected = np.stack(
        [slow(image, row, 2, flips) for image, row in zip(whole, views.numbers(0), strict=True)]
    )
    assert np.array_equal(fast, expected)


def test_crops_reach_every_offset_and_half_the_images_are_flipped() -> None:
    numbers = Views("crop_flip", 0, 4000, 2).numbers(0)
    assert set(np.floor(numbers[:, VERTICAL] * 5)) == set(range(5))
    assert 0.45 < (numbers[:, FLIP] < 0.5).mean() < 0.55


def test_crop_boxes_lie_inside_with_the_drawn_area_and_ratio() -> None:
    left, top, right, bottom = draw_crop_boxes(
        Views("resized_crop_flip", 0, 2000, 0).numbers(0), 30, 50, 0.08
    ).T
    assert (
        (left >= 0).all()
        and (top >= 0).all()
        and (right <= 50 + 1e-9).all()
        and (bottom <= 30 + 1e-9).all()
    )
    area, ratio = (right - left) * (bottom - top) / 1500, (right - left) / (bottom - top)
    whole = bottom - top < 30 - 1e-9  # a side that did not fit was shortened
    assert area.max() <= 1 + 1e-9 and area[whole].min() >= 0.08 - 1e-9
    assert ratio[whole].min() >= 3 / 4 - 1e-9 and ratio[whole].max() <= 4 / 3 + 1e-9


def test_a_resized_crop_of_a_ramp_is_the_ramp_over_its_box() -> None:
    side, count = 32, 50
    ramp = np.broadcast_to(
        (4 * np.arange(side, dtype=np.uint8))[None, None, :, None], (count, side, side, 1)
    ).copy()
    views = Views("resized_crop_flip", 0, count, 0)
    found = seen(views, 0, list(range(count)), torch.from_numpy(ramp)).numpy()[..., 0]
    left, _, right, _ = draw_crop_boxes(views.numbers(0), side, side, 0.5).T
    places = left[:, None] + (np.arange(side) + 0.5) / side * (right - left)[:, None]
    expected = 4 * np.clip(places - 0.5, 0, side - 1)
    mirrored = views.numbers(0)[:, FLIP] < 0.5
    expected[mirrored] = expected[mirrored, ::-1]
    assert np.abs(found - expected[:, None, :]).max() <= 0.51


def test_resizing_keeps_a_constant_image() -> None:
    grey = torch.full((COUNT, 8, 8, 3), 77, dtype=torch.uint8)
    assert torch.equal(
        seen(Views("resized_crop_flip", 0, COUNT, 0), 0, list(range(COUNT)), grey), grey
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("policy", ["crop", "crop_flip"])
def test_an_image_is_the_same_on_the_gpu(policy: str) -> None:
    views, index, whole = (
        Views(policy, 0, COUNT, 2),
        list(range(COUNT)),
        torch.from_numpy(images(COUNT)),
    )
    assert torch.equal(seen(views, 0, index, whole.cuda()).cpu(), seen(views, 0, index, whole))
