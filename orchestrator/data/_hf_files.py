"""Open the tables of a Hugging Face data set on disk: saved with `save_to_disk`, or parquet."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.paths import read_file, read_folder, read_path
from orchestrator.core.program import install_command
from orchestrator.core.text import shorten
from orchestrator.data import checks
from orchestrator.data._table import SPLITS

SAVED = ("state.json", "dataset_dict.json")  # in a folder that save_to_disk wrote
LAYOUT = "a folder of datasets' save_to_disk, a parquet file, or a folder of train*.parquet files"
BATCH = 64  # rows that are read at once: bounds the memory
# the split that begins the name of a parquet file, such as train-00000-of-00002.parquet
SPLIT_OF_FILE = re.compile(rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z])")


class HFTable(Protocol):
    """Rows of one part.

    Attributes:
        schema: Arrow schema.
        features: Features of `datasets` by column, as JSON values; empty if unknown.
        rows: Number of rows.
    """

    @property
    def schema(self) -> Any:
        """Return the Arrow schema."""

    @property
    def features(self) -> dict[str, Any]:
        """Return the features of `datasets` by column, as JSON values; empty if unknown."""

    @property
    def rows(self) -> int:
        """Return the number of rows."""

    def read_column(self, column: str) -> Any:
        """Return a whole column as an Arrow array."""

    def iterate(self, column: str, rows: NDArray[np.int64]) -> Iterator[list[Any]]:
        """Yield the values of some rows, which increase, as Python objects, at most BATCH each."""


class HFSource(NamedTuple):
    """Data set on disk: its path, its tables by part, its files, and unread splits and files."""

    path: Path
    tables: dict[str, HFTable]
    files: tuple[Path, ...]
    unread: tuple[str, ...]


def open_source(config: Data) -> HFSource:
    """Open the tables of `config.path` without reading their rows.

    Raises:
        ConfigurationError: The data set does not exist, is damaged, or has no training part.
        PreflightError: A saved data set needs the extra hf.
    """
    path_setting = checks.require_path(config, LAYOUT, "...")
    path = read_path(path_setting, "data.path")
    if path.is_file():
        file = read_file(path_setting, "data.path", f"data.name = hf needs {LAYOUT}")
        return HFSource(file, {"train": _open_parquet([file])}, (file,), ())
    path = read_folder(path_setting, "data.path", f"data.name = hf needs {LAYOUT}")
    if any((path / name).is_file() for name in SAVED):
        return _open_saved(path)
    return _open_parquet_folder(path)


def _open_parquet_folder(folder: Path) -> HFSource:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ConfigurationError(
            f"data.path = {folder} has no parquet file and no saved data set: data.name = hf needs "
            f"{LAYOUT}"
        ).with_details("data.path", str(folder), LAYOUT)
    matches = {file: SPLIT_OF_FILE.match(file.name.lower()) for file in files}
    splits: dict[str, list[Path]] = {}
    for file, match in matches.items():
        if match or not any(matches.values()):  # without any split, all are training files
            splits.setdefault(match[1] if match else "train", []).append(file)
    names = _choose_splits(folder, list(splits))
    tables = {part: _open_parquet(splits[name]) for part, name in names.items()}
    read = [file for name in names.values() for file in splits[name]]
    unread = [file.name for file in sorted(folder.iterdir()) if file not in read]
    return HFSource(folder, tables, tuple(read), tuple(unread))


def _choose_splits(path: Path, present: Sequence[str]) -> dict[str, str]:
    """Return the name of the split of each part.

    Raises:
        ConfigurationError: There is no training split, or two for one part.
    """
    names: dict[str, str] = {}
    for name in present:
        if (part := SPLITS.get(name)) and names.setdefault(part, name) != name:
            raise ConfigurationError(
                f"data.path = {path} has {names[part]} and {name}, and only one split can be the "
                f"{part} part: remove one"
            ).with_details(f"data.path[{part}]", (names[part], name), "one of them")
    if "train" not in names:
        raise ConfigurationError(
            f"data.path = {path} has no train split (its splits are "
            f"{shorten(', '.join(present)) or 'none'}): data.name = hf needs {LAYOUT}"
        ).with_details("data.path[train]", tuple(present), tuple(SPLITS))
    return names


def _refuse_damage(path: Path, error: Exception) -> ConfigurationError:
    reason = shorten(" ".join(str(error).split())) or type(error).__name__
    return ConfigurationError(
        f"data.path = {path} cannot be read ({reason}): data.name = hf needs {LAYOUT}"
    ).with_details("data.path", reason, LAYOUT)


def _open_parquet(files: Sequence[Path]) -> HFTable:
    table = ParquetTable(files)
    _ = table.rows, table.schema  # damage of a file is found here
    return table


class ParquetTable:
    """Rows of parquet files of one schema, in their order."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)

    @cached_property
    def _readers(self) -> list[Any]:
        from pyarrow import parquet

        readers = []
        for file in self.files:
            try:
                readers.append(parquet.ParquetFile(file, memory_map=True))
            except Exception as error:  # Arrow has several errors for damage
                raise _refuse_damage(file, error) from error
            if not readers[-1].schema_arrow.equals(readers[0].schema_arrow):
                raise ConfigurationError(
                    f"{file} has other columns than {self.files[0].name}: give files of one schema"
                ).with_details("data.path", str(file), str(self.files[0]))
        return readers

    @property
    def schema(self) -> Any:
        """Return the Arrow schema."""
        return self._readers[0].schema_arrow

    @property
    def features(self) -> dict[str, Any]:
        """Return the features that `datasets` wrote into the file."""
        metadata = (self.schema.metadata or {}).get(b"huggingface")
        try:
            features = json.loads(metadata)["info"]["features"] if metadata else {}
        except (ValueError, LookupError, TypeError):
            return {}
        return {name: value for name, value in dict(features).items() if isinstance(value, dict)}

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(reader.metadata.num_rows for reader in self._readers)

    def read_column(self, column: str) -> Any:
        """Return a whole column as an Arrow array."""
        import pyarrow

        try:
            columns = [reader.read(columns=[column]).column(column) for reader in self._readers]
        except Exception as error:
            raise _refuse_damage(self.files[0].parent, error) from error
        return pyarrow.chunked_array([chunk for each in columns for chunk in each.chunks])

    def iterate(self, column: str, rows: NDArray[np.int64]) -> Iterator[list[Any]]:
        """Yield the values of some rows; row groups without any of them are not read."""
        first = 0
        for reader in self._readers:
            for group in range(reader.metadata.num_row_groups):
                count = reader.metadata.row_group(group).num_rows
                low, high = np.searchsorted(rows, (first, first + count))
                wanted = rows[low:high] - first
                first += count
                if len(wanted):
                    yield from self._iterate_group(reader, group, column, wanted)

    def _iterate_group(
        self, reader: Any, group: int, column: str, rows: NDArray[np.int64]
    ) -> Iterator[list[Any]]:
        first = 0
        try:
            for batch in reader.iter_batches(BATCH, row_groups=[group], columns=[column]):
                low, high = np.searchsorted(rows, (first, first + batch.num_rows))
                values = batch.column(0)
                if high > low:
                    yield [values[row].as_py() for row in (rows[low:high] - first).tolist()]
                first += batch.num_rows
        except OSError as error:  # Arrow's errors of damage, which are not those of a full disk
            raise _refuse_damage(self.files[0].parent, error) from error


