"""List the image paths and labels of a CSV file, without decoding the images."""

import csv
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_file
from orchestrator.core.text import control_character, quote, shorten
from orchestrator.data import checks
from orchestrator.data._parts import Part, Parts
from orchestrator.data._table import SPLITS, assemble_parts, encode_labels, explain_test_part

VERSION = "1"  # increase when the same file gives other samples
IMAGE, LABEL, SPLIT = "path", "label", "split"
LAYOUT = "a header and the columns path, label and optionally split (train, val or test)"
SEVERAL = ";|"  # separators of several labels
NAMED = 5  # rows or files in one message


class Row(NamedTuple):
    """Sample of the file: the path of its image, its label, its part, and the line it ends in."""

    path: str
    label: str
    part: str
    line: int


class Table(NamedTuple):
    """Rows of the file, and the names of the columns that are not read."""

    rows: tuple[Row, ...]
    unread: tuple[str, ...]

    @property
    def parts(self) -> set[str]:
        """Return the parts that have rows."""
        return {row.part for row in self.rows}


def load(config: Data, raw: Path) -> Parts:
    """Return the paths of the images, relative to the folder of the file, and their labels.

    Raises:
        ConfigurationError: The file cannot be used, or a part has too few samples.
    """
    file, table = _open_table(config)
    where = f"data.path = {file}"
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        rows.setdefault(row.part, []).append(row)
    labels, classes = encode_labels(
        where, {part: [row.label for row in each] for part, each in rows.items()}, "data.path"
    )
    parts = {
        part: Part(np.array([os.fsencode(row.path) for row in each], dtype=bytes), labels[part])
        for part, each in rows.items()
    }
    whole = assemble_parts(where, config, parts, classes)
    return Parts(whole["train"], whole.get("validation"), whole["test"], classes, file.parent)


def identity(config: Data) -> list[Any]:
    """Return the file and its state, and the path, bytes and time of every image.

    Raises:
        ConfigurationError: The file cannot be used, or images are missing.
    """
    file, table = _open_table(config)
    return [VERSION, str(file), _state(file), list(_image_states(file, table))]


def list_unread(config: Data) -> list[str]:
    """Return the columns of the file that are not read."""
    columns = [shorten(name) for name in _open_table(config)[1].unread]
    return [f"columns of the file: {len(columns)} ({', '.join(columns[:8])})"] if columns else []


def explain_test(config: Data) -> str:
    """Return a sentence on the test part if the file has none of that name, else ''."""
    return explain_test_part(config, _open_table(config)[1].parts)


def _open_table(config: Data) -> tuple[Path, Table]:
    path = checks.require_path(config, "a CSV file", "FILE.csv")
    checks.require_size(config)
    file = read_file(path, "data.path", f"data.name = csv needs a CSV file with {LAYOUT}")
    columns = (config.image_column or IMAGE, config.label_column or LABEL)
    return file, _read_table(file, _state(file), columns)


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=2)
def _read_table(file: Path, state: tuple[int, int], columns: tuple[str, str]) -> Table:
    """Return the rows of a file; `state` changes if the file does."""
    where = f"data.path = {file}"
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = "\t" if "\t" in stream.readline() else ","
            stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            read = _read_columns(where, header, columns)
            rows = tuple(_read_rows(where, reader, header, read))
    except (UnicodeDecodeError, csv.Error) as error:
        reason = shorten(" ".join(str(error).split()))
        raise ConfigurationError(
            f"{where} cannot be read as CSV ({reason}): save it as UTF-8 with {LAYOUT}"
        ).with_details("data.path", reason, "a CSV file in UTF-8") from error
    if not any(row.part == "train" for row in rows):
        raise ConfigurationError(
            f"{where} has no rows of the training part: give rows, with train in the column "
            f"{SPLIT} if there is one"
        ).with_details("data.path[train]", 0, (1, None))
    _require_single_labels(where, rows)
    _require_each_once(where, rows)
    return Table(rows, tuple(name for index, name in enumerate(header) if index not in read))


