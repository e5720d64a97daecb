"""Test the preparation of data: splits, limits, noise, reuse."""

import errno
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from data_made import CLASSES, arrays, identities, images, npz, opened
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from orchestrator.config.data_schema import Data, Limit
from orchestrator.core.errors import PreflightError
from orchestrator.data import datasets
from orchestrator.data._parts import Part, apportion, draw_stratified_mask, split_stratified
from orchestrator.data.dataset import Dataset, Sizes, read_summary
from orchestrator.data.prepare import describe, prepare
from orchestrator.data.views import Views
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.store import read_json, write_json
from tests.refusal import refused


def test_apportion_is_exact_and_proportional_and_includes_every_class() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        counts = generator.integers(1, 50, size=generator.integers(2, 8))
        total = int(generator.integers(len(counts), counts.sum() + 1))
        shares = apportion(counts, total)
        assert shares.sum() == total and (shares >= 1).all() and (shares <= counts).all()
        assert (np.abs(shares - counts * total / counts.sum()) < len(counts)).all()


def test_a_stratified_mask_keeps_the_class_proportions() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = draw_stratified_mask(labels, 50, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [30, 15, 5]


def test_every_sample_is_in_exactly_one_part(tmp_path: Path) -> None:
    dataset = opened(tmp_path, npz(tmp_path), validation=0.2)
    train, validation, test = (
        identities(dataset.split(name).inputs) for name in ("train", "validation", "test")
    )
    assert train | validation == set(range(120)) and not train & validation
    assert test == set(range(120, 160))
    assert np.bincount(dataset.validation.labels).tolist() == [6] * CLASSES


def test_each_image_keeps_its_label(tmp_path: Path) -> None:
    dataset = opened(tmp_path, npz(tmp_path), limit={"train": 40})
    for part in (dataset.train, dataset.validation, dataset.test):
        numbers = part.inputs[:, 0, 0, 0].astype(int) * 256 + part.inputs[:, 0, 1, 0]
        assert (numbers % CLASSES == part.labels).all()


def test_the_validation_part_depends_only_on_the_seed(tmp_path: Path) -> None:
    config = Data(name="npz", path=npz(tmp_path))
    first, again, other = (
        Dataset.open(prepare(config, tmp_path / store, seed))
        for store, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (
        np.array_equal(first.validation.inputs, again.validation.inputs)
        and first.fingerprint == again.fingerprint
    )
    assert identities(first.validation.inputs) != identities(other.validation.inputs)


def test_a_given_validation_part_is_used(tmp_path: Path) -> None:
    file = npz(
        tmp_path, val_images=images(20, first=500), val_labels=(np.arange(20) % CLASSES)[:, None]
    )
    dataset = opened(tmp_path, file)
    assert (
        identities(dataset.validation.inputs) == set(range(500, 520)) and len(dataset.train) == 120
    )


def test_limits_are_exact_and_stratified(tmp_path: Path) -> None:
    dataset = opened(tmp_path, npz(tmp_path), limit={"train": 40, "validation": 8, "test": 12})
    for part, size in ((dataset.train, 40), (dataset.validation, 8), (dataset.test, 12)):
        assert np.bincount(part.labels).tolist() == [size // CLASSES] * CLASSES


def test_label_noise_is_exact_changes_the_class_and_affects_only_training(tmp_path: Path) -> None:
    file = npz(tmp_path)
    clean, noisy = opened(tmp_path, file), opened(tmp_path, file, label_noise=0.3)
    flipped = noisy.train.labels != noisy.clean_labels
    assert flipped.sum() == round(0.3 * len(noisy.train))
    assert np.array_equal(noisy.clean_labels, clean.train.labels)
    assert set(noisy.train.labels[flipped]) == set(range(CLASSES))
    for name in ("validation", "test"):
        assert np.array_equal(noisy.split(name).labels, clean.split(name).labels)
    assert np.array_equal(noisy.train.inputs, clean.train.inputs)


def test_preparing_again_reuses_existing_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Data(name="npz", path=npz(tmp_path))
    first = prepare(config, tmp_path, 0)
    before = {file.name: file.stat().st_mtime_ns for file in first.iterdir()}

    def refuse(*_: Any) -> Any:
        raise AssertionError("the source was loaded again")

    monkeypatch.setitem(
        datasets.DATASETS, "npz", datasets.Source(refuse, datasets.DATASETS["npz"].identity)
    )
    assert prepare(config, tmp_path, 0) == first
    assert {file.name: file.stat().st_mtime_ns for file in first.iterdir()} == before


def test_a_changed_source_is_prepared_again(tmp_path: Path) -> None:
    first = opened(tmp_path, npz(tmp_path))
    second = opened(tmp_path, npz(tmp_path, train=160))
    assert first.fingerprint != second.fingerprint and len(second.train) == 136


def test_each_relevant_setting_has_a_separate_folder(tmp_path: Path) -> None:
    file = npz(tmp_path)
    changes: list[dict[str, Any]] = [
        {},
        {"validation": 0.3},
        {"limit": Limit(train=40)},
        {"label_noise": 0.1},
    ]
    folders = {prepare(Data(name="npz", path=file, **change), tmp_path, 0) for change in changes}
    assert len(folders) == len(changes)
    same = Data(
        name="npz",
        path=file,
        views=3,
        loader_workers=0,
        augmentation="crop",
        mixing="cutmix",
        mix_alpha=0.5,
        on_device=True,
    )
    assert prepare(same, tmp_path, 0) in folders


def _prepare_at_once(config: Data, store: Path, barrier: Any, answers: Any) -> None:
    barrier.wait()
    answers.put(prepare(config, store, 0))


def test_concurrent_preparations_agree(tmp_path: Path) -> None:
    config, context = Data(name="npz", path=npz(tmp_path)), multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(3), context.Queue()
    workers = [
        context.Process(
            target=_prepare_at_once, args=(config, tmp_path / "store", barrier, answers)
        )
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    folders = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(folders) == 1
    assert list((tmp_path / "store" / "data").iterdir()) == list(folders), (
        "no temporary folder remains"
    )
    assert len(Dataset.open(folders.pop()).train) == 102


def test_the_slower_process_uses_the_folder_of_the_faster_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rename = Data(name="npz", path=npz(tmp_path)), os.rename
    winners: list[float] = []

    def late(source: Any, target: Any) -> None:
        if not winners:
            winners.append(0)
            prepare(config, tmp_path, 0)
            winners[0] = (Path(target) / "data.json").stat().st_mtime_ns
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    folder = prepare(config, tmp_path, 0)
    assert (folder / "data.json").stat().st_mtime_ns == winners[0]
    assert list((tmp_path / "data").iterdir()) == [folder]


def test_describe_returns_what_prepare_writes_and_writes_nothing(tmp_path: Path) -> None:
    config, store = Data(name="npz", path=npz(tmp_path), limit=Limit(train=40)), tmp_path / "store"
    before = describe(config, store, 0)
    assert not store.exists()
    assert before.sizes == Sizes(train=40, validation=18, test=40) and before.shape == (3, 8, 8)
    written = read_summary(prepare(config, store, 0))
    # the policy is of the run, not of the data
    of_data = replace(written, sha256={}, augmentation="none")
    assert describe(config, store, 0) == before == of_data


def test_describe_returns_the_policy_of_the_configuration(tmp_path: Path) -> None:
    config, requested = (
        Data(name="npz", path=npz(tmp_path), augmentation=policy) for policy in ("auto", "crop")
    )
    for _ in range(2):
        assert describe(config, tmp_path / "store", 0).augmentation == "none"
        assert describe(requested, tmp_path / "store", 0).augmentation == "crop"
        prepare(requested, tmp_path / "store", 0)


def test_the_policy_of_an_older_store_is_not_that_of_a_new_run(tmp_path: Path) -> None:
    """Such a `data.json` holds the former meaning of `auto` for digits."""
    folder = prepare(Data(), tmp_path, 0)
    write_json(folder / "data.json", read_json(folder / "data.json") | {"augmentation": "crop"})
    assert describe(Data(), tmp_path, 0).augmentation == "none"
    assert Views.from_config(Dataset.open(folder), Data(), 0).policy == "none"


def test_mean_and_deviation_come_from_the_training_part(tmp_path: Path) -> None:
    dataset = opened(tmp_path, npz(tmp_path))
    scaled = np.asarray(dataset.train.inputs, dtype=np.float64) / 255
    assert np.allclose(dataset.mean, scaled.mean(axis=(0, 1, 2))) and np.allclose(
        dataset.std, scaled.std(axis=(0, 1, 2))
    )


def test_a_constant_channel_can_be_normalised(tmp_path: Path) -> None:
    black = np.zeros((120, 8, 8), dtype=np.uint8)
    assert opened(tmp_path, npz(tmp_path, train_images=black, test_images=black[:40])).std == (1.0,)


def test_inputs_are_memory_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    dataset = opened(tmp_path, npz(tmp_path))
    assert isinstance(dataset.train.inputs, np.memmap) and not dataset.train.inputs.flags.writeable
    assert dataset.train.inputs.dtype == np.uint8 and dataset.train.labels.dtype == np.int64


def test_grey_images_and_named_classes(tmp_path: Path) -> None:
    made = arrays()
    grey = {key: made[key][..., 0] for key in ("train_images", "test_images")}
    dataset = opened(tmp_path, npz(tmp_path, classes=np.array(["a", "b", "c", "d"]), **grey))
    assert dataset.shape == (1, 8, 8) and dataset.classes == ("a", "b", "c", "d")


def test_digits_have_the_same_test_part_for_every_seed(tmp_path: Path) -> None:
    first, second = (Dataset.open(prepare(Data(), tmp_path, seed)) for seed in (0, 1))
    assert np.array_equal(first.test.inputs, second.test.inputs) and not np.array_equal(
        first.train.inputs, second.train.inputs
    )
    assert (len(first.train), len(first.validation), len(first.test)) == (1222, 216, 359)
    assert first.train.inputs.max() == 255


class Cifar:
    """Stub of torchvision's CIFAR sets: channels last, a list of labels, names."""

    classes: ClassVar[list[str]] = ["a", "b", "c", "d"]

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        made = arrays()
        self.data: NDArray[Any] = made["train_images" if train else "test_images"]
        self.targets: list[int] = made["train_labels" if train else "test_labels"].tolist()


class Svhn:
    """Stub of torchvision's SVHN: channels first, an array of labels, no names, ten classes."""

    def __init__(self, root: Path, split: str, download: bool) -> None:
        self.data = arrays()[f"{split}_images"].transpose(0, 3, 1, 2)
        self.labels = np.arange(len(self.data)) % 10


@pytest.mark.parametrize(
    ("name", "fake", "classes"), [("CIFAR10", Cifar, "abcd"), ("SVHN", Svhn, "0123456789")]
)
def test_torchvision_layouts_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fake: type, classes: str
) -> None:
    monkeypatch.setattr(f"torchvision.datasets.{name}", fake)
    dataset = Dataset.open(prepare(Data(name=name), tmp_path, 0))
    assert dataset.classes == tuple(classes) and dataset.shape == (3, 8, 8)
    assert np.array_equal(dataset.test.inputs, arrays()["test_images"])
    assert np.array_equal(dataset.test.labels, np.arange(40) % len(classes))


def test_a_download_to_a_read_only_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    monkeypatch.setattr("torchvision.datasets.MNIST", denied)
    with refused(str(tmp_path / "data" / "raw"), "Permission denied", error=PreflightError):
        prepare(Data(name="MNIST", download=True), tmp_path, 0)


def test_a_store_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(PreflightError) as refusal:
        prepare(Data(), tmp_path / "store", 0)
    assert Path(str(refusal.value.field)).parent == tmp_path / "store" / "data"
    assert (
        refusal.value.value == os.strerror(errno.ENOTDIR)
        and refusal.value.allowed == "a folder that can be written"
    )


def test_a_full_disk_is_reported_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(PreflightError) as refusal:
        prepare(Data(), tmp_path, 0)
    assert Path(
        str(refusal.value.field)
    ).parent == tmp_path / "data" and refusal.value.value == os.strerror(errno.ENOSPC)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("file", ["data.json", "train_inputs.npy", "test_labels.npy"])
def test_damaged_prepared_data_are_reported(tmp_path: Path, file: str) -> None:
    folder = prepare(Data(name="npz", path=npz(tmp_path)), tmp_path, 0)
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with refused(
        str(folder / file if file == "data.json" else folder), error=DamagedRecordError
    ) as refusal:
        Dataset.open(folder)
    assert "remove it" in str(refusal.value)
    assert prepare(Data(name="npz", path=tmp_path / "data.npz"), tmp_path, 0) == folder
    assert (
        len(Dataset.open(folder).train)
        and (folder.parent / f"{folder.name}.damaged" / file).stat().st_size <= 100
    )


def _labels(folder: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy", allow_pickle=False)))


def _terabytes(file: Path) -> None:
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<i8", "fortran_order": False, "shape": (10**13,)}
        )


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a label beyond the classes": lambda folder: _labels(
        folder, "train_labels", lambda labels: labels + 2**40
    ),
    "a label below none": lambda folder: _labels(folder, "train_labels", lambda labels: labels - 2),
    "labels of another type": lambda folder: _labels(
        folder, "train_labels", lambda labels: labels.astype(float)
    ),
    "one label less": lambda folder: _labels(folder, "train_labels", lambda labels: labels[:-1]),
    "terabytes of labels": lambda folder: _terabytes(folder / "train_labels.npy"),
    "a header that is no Python": lambda folder: (folder / "train_labels.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + (2000).to_bytes(2, "little") + b"(" * 2000
    ),
    "a zip": lambda folder: np.savez((folder / "train_labels.npy").open("wb"), a=np.zeros(3)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_invalid_prepared_labels_are_refused_and_prepared_again(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    config = Data(name="npz", path=npz(tmp_path))
    folder = prepare(config, tmp_path, 0)
    before = describe(config, tmp_path, 0)
    damage(folder)
    with refused(str(folder), error=DamagedRecordError) as refusal:
        Dataset.open(folder)
    assert "\n" not in str(refusal.value)
    assert describe(config, tmp_path, 0) == before  # of the source
    assert len(Dataset.open(prepare(config, tmp_path, 0)).train) == before.sizes.train


def test_prepared_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = prepare(Data(name="npz", path=npz(tmp_path)), tmp_path, 0)
    _labels(folder, "train_inputs", lambda inputs: inputs[:, :4])
    with refused(str(folder), error=DamagedRecordError) as refusal:
        Dataset.open(folder)
    assert "(102, 4, 8, 3)" in str(refusal.value.value) and "(102, 8, 8, 3)" in str(
        refusal.value.value
    )


def test_digits_are_those_of_scikit_learn() -> None:
    bundled = load_digits()
    parts = datasets.load_digits(Data(), Path())
    assert parts.classes == tuple(str(name) for name in bundled.target_names)
    images = np.rint(bundled.images * (255 / 16)).astype(np.uint8)[..., None]
    wanted = Part(images, bundled.target.astype(np.int64))
    train, test = split_stratified(wanted, 359, np.random.default_rng(0))
    for part, other in ((parts.train, train), (parts.test, test)):
        assert other is not None and part is not None
        assert part.inputs.dtype == np.uint8 and np.array_equal(part.inputs, other.inputs)
        assert part.labels.dtype == np.int64 and np.array_equal(part.labels, other.labels)
