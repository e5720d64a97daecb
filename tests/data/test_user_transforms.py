"""Test user transforms: images that seed, view and index determine, for arrays and for files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from orchestrator.config.data_schema import Data
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import describe, prepare
from orchestrator.data.preprocessing import explain_augmentation
from orchestrator.data.user_transforms import TRANSFORMS, Transform, transform_code
from orchestrator.data.views import Views
from tests.refusal import refused

NAME, SEED = "my/shift", 3


def shift(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    image[:] = np.roll(image, int(generator.integers(0, 8)), axis=1)
    return image


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSFORMS, NAME, Transform(NAME, shift, "code", "mine.py:1"))


@pytest.fixture
def digits(tmp_path: Path) -> Dataset:
    return Dataset.open(prepare(Data(augmentation=NAME), tmp_path, 0))


@pytest.fixture
def photos(tmp_path: Path) -> Dataset:
    """Return folder data with 4 images of each class and part."""
    generator = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(0, 256, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    config = Data(name="folder", path=tmp_path / "photos", size=8, augmentation=NAME)
    return Dataset.open(prepare(config, tmp_path, 0))


def views_of(dataset: Dataset) -> Views:
    return Views.from_config(dataset, Data(augmentation=NAME), SEED)


def collect(dataset: Dataset, world_size: int, loader_workers: int, epoch: int) -> torch.Tensor:
    """Return the images of view 1 by index, from all ranks of an epoch; NaN if not drawn."""
    views, size = views_of(dataset), 4
    found = torch.full((len(dataset.train), *dataset.shape), torch.nan)
    for rank in range(world_size):
        batches = Batches(dataset, views, size, 0, rank, world_size, loader_workers=loader_workers)
        for batch in batches.train(epoch, 1):
            found[batch.index] = batch.inputs
    return found


def expected(dataset: Dataset, clean: NDArray[np.uint8]) -> torch.Tensor:
    """Return the transformed images of view 1, computed one by one."""
    images = [TRANSFORMS[NAME].apply(image, index, SEED, 1) for index, image in enumerate(clean)]
    planes = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    mean, std = (255 * torch.tensor(each).view(1, -1, 1, 1) for each in (dataset.mean, dataset.std))
    return (planes - mean) / std


@pytest.mark.parametrize(("world_size", "epoch"), [(1, 0), (2, 5)])
def test_arrays_do_not_depend_on_order_and_ranks(
    digits: Dataset, world_size: int, epoch: int
) -> None:
    found = collect(digits, world_size, 0, epoch)
    drawn = ~found.isnan().flatten(1).any(dim=1)
    assert drawn.sum() > 0.9 * len(drawn)
    wanted = expected(digits, np.asarray(digits.train.inputs))
    torch.testing.assert_close(found[drawn], wanted[drawn])


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_files_are_transformed_where_they_are_decoded(photos: Dataset, loader_workers: int) -> None:
    views = views_of(photos)
    clean = Batches(photos, views, 4, 0).iterate_in_order("train", None)
    mean, std = (255 * torch.tensor(each).view(1, -1, 1, 1) for each in (photos.mean, photos.std))
    pixels = torch.cat([(batch.inputs * std + mean).round() for batch in clean])
    wanted = expected(photos, pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy())
    found = collect(photos, 1, loader_workers, 0)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_clean_view_is_not_transformed(digits: Dataset) -> None:
    views = views_of(digits)
    assert views.varies and views.augmentation_params(None, 8, 8) is None


def test_the_identity_of_views_has_the_code(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = views_of(digits).identity()
    assert before["code"] == transform_code(NAME) == "code"
    monkeypatch.setitem(TRANSFORMS, NAME, Transform(NAME, shift, "other", "mine.py:1"))
    assert views_of(digits).identity() != before
    assert "code" not in Views("crop", 0, 4, 1).identity() and transform_code("crop") == ""


def test_the_original_image_stays_the_same() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    before = image.copy()
    images = {TRANSFORMS[NAME].apply(image, 0, 0, view).tobytes() for view in range(20)}
    assert np.array_equal(image, before) and len(images) > 3


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda image, generator: image[:4], "of shape (4, 8, 1)"),
        (lambda image, generator: image / 255, "float64"),
        (lambda image, generator: None, "NoneType"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_result_is_refused_with_its_line(
    function: object, problem: str, workers: int, photos: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = Transform(NAME, function, "code", "mine.py:7")  # type: ignore[arg-type]
    monkeypatch.setitem(TRANSFORMS, NAME, transform)
    with refused("data.augmentation") as caught:
        transform.apply(np.zeros((8, 8, 1), dtype=np.uint8), 0, 0, 0)
    assert problem in str(caught.value) and "mine.py:7" in str(caught.value)
    with refused("data.augmentation"):
        collect(photos, 1, workers, 0)


def test_an_error_is_refused_with_its_class_and_its_line() -> None:
    def fail(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
        row: NDArray[np.uint8] = image[99]
        return row

    with refused("data.augmentation") as caught:
        Transform(NAME, fail, "code", "mine.py:7").apply(np.zeros((8, 8, 1), np.uint8), 0, 0, 0)
    line = fail.__code__.co_firstlineno + 1
    assert f"{Path(__file__).name}:{line}" in str(caught.value)
    assert "IndexError: " in str(caught.value) and "mine.py:7" not in str(caught.value)


def test_an_unknown_transform_is_refused(tmp_path: Path) -> None:
    with refused("data.augmentation", "my/other", (NAME,)) as caught:
        describe(Data(augmentation="my/other"), tmp_path, 0)
    assert "--code" in str(caught.value)
    with pytest.raises(ValueError, match="resized_crop_flip"):
        Data(augmentation="other")
    assert explain_augmentation(Data(augmentation=NAME), (1, 8, 8)).startswith(NAME)
