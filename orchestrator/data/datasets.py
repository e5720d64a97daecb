"""Load data sets by name."""

import errno
import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from methods import Settings, SettingsError
from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError, PreflightError, suggest_name
from orchestrator.core.paths import read_path
from orchestrator.data import _csv as csv
from orchestrator.data import _folder as folder
from orchestrator.data import _hf as hf
from orchestrator.data import _npz as npz
from orchestrator.data import checks
from orchestrator.data._parts import Part, Parts, split_stratified

VERSION = "1"  # raised when a loader gives other samples: prepared data are then not reused
UNFIT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# fixed: results with different seeds share one test part
DIGITS_TEST_SHARE, DIGITS_TEST_SEED = 0.2, 0


@dataclass(frozen=True)
class Source:
    """Data set that `data.name` can name.

    Attributes:
        load: `load(config, raw)` reads the data; `raw` is the folder of downloads. Raises
            ConfigurationError.
        identity: `identity(config)` returns a cheap JSON value that changes when the content may
            have changed. Raises ConfigurationError.
        list_unread: `list_unread(config)` lists the user's files, keys or columns that are not
            read.
        explain_test: `explain_test(config)` returns a sentence on a test part that the source does
            not name, else "".
        settings: The class of `data.settings`; None if the data set has none.
    """

    load: Callable[[Data, Path], Parts]
    identity: Callable[[Data], Any]
    list_unread: Callable[[Data], list[str]] = lambda _: []
    explain_test: Callable[[Data], str] = lambda _: ""
    settings: type[Settings] | None = None


def find(config: Data) -> Source:
    """Return the source of `config.name`. Raise ConfigurationError with the nearest known name."""
    if config.name not in DATASETS:
        raise ConfigurationError(
            f"data.name = {config.name!r} is not known: {suggest_name(config.name, DATASETS)}"
        ).with_details("data.name", config.name, tuple(DATASETS))
    source = DATASETS[config.name]
    _check_settings(config, source)
    return source


def _check_settings(config: Data, source: Source) -> None:
    """Raise ConfigurationError if `data.settings` do not belong to the data set."""
    if source.settings is None:
        if config.settings:
            raise ConfigurationError(
                f"data.settings = {config.settings} is not allowed: data.name = {config.name} has "
                f"none; remove them"
            ).with_details("data.settings", config.settings, {})
        return
    try:
        source.settings.build(config.settings)
    except SettingsError as error:
        raise ConfigurationError.from_error(
            error, f"data.settings: {error}", "data.settings"
        ) from error


def load_digits(config: Data, raw: Path) -> Parts:
    """Load scikit-learn's bundled 8x8 grey digits, scaled from 0..16 to 0..255.

    A fixed, stratified fifth is the test part.
    """
    spec = importlib.util.find_spec("sklearn")  # its import takes 1 s
    assert spec is not None and spec.origin is not None, "scikit-learn is a dependency"
    file = Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz"
    with gzip.open(file, "rt") as lines:
        rows = np.loadtxt(lines, np.int64, delimiter=",")  # 64 pixels and the label
    images = np.rint(rows[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    whole = Part(images, rows[:, -1])
    total = round(DIGITS_TEST_SHARE * len(whole))
    train, test = split_stratified(whole, total, np.random.default_rng(DIGITS_TEST_SEED))
    return Parts(train, None, test, tuple(str(label) for label in range(10)))


def load_torchvision(config: Data, raw: Path) -> Parts:
    """Load a torchvision data set below `config.path` or `raw`.

    It is downloaded only if `config.download` is set.
    """
    root = read_path(config.path, "data.path") if config.path else raw
    train, test = (_torchvision_set(config, root, train) for train in (True, False))
    classes = tuple(str(name) for name in getattr(train, "classes", range(10)))
    return Parts(_torchvision_part(train), None, _torchvision_part(test), classes)


def _torchvision_set(config: Data, root: Path, train: bool) -> Any:
    from torchvision import datasets

    part = {"split": "train" if train else "test"} if config.name == "SVHN" else {"train": train}
    try:
        return getattr(datasets, config.name)(root, download=config.download, **part)
    except Exception as error:  # torchvision, scipy and pickle have no common error for damage
        if isinstance(error, OSError) and error.errno in UNFIT:
            raise PreflightError(
                f"{root} cannot be used ({error.strerror}): give another data.path or --store"
            ).with_details(str(root), error.strerror, "a folder that can be written") from error
        # torchvision's readers assert on a truncated file, and raise RuntimeError for a missing one
        reason = " ".join(str(error).split()) or "a file is truncated"
        if config.download:
            step = "check the network connection, or copy the files there and remove data.download"
        else:
            step = "set data.download=true, or set data.path to the folder that contains the files"
        raise ConfigurationError(
            f"data.name = {config.name} cannot be read below {root} ({reason}): {step}"
        ).with_details("data.path", str(root), f"the files of {config.name}") from error


def _torchvision_part(dataset: Any) -> Part:
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    images = np.asarray(dataset.data)
    if not hasattr(dataset, "targets"):  # only SVHN has channels first
        images = images.transpose(0, 2, 3, 1)
    where = f"{type(dataset).__name__} images"
    return Part(
        checks.convert_images(where, images, "data.name"),
        checks.convert_labels(where, np.asarray(labels), len(images), "data.name"),
    )


def _digits_identity(config: Data) -> list[str]:
    return [VERSION]


def _torchvision_identity(config: Data) -> list[str]:
    # a reduced copy in MNIST's format passes torchvision's checks, so two roots are two sources
    return [VERSION, str(read_path(config.path, "data.path")) if config.path else ""]


TORCHVISION = Source(load_torchvision, _torchvision_identity)
DATASETS: dict[str, Source] = {
    "digits": Source(load_digits, _digits_identity),
    **dict.fromkeys(("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN"), TORCHVISION),
    "npz": Source(npz.load, npz.identity, npz.list_unread),
    "folder": Source(folder.load, folder.identity, folder.list_unread),
    "csv": Source(csv.load, csv.identity, csv.list_unread, csv.explain_test),
    "hf": Source(hf.load, hf.identity, hf.list_unread, hf.explain_test),
}
