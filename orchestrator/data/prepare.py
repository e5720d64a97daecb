"""Prepare data once: load, validate, cut, and write arrays that workers map."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.data import checks, datasets
from orchestrator.data._contents import hash_contents
from orchestrator.data._image_check import check_images
from orchestrator.data._listing import describe_unread, list_kinds
from orchestrator.data._parts import (
    UNLABELLED,
    Labels,
    Part,
    Parts,
    add_label_noise,
    channel_statistics,
    draw_stratified_mask,
    hide_labels,
    split_stratified,
)
from orchestrator.data._writing import write
from orchestrator.data.dataset import (
    SUMMARY_FILE,
    Dataset,
    DataSummary,
    Sizes,
    read_labels,
    read_summary,
)
from orchestrator.data.preprocessing import choose_normalization, resolve_augmentation
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.store import set_aside

FORMAT = 2  # increase when the written content changes, so that older folders are not reused
# one stream of random numbers for each purpose
CUT, NOISE, LIMITS, LABELLED = 1, 2, {"train": 3, "validation": 4, "test": 5}, 6
log = logging.getLogger(__name__)


def prepare(
    config: Data, store: Path, seed: int, note: Callable[[str], None] = lambda _: None
) -> Path:
    """Prepare the data of a configuration, unless they exist.

    Existing data are reused without loading the source. Damaged data are set aside and prepared
    again.

    Args:
        config: The data section of the configuration.
        store: The root of the store.
        seed: Seed of the cuts, the label noise and the hidden labels.
        note: Called with a message about a step that takes long.

    Returns:
        The folder `store/data/FINGERPRINT`, with train, validation and test as .npy files and
        `data.json`.

    Raises:
        ConfigurationError: The data cannot be used.
        PreflightError: The store cannot be written.
    """
    target = _folder(config, store, seed)
    # check this first: a folder that another process writes meanwhile is not damaged
    has_summary = os.path.isfile(target / SUMMARY_FILE)
    if not _is_usable(target):
        parts, clean = _build(config, store, seed)
        summary = _summary(config, parts, target.name)
        if parts.root is not None:
            decoded = check_images(parts, note)
            summary = replace(summary, decoded=decoded, contents=hash_contents(parts))
        if has_summary:
            log.warning(
                "the damaged data are kept as %s, and the data are prepared again",
                set_aside(target),
            )
        write(target, parts, clean, summary)
    return target


def _is_usable(target: Path) -> bool:
    """Return whether the folder holds prepared data that can be used."""
    try:
        Dataset.open(target)
    except DamagedRecordError as error:
        if os.path.isfile(target / SUMMARY_FILE):
            log.warning("%s", error)
        return False
    return True


def describe(config: Data, store: Path, seed: int) -> DataSummary:
    """Return the content of `data.json` without checksums, prepared or not.

    Nothing is written or downloaded. Raise as `prepare` does. `augmentation` is the policy of
    `config`.
    """
    summary = _read_or_build_summary(config, store, seed)
    return replace(summary, augmentation=resolve_augmentation(config))


def list_notes(config: Data, summary: DataSummary) -> dict[str, str]:
    """Return the lines of a plan about unread files and converted images, by their titles."""
    lines = {}
    if unread := datasets.find(config).list_unread(config):
        lines["not read"] = list_kinds(unread)
    if summary.decoded:
        lines["images"] = "; ".join(f"{kind}: {count}" for kind, count in summary.decoded.items())
    return lines


def _read_or_build_summary(config: Data, store: Path, seed: int) -> DataSummary:
    target = _folder(config, store, seed)
    if _is_usable(target):
        summary = replace(read_summary(target), sha256={})
        classes = len(summary.classes)
        labels = read_labels(target, "train_labels", summary.sizes.train, classes)
        return replace(summary, class_sizes=summary.class_sizes or _class_sizes(labels, classes))
    try:
        parts, _ = _build(config.model_copy(update={"download": False}), store, seed)
    except ConfigurationError as error:
        # the files could not be read, and may only be missing
        if config.download and error.__cause__:
            message = f"{error} (a dry run downloads nothing: start it without --dry-run)"
            raise ConfigurationError.from_error(error, message) from error
        raise
    return _summary(config, parts, target.name)


def _folder(config: Data, store: Path, seed: int) -> Path:
    source = datasets.find(config)
    determining = {
        "format": FORMAT,
        "name": config.name,
        "source": source.identity(config),
        "seed": seed,
        **config.model_dump(mode="json", include={"validation", "limit", "label_noise", "size"}),
        **config.model_dump(
            mode="json",
            include={"labelled", "validation_in_training", "mean", "std"},
            exclude_defaults=True,
        ),
    }
    text = json.dumps(determining, sort_keys=True)
    return store / "data" / hashlib.sha256(text.encode()).hexdigest()[:16]


def _build(config: Data, store: Path, seed: int) -> tuple[Parts, Labels]:
    """Return the parts for training, and the true label of every training sample."""
    where = f"data.name = {config.name}" + (f" at {config.path}" if config.path else "")
    source = datasets.find(config)
    parts = source.load(config, store / "data" / "raw")
    try:
        return _make_splits(where, parts, config, seed)
    except ConfigurationError as error:  # unread files may explain the error
        if unread := describe_unread(source.list_unread(config)):
            raise ConfigurationError.from_error(error, f"{error}{unread}") from error
        raise


def _field(config: Data) -> str:
    """Return the setting that selects the data."""
    return "data.path" if config.path else "data.name"


def _make_splits(where: str, parts: Parts, config: Data, seed: int) -> tuple[Parts, Labels]:
    checks.require_consistent_parts(where, parts, _field(config))
    if parts.validation is None:
        parts = _with_validation(where, parts, config, seed)
    limited = {
        name: _apply_limit(where, name, part, parts.classes, config, seed)
        for name, part in parts.splits().items()
    }
    clean = limited["train"]
    known = _hide_unlabelled(clean.labels, parts.classes, config, seed)
    noisy = add_label_noise(
        known, config.label_noise, len(parts.classes), np.random.default_rng([seed, NOISE])
    )
    train = Part(clean.inputs, noisy)
    if config.validation_in_training:
        train = train.followed_by(limited["validation"])
        clean = clean.followed_by(limited["validation"])
    cut = replace(parts, train=train, validation=limited["validation"], test=limited["test"])
    return cut, clean.labels


def _with_validation(where: str, parts: Parts, config: Data, seed: int) -> Parts:
    total, classes = round(config.validation * len(parts.train)), len(parts.classes)
    checks.require_every_class(where, "train", parts.train, parts.classes, _field(config))
    if not classes <= total <= len(parts.train) - classes:
        raise ConfigurationError(
            f"data.validation = {config.validation} of {len(parts.train)} training samples is "
            f"{total}, which leaves {len(parts.train) - total} for training: both parts need at "
            f"least one sample of each of {classes} classes; give another share or more data"
        ).with_details(
            "data.validation",
            config.validation,
            (classes / len(parts.train), 1 - classes / len(parts.train)),
        )
    train, validation = split_stratified(parts.train, total, np.random.default_rng([seed, CUT]))
    return replace(parts, train=train, validation=validation)


def _apply_limit(
    where: str, name: str, part: Part, classes: tuple[str, ...], config: Data, seed: int
) -> Part:
    """Return a part cut to its limit, with every class still in it."""
    checks.require_every_class(where, name, part, classes, _field(config))
    limit: int | None = getattr(config.limit, name)
    if limit is None or limit >= len(part):
        return part
    if limit < len(classes):
        raise ConfigurationError(
            f"data.limit.{name} = {limit} is not allowed: give at least {len(classes)}, one "
            f"for each class"
        ).with_details(f"data.limit.{name}", limit, (len(classes), None))
    return split_stratified(part, limit, np.random.default_rng([seed, LIMITS[name]]))[1]


def _hide_unlabelled(labels: Labels, classes: tuple[str, ...], config: Data, seed: int) -> Labels:
    """Return the training labels with all but `data.labelled` hidden.

    Every class keeps a label.
    """
    requested, samples = config.labelled, len(labels)
    if requested is None:
        return labels
    if requested >= samples:
        raise ConfigurationError(
            f"data.labelled = {requested} of {samples} training samples leaves none unlabelled: "
            f"give a smaller number, or remove the setting"
        ).with_details("data.labelled", requested, (len(classes), samples - 1))
    if requested < len(classes):
        raise ConfigurationError(
            f"data.labelled = {requested} is not allowed: give at least {len(classes)}, one for "
            f"each class"
        ).with_details("data.labelled", requested, (len(classes), samples - 1))
    return hide_labels(
        labels, draw_stratified_mask(labels, requested, np.random.default_rng([seed, LABELLED]))
    )


def _class_sizes(labels: Labels, classes: int) -> list[int]:
    """Return the number of training samples labelled as each class."""
    return [int(count) for count in np.bincount(labels[labels != UNLABELLED], minlength=classes)]


def _summary(config: Data, parts: Parts, fingerprint: str) -> DataSummary:
    if parts.root is None:
        height, width, channels = parts.train.inputs.shape[1:]
        own_samples = len(parts.train) - (
            len(parts.splits()["validation"]) if config.validation_in_training else 0
        )
        # of the same images, with and without the validation part in training
        statistic = channel_statistics(parts.train.inputs[:own_samples])
    else:
        assert config.size is not None
        height, width, channels = config.size, config.size, 3
        statistic = None
    mean, std = choose_normalization(config, channels, statistic)
    labelled = int(np.count_nonzero(parts.train.labels != UNLABELLED))
    return DataSummary(
        name=config.name,
        classes=list(parts.classes),
        shape=(channels, height, width),
        mean=mean,
        std=std,
        sizes=Sizes(**{name: len(part) for name, part in parts.splits().items()}),
        class_sizes=_class_sizes(parts.train.labels, len(parts.classes)),
        labelled=labelled if labelled < len(parts.train) else None,
        label_noise=config.label_noise,
        validation_in_training=config.validation_in_training,
        root=str(parts.root) if parts.root else None,
        fingerprint=fingerprint,
        decoded=parts.converted,
    )
