"""Test mixed views against a slow reference of one sample at a time."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.data._augmentation import FLIP, HORIZONTAL, VERTICAL
from orchestrator.data._mixing import Mixing, draw_mixing
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.passes import Inputs
from orchestrator.data.views import Views

MIXES = ["mixup", "cutmix"]
POLICIES = ["none", "crop", "crop_flip", "resized_crop_flip"]
SEED, VIEW, PAD, ALPHA = 3, 5, 1, 0.7
Picture = NDArray[np.float32]


def batches(
    dataset: Dataset,
    policy: str,
    mix: str,
    size: int = 16,
    rank: int = 0,
    world_size: int = 1,
    **given: Any,
) -> Batches:
    views = Views(policy, SEED, len(dataset.train), PAD, mix, ALPHA)
    return Batches(dataset, views, size, 0, rank, world_size, **given)


def whole(dataset: Dataset, policy: str, mix: str, view: int | None = VIEW) -> Inputs:
    """Return the whole training part as one batch."""
    (everything,) = batches(dataset, policy, mix, len(dataset.train)).iterate_in_order(
        "train", view
    )
    return everything


def slow_crop(dataset: Dataset, index: int, policy: str) -> Picture:
    """Return one normalised image (H, W, C), computed pixel by pixel."""
    image, row = (
        dataset.train.inputs[index],
        np.random.default_rng([SEED, VIEW]).random((len(dataset.train), 5))[index],
    )
    height, width, _ = image.shape
    top, left = (int(row[place] * (2 * PAD + 1)) - PAD for place in (VERTICAL, HORIZONTAL))
    made = np.zeros(image.shape, np.float32)
    for y in range(height):
        for x in range(width):
            place = width - 1 - x if policy == "crop_flip" and row[FLIP] < 0.5 else x
            if 0 <= y + top < height and 0 <= place + left < width:
                made[y, x] = image[y + top, place + left]
    mean, std = (
        np.float32(255) * np.array(values, np.float32) for values in (dataset.mean, dataset.std)
    )
    normalised: Picture = (made - mean) / std
    return normalised


def slow_numbers(
    count: int, height: int, width: int, mix: str
) -> tuple[list[int], list[float], list[tuple[int, int, int, int]]]:
    """Return partners, shares and boxes, one sample at a time from the view's random stream."""
    generator = np.random.default_rng([SEED, VIEW, 2])
    partners, shares = (
        generator.permutation(count).tolist(),
        generator.beta(ALPHA, ALPHA, count).tolist(),
    )
    if mix == "mixup":
        return partners, shares, []
    boxes = []
    for index, (vertical, horizontal) in enumerate(generator.random((count, 2)).tolist()):
        half = (1 - shares[index]) ** 0.5 / 2
        top, bottom = (
            min(max(round(edge * height), 0), height) for edge in (vertical - half, vertical + half)
        )
        left, right = (
            min(max(round(edge * width), 0), width)
            for edge in (horizontal - half, horizontal + half)
        )
        boxes.append((top, left, bottom, right))
        shares[index] = 1 - (bottom - top) * (right - left) / (height * width)
    return partners, shares, boxes


