"""Assemble the parts of a table whose rows are samples, and convert its labels to classes."""

import re
from collections.abc import Container, Mapping, Sequence

import numpy as np

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.text import quote
from orchestrator.data import checks
from orchestrator.data._listing import VALIDATION
from orchestrator.data._parts import Labels, Part, split_stratified

# name of a split -> part
SPLITS = {"train": "train", **dict.fromkeys(VALIDATION, "validation"), "test": "test"}
# fixed: results with different seeds share one test part
TEST_SHARE, TEST_SEED = 0.2, 0
NUMBER = re.compile(r"\d{1,18}")


def encode_labels(
    where: str, labels: Mapping[str, Sequence[str]], field: str
) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Return the class numbers of each part, and the names of the classes.

    Labels that are all whole numbers are class numbers from 0. Others are names, numbered in their
    sorted order.

    Args:
        where: Start of error messages.
        labels: The labels of each part; `train` is one of them.
        field: The setting that the errors are about.

    Raises:
        ConfigurationError: A number is too large, a name is not allowed, or a part has a class that
            training does not have.
    """
    if all(NUMBER.fullmatch(label) for part in labels.values() for label in part):
        numbers = {
            name: checks.convert_labels(
                f"{where}: {name}", np.array(part, dtype=np.int64), len(part), f"{field}[{name}]"
            )
            for name, part in labels.items()
        }
        return numbers, checks.default_class_names(numbers["train"])
    classes = tuple(sorted(set(labels["train"])))
    checks.require_class_names(f"{where}: classes", classes, f"{field}[classes]")
    number = {name: index for index, name in enumerate(classes)}
    for name, part in labels.items():
        if unknown := next((label for label in part if label not in number), None):
            raise ConfigurationError(
                f"{where}: the {name} part has the class {quote(unknown)}, which the training part "
                f"does not have: add samples of it there, or remove it"
            ).with_details(f"{field}[{name}]", unknown, classes)
    return {
        name: np.array([number[label] for label in part], dtype=np.int64)
        for name, part in labels.items()
    }, classes


def assemble_parts(
    where: str, config: Data, parts: Mapping[str, Part], classes: Sequence[str]
) -> dict[str, Part]:
    """Return the parts with a test part.

    Without one, the validation part is the test part, as for folders. Without both, it is cut from
    training.

    Raises:
        ConfigurationError: There is a test part and `data.test_share`, or the share is too small or
            too large.
    """
    if source := find_test_split(parts):
        if config.test_share is not None:
            raise ConfigurationError(
                f"data.test_share = {config.test_share} is not allowed, because {where} has a "
                f"{source} part, which is the test part: remove data.test_share"
            ).with_details("data.test_share", config.test_share, None)
        rest = {name: part for name, part in parts.items() if name != source}
        return {**rest, "test": parts[source]}
    whole, share = parts["train"], config.test_share or TEST_SHARE
    total, least = round(share * len(whole)), len(classes)
    if not least <= total <= len(whole) - least:
        raise ConfigurationError(
            f"data.test_share = {share:g} of {len(whole)} samples is {total}: training and test "
            f"part need at least one sample of each of {least} classes; give another share, more "
            f"data or a test part"
        ).with_details("data.test_share", share, (least / len(whole), 1 - least / len(whole)))
    checks.require_label_range(where, "train", whole, least, "data.path")
    checks.require_every_class(where, "train", whole, tuple(classes), "data.path")
    train, test = split_stratified(whole, total, np.random.default_rng(TEST_SEED))
    return {"train": train, "test": test}


def find_test_split(parts: Container[str]) -> str:
    """Return the part that is the test part: `test`, or else `validation`; empty without both."""
    return next((name for name in ("test", "validation") if name in parts), "")


def explain_test_part(config: Data, parts: Container[str]) -> str:
    """Return a sentence on the test part if the source has none of that name, else ''."""
    source = find_test_split(parts)
    if source:
        return "" if source == "test" else "the validation part of the source, which has no other"
    return (
        f"{config.test_share or TEST_SHARE:g} of the samples, drawn with stratification and a "
        f"fixed seed, as the source has none; set data.test_share to change it"
    )
