"""Read labels of a Hugging Face data set on disk: a saved data set, or parquet files.

No script of a data set is run, and nothing is downloaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.text import quote, shorten
from orchestrator.data import checks
from orchestrator.data._hf_files import HFSource, HFTable, open_source
from orchestrator.data._hf_images import TableImages
from orchestrator.data._parts import Part, Parts
from orchestrator.data._table import assemble_parts, encode_labels, explain_test_part

VERSION = "1"  # increase when the same files give other samples


class Columns(NamedTuple):
    """Names of the columns that are read."""

    image: str
    label: str


def load(config: Data, raw: Path) -> Parts:
    """Return the rows of the parts with their labels, and the images, which are decoded later.

    Raises:
        ConfigurationError: The data set cannot be used, or a part has too few samples.
    """
    source = open_source(config)
    where, columns = f"data.path = {source.path}", choose_columns(config, source)
    labels, classes = _read_labels(where, source.tables, columns.label)
    images = TableImages(where, source.tables, columns.image, config.size)
    parts = {part: Part(images.rows_of(part), part_labels) for part, part_labels in labels.items()}
    whole = assemble_parts(where, config, parts, classes)
    return Parts(whole["train"], whole.get("validation"), whole["test"], classes, images=images)


def identity(config: Data) -> list[Any]:
    """Return the path of the data set, and the path, bytes and time of each of its files."""
    source = open_source(config)
    states = []
    for file in source.files:
        status = file.stat()
        states.append(
            [str(file.relative_to(source.path.parent)), status.st_size, status.st_mtime_ns]
        )
    return [VERSION, str(source.path), states]


def list_unread(config: Data) -> list[str]:
    """Return the columns, splits and files that are not read."""
    source = open_source(config)
    columns = choose_columns(config, source)
    unread = [name for name in source.tables["train"].schema.names if name not in columns]
    words = []
    for kind, names in (("columns", unread), ("splits and files", source.unread)):
        if names:
            words.append(f"{kind}: {len(names)} ({shorten(', '.join(names[:8]))})")
    return words


def explain_test(config: Data) -> str:
    """Return a sentence on the test part if the source has none of that name, else ''."""
    return explain_test_part(config, open_source(config).tables)


def choose_columns(config: Data, source: HFSource) -> Columns:
    """Return the columns of images and labels: the configured ones, or the only ones of their kind.

    Raises:
        ConfigurationError: There is none or more than one, or a part lacks it.
    """
    where, table = f"data.path = {source.path}", source.tables["train"]
    kinds = {name: _kind(table, name) for name in table.schema.names}

    def named(*wanted: str) -> list[str]:
        return [name for name, kind in kinds.items() if kind in wanted]

    image = _choose(
        where, "data.image_column", config.image_column, kinds, [named("image"), named("binary")]
    )
    candidates = [named("classes"), named("numbers", "names", "lists")]
    label = _choose(where, "data.label_column", config.label_column, kinds, candidates)
    for key, column, allowed in (
        ("data.image_column", image, ("image", "binary")),
        ("data.label_column", label, ("classes", "numbers", "names")),
    ):
        if kinds[column] == "lists" and key == "data.label_column":
            raise ConfigurationError(
                f"{where}: column {quote(column)} holds lists: {checks.MULTI_LABEL}; set "
                f"data.label_column to a column with one label for each image"
            ).with_details(key, column, "one label for each image")
        if kinds[column] not in allowed:
            raise ConfigurationError(
                f"{where}: column {quote(column)} holds {table.schema.field(column).type}: "
                + ("encoded images" if column == image else "whole numbers or names")
                + f" are needed; set {key} to another column"
            ).with_details(key, column, allowed)
    for part, other in source.tables.items():
        if missing := [name for name in (image, label) if name not in other.schema.names]:
            raise ConfigurationError(
                f"{where}: the {part} part has no column {quote(missing[0])}: add it, or remove "
                f"that part"
            ).with_details(f"data.path[{part}]", tuple(other.schema.names), missing[0])
    return Columns(image, label)


def _kind(table: HFTable, name: str) -> str:
    """Return the kind of a column by its feature and its Arrow type."""
    from pyarrow import types

    kind, feature = table.schema.field(name).type, table.features.get(name, {})
    if feature.get("_type") == "Image":
        return "image"
    if types.is_struct(kind) and any(kind.field(n).name == "bytes" for n in range(kind.num_fields)):
        return "image"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "binary"
    if types.is_integer(kind):
        return "classes" if feature.get("_type") == "ClassLabel" else "numbers"
    if types.is_string(kind) or types.is_large_string(kind):
        return "names"
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return "lists" if is_list else "other"


def _choose(
    where: str,
    key: str,
    column: str | None,
    kinds: Mapping[str, str],
    candidates: Sequence[list[str]],
) -> str:
    """Return the configured column, or the only one of the first kind that exists."""
    columns = shorten(", ".join(kinds))
    if column is not None:
        if column not in kinds:
            raise ConfigurationError(
                f"{key} = {column} is not a column of {where.removeprefix('data.path = ')}: its "
                f"columns are {columns}"
            ).with_details(key, column, tuple(kinds))
        return column
    names = next((each for each in candidates if each), [])
    if len(names) != 1:
        what = "images" if key == "data.image_column" else "labels"
        count = f"{len(names)} columns that may hold" if names else "no column of"
        raise ConfigurationError(
            f"{where} has {count} {what} (its columns are {columns}): "
            + (f"set {key} to one of {shorten(', '.join(names))}" if names else f"set {key}")
        ).with_details(key, None, tuple(names or kinds))
    return names[0]


def _read_labels(
    where: str, tables: Mapping[str, HFTable], column: str
) -> tuple[dict[str, NDArray[np.int64]], tuple[str, ...]]:
    """Return the class numbers of each part, and the names of the classes."""
    values = {part: table.read_column(column) for part, table in tables.items()}
    for part, array in values.items():
        if array.null_count or not len(array):
            raise ConfigurationError(
                f"{where}: {array.null_count} of {len(array)} labels of the {part} part are "
                f"missing: every part needs samples, and every sample a label"
            ).with_details(f"data.path[{part}]", array.null_count, 0)
    kind = _kind(tables["train"], column)
    if kind == "names":
        names = {part: array.to_pylist() for part, array in values.items()}
        return encode_labels(where, names, "data.path")
    numbers = {
        part: checks.convert_labels(
            f"{where}: {column} of {part}", array.to_numpy(), len(array), f"data.path[{part}]"
        )
        for part, array in values.items()
    }
    if kind != "classes":
        return numbers, checks.default_class_names(numbers["train"])
    feature = tables["train"].features[column]
    classes = tuple(map(str, feature.get("names") or ()))
    checks.require_class_names(f"{where}: classes", classes, "data.path[classes]")
    return numbers, classes or checks.default_class_names(numbers["train"])