@pytest.mark.parametrize("policy", ["crop", "crop_flip"])
@pytest.mark.parametrize("mix", MIXES)
def test_mixed_images_agree_with_a_slow_reference(dataset: Dataset, mix: str, policy: str) -> None:
    seen = whole(dataset, policy, mix)
    partners, shares, boxes = slow_numbers(len(dataset.train), 8, 8, mix)
    assert seen.mix is not None
    assert seen.mix.labels.tolist() == dataset.train.labels[partners].tolist()
    assert np.array_equal(seen.mix.share.numpy(), np.array(shares, np.float32))
    pictures = [slow_crop(dataset, index, policy) for index in range(len(dataset.train))]
    for index, partner in enumerate(partners):
        own, other = pictures[index], pictures[partner]
        if mix == "mixup":
            share = np.float32(shares[index])
            expected = share * own + (np.float32(1) - share) * other
        else:
            top, left, bottom, right = boxes[index]
            expected = own.copy()
            expected[top:bottom, left:right] = other[top:bottom, left:right]
        assert np.array_equal(seen.inputs[index].numpy(), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mix", MIXES)
def test_a_mixed_image_blends_two_images_of_the_unmixed_view(
    dataset: Dataset, mix: str, policy: str
) -> None:
    plain, mixed = whole(dataset, policy, "none"), whole(dataset, policy, mix)
    drawn = Views(policy, SEED, len(dataset.train), PAD, mix, ALPHA).mixing(VIEW, 8, 8)
    assert plain.mix is None and mixed.mix is not None and drawn is not None
    other = plain.inputs[drawn.partner]
    if mix == "cutmix":
        of_own, of_other = (
            (mixed.inputs == picture).all(dim=1) for picture in (plain.inputs, other)
        )  # (B, H, W)
        assert bool((of_own | of_other).all())
        assert bool((of_own.float().mean(dim=(1, 2)) >= mixed.mix.share - 1e-6).all())
        assert bool((of_other.float().mean(dim=(1, 2)) >= 1 - mixed.mix.share - 1e-6).all())
    else:
        share = mixed.mix.share.view(-1, 1, 1, 1)
        torch.testing.assert_close(mixed.inputs, share * plain.inputs + (1 - share) * other)
    assert torch.equal(mixed.labels, plain.labels) and torch.equal(
        mixed.mix.labels, plain.labels[drawn.partner]
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_mixed_image_does_not_depend_on_batch_rank_or_layout(
    dataset: Dataset, mix: str, policy: str, channels_last: bool
) -> None:
    everything = whole(dataset, policy, mix)
    assert everything.mix is not None
    for size, rank, world_size in ((7, 0, 1), (16, 0, 1), (18, 2, 3)):
        for batch in batches(
            dataset, policy, mix, size, rank, world_size, channels_last=channels_last
        ).train(1, VIEW):
            assert batch.mix is not None
            assert not channels_last or batch.inputs.is_contiguous(
                memory_format=torch.channels_last
            )
            assert torch.equal(batch.inputs, everything.inputs[batch.index])
            assert torch.equal(batch.mix.share, everything.mix.share[batch.index])
            assert torch.equal(batch.mix.labels, everything.mix.labels[batch.index])


@pytest.mark.parametrize("mix", MIXES)
def test_the_clean_view_and_the_other_parts_are_never_mixed(dataset: Dataset, mix: str) -> None:
    def passes(made: Batches) -> Iterator[Inputs]:
        return chain(
            made.train(0, None),
            made.full_blocks(None, 0, 1),
            *(made.iterate_in_order(part) for part in ("train", "validation", "test")),
        )

    for mixed, plain in zip(
        passes(batches(dataset, "crop", mix)), passes(batches(dataset, "none", "none")), strict=True
    ):
        assert mixed.mix is None and torch.equal(mixed.inputs, plain.inputs)


def test_views_and_seeds_mix_differently(dataset: Dataset) -> None:
    count = len(dataset.train)
    drawn = [
        Views("none", seed, count, PAD, "mixup").mixing(view, 8, 8)
        for seed, view in ((SEED, VIEW), (SEED, VIEW + 1), (4, VIEW))
    ]
    for one in drawn[1:]:
        assert one is not None and drawn[0] is not None
        assert not torch.equal(one.partner, drawn[0].partner) and not torch.equal(
            one.share, drawn[0].share
        )


def drawn(mix: str, alpha: float = 1.0) -> Mixing:
    return draw_mixing(mix, alpha, np.random.default_rng(0), 20_000, 32, 24)


@pytest.mark.parametrize("mix", MIXES)
def test_every_image_is_a_partner_once(mix: str) -> None:
    assert sorted(drawn(mix).partner.tolist()) == list(range(20_000))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_of_mixup_follow_the_beta_distribution(alpha: float) -> None:
    share = drawn("mixup", alpha).share
    assert share.dtype == torch.float32 and float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_boxes_of_cutmix_lie_inside_and_match_the_share() -> None:
    found = drawn("cutmix")
    assert found.boxes is not None
    top, left, bottom, right = found.boxes.T
    assert bool((top >= 0).all() and (top <= bottom).all() and (bottom <= 32).all())
    assert bool((left >= 0).all() and (left <= right).all() and (right <= 24).all())
    torch.testing.assert_close(found.share, 1 - (bottom - top) * (right - left) / (32 * 24))
    assert torch.equal(found.partner, drawn("mixup").partner)
    uncut = (top > 0) & (bottom < 32) & (left > 0) & (right < 24)  # these boxes have the drawn area
    assert float((found.share - drawn("mixup").share)[uncut].abs().max()) < 0.06


def test_mixed_files_are_blends_of_the_images_of_their_view(files: Dataset) -> None:
    plain, views = (
        whole(files, "resized_crop_flip", "none"),
        Views("resized_crop_flip", SEED, 12, PAD, "mixup", ALPHA),
    )
    mixing = views.mixing(VIEW, 16, 16)
    assert mixing is not None
    for workers in (0, 1):
        for batch in batches(files, "resized_crop_flip", "mixup", 4, loader_workers=workers).train(
            0, VIEW
        ):
            share = mixing.share[batch.index].view(-1, 1, 1, 1)
            expected = (
                share * plain.inputs[batch.index]
                + (1 - share) * plain.inputs[mixing.partner[batch.index]]
            )
            assert torch.equal(batch.inputs, expected)


@pytest.mark.parametrize(("augmentation", "policy"), [("auto", "none"), ("crop_flip", "crop_flip")])
def test_views_follow_the_configuration(dataset: Dataset, augmentation: Any, policy: str) -> None:
    views = Views.from_config(
        dataset, Data(augmentation=augmentation, mixing="cutmix", mix_alpha=0.3), 4
    )
    assert (views.policy, views.seed, views.count, views.pad) == (policy, 4, 102, 1)
    assert (views.mix, views.mix_alpha) == ("cutmix", 0.3)


def test_views_vary_unless_there_is_no_augmentation() -> None:
    assert not Views("none", 0, 10, 1).varies
    assert Views("crop", 0, 10, 1).varies and Views("none", 0, 10, 1, "mixup").varies


def test_the_identity_of_views_depends_only_on_settings_in_use() -> None:
    def identity_of(*given: Any) -> str:
        policy, seed, pad, *mix = given
        return json.dumps(Views(policy, seed, 10, pad, *mix).identity())

    assert identity_of("none", 0, 1) == identity_of("none", 7, 2, "none", 0.5), (
        "every view is the clean one"
    )
    assert identity_of("resized_crop_flip", 0, 1) == identity_of("resized_crop_flip", 0, 2)
    assert identity_of("crop", 0, 1, "none", 0.1) == identity_of("crop", 0, 1, "none", 0.2)
    different = [
        identity_of("crop", 0, 1),
        identity_of("crop", 1, 1),
        identity_of("crop", 0, 2),
        identity_of("crop_flip", 0, 1),
        identity_of("crop", 0, 1, "mixup", 1.0),
        identity_of("crop", 0, 1, "mixup", 2.0),
        identity_of("crop", 0, 1, "cutmix", 1.0),
        identity_of("none", 0, 1, "mixup", 1.0),
        identity_of("none", 1, 1, "mixup", 1.0),
        identity_of("none", 0, 1),
    ]
    assert len(set(different)) == len(different)