def _open_saved(folder: Path) -> HFSource:
    try:
        import datasets
    except ImportError as error:
        raise PreflightError(
            f"data.path = {folder} was written by save_to_disk, and the package datasets is not "
            f"installed: install it with `{install_command('hf')}`, or give parquet files, which "
            f"need no extra"
        ).with_details("data.path", str(folder), install_command("hf")) from error
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # no common error for damage
        raise _refuse_damage(folder, error) from error
    splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    names = _choose_splits(folder, [str(name) for name in splits])
    tables: dict[str, HFTable] = {part: SavedTable(splits[name]) for part, name in names.items()}
    files = sorted(
        file for file in folder.rglob("*") if file.suffix in (".json", ".arrow") and file.is_file()
    )
    unread = [name for name in splits if name not in names.values()]
    return HFSource(folder, tables, tuple(files), tuple(unread))


class SavedTable:
    """Rows of a data set that `datasets` has memory-mapped."""

    def __init__(self, saved: Any) -> None:
        self.saved = saved.with_format("arrow")

    @property
    def schema(self) -> Any:
        """Return the Arrow schema."""
        return self.saved.features.arrow_schema

    @property
    def features(self) -> dict[str, Any]:
        """Return the features by column, as JSON values."""
        features: dict[str, Any] = self.saved.features.to_dict()
        return {name: value for name, value in features.items() if isinstance(value, dict)}

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return int(self.saved.num_rows)

    def read_column(self, column: str) -> Any:
        """Return a whole column as an Arrow array."""
        return self.saved.select_columns([column])[:].column(column)

    def iterate(self, column: str, rows: NDArray[np.int64]) -> Iterator[list[Any]]:
        """Yield the values of some rows."""
        images = self.saved.select_columns([column])
        for start in range(0, len(rows), BATCH):
            yield images[rows[start : start + BATCH]].column(column).to_pylist()
