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
from orchestrator.data._image_check import check_images, pack_images
from orchestrator.data._listing import describe_unread, list_kinds
from orchestrator.data._parts import (
    UNLABELLED,
    Labels,
    Part,
    Parts,
    add_label_noise,
    channel_statistics,
    chunk_statistics,
    draw_stratified_mask,
    hide_labels,
    split_stratified,
    without_labels,
)
from orchestrator.data._writing import publishing, write
from orchestrator.data.dataset import (
    SUMMARY_FILE,
    Dataset,
    DataSummary,
    Sizes,
    read_labels,
    read_summary,
)
from orchestrator.data.preprocessing import (
    Statistics,
    choose_normalization,
    needs_no_statistics,
    require_like,
    require_suitable,
    resolve_augmentation,
)
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.store import set_aside

FORMAT = 2  # increase when the written content changes, so that older folders are not reused
# one stream of random numbers for each purpose
CUT, NOISE, LIMITS, LABELLED = 1, 2, {"train": 3, "validation": 4, "test": 5}, 6
# settings that determine the data, and that are not in the fingerprint of data without them
DETERMINING = {
    *("labelled", "validation_in_training", "mean", "std"),
    *("image_column", "label_column", "test_share", "like"),
}
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
    if _is_usable(target):
        require_suitable(config, read_summary(target))
        return target
    parts, clean = _build(config, store, seed)
    summary = _summary(config, parts, target.name)
    require_suitable(config, summary)
    if parts.root is not None:
        if summary.packed_side is None:
            summary = replace(summary, decoded=check_images(parts, note))
        summary = replace(summary, contents=hash_contents(parts))
    with publishing(target) as folder:
        if summary.packed_side is not None:
            decoded = pack_images(parts, summary.packed_side, folder, note)
            summary = replace(summary, decoded=decoded)
        write(folder, parts, clean, summary)
        if has_summary:
            log.warning(
                "the damaged data are kept as %s, and the data are prepared again",
                set_aside(target),
            )
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
    require_suitable(config, summary)
    return replace(summary, augmentation=resolve_augmentation(config))


def list_notes(config: Data, summary: DataSummary) -> dict[str, str]:
    """Return the lines of a plan about the source and converted images, by their titles."""
    lines, source = {}, datasets.find(config)
    if test := source.explain_test(config):
        lines["test part"] = test
    if unread := source.list_unread(config):
        lines["not read"] = list_kinds(unread)
    if summary.decoded:
        lines["images"] = "; ".join(f"{kind}: {count}" for kind, count in summary.decoded.items())
    if summary.packed_side:
        lines["packed"] = (
            f"images are read from one file, reduced to a shorter side of {summary.packed_side} "
            f"pixels, so crops differ from those of data.pack=false"
        )
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
        **({"packed_side": config.packed_side} if config.packed_side else {}),
        **config.model_dump(mode="json", include=DETERMINING, exclude_defaults=True),
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
    for more in _additional_samples(parts, limited["validation"], config):
        train, clean = train.followed_by(more), clean.followed_by(more)
    limited_parts = replace(
        parts, train=train, validation=limited["validation"], test=limited["test"], unlabelled=None
    )
    return limited_parts, clean.labels


def _additional_samples(parts: Parts, validation: Part, config: Data) -> list[Part]:
    """Return the samples that follow the labelled ones: unlabelled ones, then validation."""
    if parts.unlabelled is None:
        return [validation] if config.validation_in_training else []
    if config.sampling == "balanced":
        raise ConfigurationError(
            f"data.sampling = balanced is not allowed with the {len(parts.unlabelled)} unlabelled "
            f"images of the data, because they have no class: leave it out"
        ).with_details("data.sampling", "balanced", ("uniform",))
    return [without_labels(parts.unlabelled)] + [validation] * config.validation_in_training


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
    """Return a part cut to its limit, with every class still in it.

    The limit of the training part is that of its labelled samples.
    """
    limit: int | None = getattr(config.limit, name)
    if not len(part):
        if limit is not None:
            raise ConfigurationError(
                f"data.limit.{name} = {limit} limits labelled samples, but no training sample has "
                f"a label: leave it out"
            ).with_details(f"data.limit.{name}", limit, None)
        return part
    checks.require_every_class(where, name, part, classes, _field(config))
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

    Every class keeps a label, unless none is kept.
    """
    requested, samples = config.labelled, len(labels)
    if requested is None:
        return labels
    if requested == 0:
        return hide_labels(labels, np.zeros(samples, dtype=bool))
    if requested >= samples:
        raise ConfigurationError(
            f"data.labelled = {requested} of {samples} training samples leaves none unlabelled: "
            f"give a smaller number, or remove the setting"
        ).with_details("data.labelled", requested, (len(classes), samples - 1))
    if requested < len(classes):
        raise ConfigurationError(
            f"data.labelled = {requested} is not allowed: give at least {len(classes)}, one for "
            f"each class, or 0 for none"
        ).with_details("data.labelled", requested, (len(classes), samples - 1))
    return hide_labels(
        labels, draw_stratified_mask(labels, requested, np.random.default_rng([seed, LABELLED]))
    )


def _class_sizes(labels: Labels, classes: int) -> list[int]:
    """Return the number of training samples labelled as each class."""
    return [int(count) for count in np.bincount(labels[labels != UNLABELLED], minlength=classes)]


def _image_shape(config: Data, parts: Parts) -> tuple[int, int, int]:
    """Return (H, W, C) of an image."""
    if parts.images is not None:
        return parts.images.shape
    if parts.root is None:
        height, width, channels = parts.train.inputs.shape[1:]
        return height, width, channels
    assert config.size is not None
    return config.size, config.size, 3


def _statistics(config: Data, parts: Parts) -> Statistics | None:
    """Return mean and deviation of the training images, None for images that stay files.

    They are those of the same images, with and without the validation part in training.
    """
    if parts.root is not None:
        return None
    own_samples = len(parts.train) - (
        len(parts.splits()["validation"]) if config.validation_in_training else 0
    )
    inputs = parts.train.inputs[:own_samples]
    if parts.images is None:
        return channel_statistics(inputs)
    if needs_no_statistics(config):
        return None
    sample = parts.images.sample(inputs)
    return chunk_statistics(parts.images.decode(sample), parts.images.shape[2])


def _summary(config: Data, parts: Parts, fingerprint: str) -> DataSummary:
    height, width, channels = _image_shape(config, parts)
    require_like(config, (channels, height, width))
    mean, std = choose_normalization(config, channels, _statistics(config, parts))
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
        packed_side=config.packed_side,
        fingerprint=fingerprint,
        decoded=parts.converted,
    )