def _read_columns(where: str, header: Sequence[str], columns: tuple[str, str]) -> list[int]:
    """Return the positions of image and label, and of the split if there is one."""
    keys = ("data.image_column", "data.label_column")
    for key, name in zip(keys, columns, strict=True):
        if header.count(name) != 1:
            count = "no" if name not in header else "more than one"
            raise ConfigurationError(
                f"{where} has {count} column {quote(name)} (its columns are "
                f"{shorten(', '.join(header)) or 'none'}): give {LAYOUT}, or set {key}"
            ).with_details(key, name, tuple(header))
    named = [*columns, *([SPLIT] if SPLIT in header else [])]
    return [header.index(name) for name in named]


def _read_rows(
    where: str, reader: Any, header: Sequence[str], read: Sequence[int]
) -> Iterator[Row]:
    for values in reader:
        if not values:  # an empty line
            continue
        line = f"{where}, line {reader.line_num}"
        if len(values) != len(header):
            raise ConfigurationError(
                f"{line} has {len(values)} values for {len(header)} columns: give one value for "
                f"each, and quote values that contain the separator"
            ).with_details("data.path", len(values), len(header))
        path, label, *split = (values[position].strip() for position in read)
        if not path or not label or control_character(path, allowed=""):
            raise ConfigurationError(
                f"{line} has the path {quote(path)} and the label {quote(label)}: give both, of "
                f"printable characters"
            ).with_details("data.path", (path, label), "a path and a label")
        if any(mark in label for mark in SEVERAL):
            raise ConfigurationError(
                f"{line} has the label {quote(label)}: {checks.MULTI_LABEL}; give one class "
                f"without {' or '.join(SEVERAL)} in its name"
            ).with_details("data.path", label, "one label for each image")
        if split and split[0] not in SPLITS:
            raise ConfigurationError(
                f"{line} has the split {quote(split[0])}: give one of {', '.join(SPLITS)}"
            ).with_details("data.path", split[0], tuple(SPLITS))
        yield Row(path, label, SPLITS[split[0]] if split else "train", reader.line_num)


def _require_single_labels(where: str, rows: Sequence[Row]) -> None:
    """Raise ConfigurationError if a label is a list of other labels, separated by commas."""
    labels = {row.label for row in rows}
    for row in rows:
        names = [name.strip() for name in row.label.split(",")]
        if len(names) > 1 and labels.issuperset(names):
            raise ConfigurationError(
                f"{where}, line {row.line} has the label {quote(row.label)}, whose parts are "
                f"classes of the file: {checks.MULTI_LABEL}; give one class, or write this name "
                f"without a comma"
            ).with_details("data.path", row.label, "one label for each image")


def _require_each_once(where: str, rows: Sequence[Row]) -> None:
    """Raise ConfigurationError if an image is listed twice."""
    first: dict[str, Row] = {}
    repeated = [row for row in rows if first.setdefault(os.path.normpath(row.path), row) is not row]
    if not repeated:
        return
    lines = ", ".join(
        f"{shorten(row.path)} (lines {first[os.path.normpath(row.path)].line} and {row.line})"
        for row in repeated[:NAMED]
    )
    reason = "each image may be listed once"
    if any(row.label != first[os.path.normpath(row.path)].label for row in repeated):
        reason = f"some have several labels, and {checks.MULTI_LABEL}"
    raise ConfigurationError(
        f"{where} lists {len(repeated)} images twice, such as {lines}: {reason}; remove rows"
    ).with_details("data.path", repeated[0].path, "each image once")


def _image_states(file: Path, table: Table) -> Iterator[list[Any]]:
    """Yield the path, bytes and time of every image.

    Raises:
        ConfigurationError: Images are missing; the message names some of them.
    """
    missing: list[Row] = []
    for row in table.rows:
        try:
            status = os.stat(file.parent / row.path)
        except OSError:
            missing.append(row)
            continue
        yield [os.fsencode(row.path).hex(), status.st_size, status.st_mtime_ns]
    if missing:
        named = ", ".join(f"{shorten(row.path)} (line {row.line})" for row in missing[:NAMED])
        raise ConfigurationError(
            f"data.path = {file}: {len(missing)} of {len(table.rows)} images are missing, such as "
            f"{named}: paths are relative to the folder of the file; correct or remove these rows"
        ).with_details("data.path", missing[0].path, "files that exist")
