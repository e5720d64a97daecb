"""Read and write typed JSON files with a schema, a format number and a checksum.

The checksum covers the values as they were written. Reformatting a file is therefore no damage, and
a changed digit is. Damage is reported by file and key.
"""

import hashlib
import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import (
    ErrorDetails,
    PydanticCustomError,
    PydanticSerializationError,
    from_json,
    to_json,
)

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.redact import redact
from orchestrator.core.text import describe_requirement
from orchestrator.store.store import keep_text, write_text

LARGEST_BYTES = 64 * 2**20  # a record of 10,000 epochs with 40 metrics each has 18 MB
LONGEST_VALUE = 80  # characters of a value in a message
FORMAT, CHECKSUM = "format", "checksum"
STRICT = ConfigDict(strict=True)
_TAIL = re.compile(rb',\n "checksum": "([0-9a-f]{64})"\n\}\s*\Z')
T = TypeVar("T")


def _require_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("finite_number", "Input should be a finite number")
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _require_finite(inner)
    return value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, lt=1e12)]
Timestamp = Annotated[float, Field(ge=0, lt=253_402_300_800)]  # s since 1970, up to the year 9999
Count = Annotated[int, Field(ge=0, lt=10**9)]
Plain = Annotated[Any, AfterValidator(_require_finite)]  # any JSON value of a setting


class DamagedRecordError(ConfigurationError):
    """A record that cannot be used.

    Attributes:
        file: The file of the record.
        reason: The cause, as a clause.
        advice: The next step for the user.
    """

    def __init__(self, file: Path, reason: str, advice: str = "", key: str = "") -> None:
        super().__init__(file, reason, advice, key)
        self.with_details(str(file), key or reason)
        self.file, self.reason, self.advice = file, reason, advice

    def __str__(self) -> str:
        return f"{self.file} is damaged: {self.reason}" + (
            f": {self.advice}" if self.advice else ""
        )


class RecordSchema(Generic[T]):
    """Schema of one kind of record.

    Args:
        kind: A dataclass, a TypedDict, or a mapping such as `dict[str, str]`.
        number: The format that is written. Records of an older format, or of none, may lack keys
            that have a default.
        advice: The next step for the user if a record is damaged.
        other_keys: Whether keys outside the schema are allowed. A dataclass ignores them.
    """

    def __init__(
        self, kind: Any, number: int = 1, advice: str = "", other_keys: bool = False
    ) -> None:
        self.kind, self.number, self.advice = kind, number, advice
        named = not other_keys and (is_dataclass(kind) or hasattr(kind, "__annotations__"))
        self.names = _names(kind) if named else None

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.kind)

    def read(self, file: Path) -> T:
        """Return the record in a file.

        Raises:
            DamagedRecordError: The file is missing, is not JSON, or does not match the schema.
            ConfigurationError: A newer version of the program wrote the file.
        """
        return self.read_sealed(file)[0]

    def read_sealed(self, file: Path) -> tuple[T, bool]:
        """Return the record and whether it has a (verified) checksum. Raise as `read` does."""
        return self.parse(self._content(file), file)

    def parse(self, content: bytes, file: Path) -> tuple[T, bool]:
        """Parse the bytes of a record.

        Args:
            content: The content of the file.
            file: The file that errors name.

        Returns:
            The record, and whether it has a checksum, which is verified.

        Raises:
            DamagedRecordError: The content is not JSON or does not match the schema.
            ConfigurationError: A newer version of the program wrote the content.
        """
        try:
            values = from_json(content)
        except ValueError as error:
            raise self._damaged(file, f"it is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise self._damaged(file, f"it contains {_shown(values)} instead of keys")
        self._require_format(file, values)
        try:
            rest = {name: value for name, value in values.items() if name not in (FORMAT, CHECKSUM)}
            # pydantic builds a strict dataclass from JSON alone; it has no field for the format
            if is_dataclass(self.kind):
                record = self._adapter.validate_json(content)
            else:
                record = self._adapter.validate_python(rest)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise self._damaged(file, _reason(first), _key(first)) from error
        except ConfigurationError as error:  # raised by a configuration in the record
            raise self._damaged(file, str(error)) from error
        self._require_names(file, values)
        if CHECKSUM in values and not _holds(content, values):
            raise self._damaged(
                file, f"its content was changed: its {CHECKSUM} does not match", CHECKSUM
            )
        return record, CHECKSUM in values

    def write(self, file: Path, values: Mapping[str, Any], lasting: bool = True) -> None:
        """Replace the record in a file.

        Args:
            file: The file to replace.
            values: The values, without format and checksum.
            lasting: Whether the record must survive a power failure, which takes milliseconds.

        Raises:
            OSError: The disk is full or the file cannot be written.
        """
        write_text(file, self.text(values), lasting)

    def keep(
        self,
        file: Path,
        values: Callable[[], Mapping[str, Any]] | Mapping[str, Any],
        lasting: bool = True,
    ) -> None:
        """Replace the record in a file; wait while the disk is full.

        A function in place of `values` is called at the time of writing.
        """
        keep_text(file, lambda: self.text(values() if callable(values) else values), lasting)

    def text(self, values: Mapping[str, Any]) -> str:
        """Return the record as JSON, with its format and checksum."""
        body = _encode({FORMAT: self.number, **values})
        return f'{body[:-2].decode()},\n "{CHECKSUM}": "{_checksum(body)}"\n}}'

    def plain(self, record: T) -> dict[str, Any]:
        """Return a record as JSON values, without those that equal their default."""
        plain: dict[str, Any] = self._adapter.dump_python(
            record, mode="json", exclude_defaults=True
        )
        return plain

    def damage(self, file: Path) -> DamagedRecordError | None:
        """Return the damage of a file, or None if it is readable or missing."""
        try:
            self.read(file)
        except DamagedRecordError as error:
            return error if file.exists() else None
        return None

    def _content(self, file: Path) -> bytes:
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise self._damaged(file, "it is not a regular file")
            if status.st_size > LARGEST_BYTES:
                limit = LARGEST_BYTES // 2**20
                raise self._damaged(
                    file,
                    f"it has {status.st_size / 2**20:,.0f} MiB, and a record has at most "
                    f"{limit} MiB",
                )
            return file.read_bytes()
        except OSError as error:
            raise self._damaged(file, f"it cannot be read ({error.strerror or error})") from error

    def _require_format(self, file: Path, values: dict[str, Any]) -> None:
        number = values.get(FORMAT, 0)
        if type(number) is not int or number < 0:
            raise self._damaged(
                file,
                f"{FORMAT} = {_shown(number)} is not allowed: it must be a whole number",
                FORMAT,
            )
        if number > self.number:
            raise ConfigurationError(
                f"{file} was written by a newer version of this program: update it to read the "
                f"record"
            ).with_details(str(file), number, (0, self.number))

    def _require_names(self, file: Path, values: dict[str, Any]) -> None:
        """Require all keys in a record of the current format, and no unknown keys in any.

        Only dataclasses must be complete.
        """
        if self.names is None:
            return
        if values.get(FORMAT) == self.number and is_dataclass(self.kind):
            missing = self.names - values.keys()
        else:
            missing = set()
        other = values.keys() - self.names - {FORMAT, CHECKSUM}
        if missing or other:
            named = min(missing or other)
            wrong = "is missing" if missing else "is not a key of this record"
            raise self._damaged(file, f"{_shown(named)[1:-1]} {wrong}", named)

    def _damaged(self, file: Path, reason: str, key: str = "") -> DamagedRecordError:
        return DamagedRecordError(file, reason, self.advice, key)


def _names(kind: Any) -> set[str]:
    return (
        {field.name for field in fields(kind)} if is_dataclass(kind) else set(kind.__annotations__)
    )


def _encode(values: Mapping[str, Any]) -> bytes:
    try:
        return to_json(values, indent=1)
    except PydanticSerializationError:  # a name of a file that is no valid UTF-8
        return json.dumps(values, indent=1).encode()


def _checksum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _holds(content: bytes, values: dict[str, Any]) -> bool:
    """Return whether the checksum matches the preceding bytes.

    A file that was only reformatted has other bytes: its values are then checked instead.
    """
    tail = _TAIL.search(content[-120:])
    if tail and tail[1].decode() == _checksum(content[: len(content) - len(tail[0])] + b"\n}"):
        return True
    rest = {name: value for name, value in values.items() if name != CHECKSUM}
    # the second one: records of older versions
    return values[CHECKSUM] in (
        _checksum(body) for body in (_encode(rest), json.dumps(rest, indent=1).encode())
    )


def _key(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])


def _reason(error: ErrorDetails) -> str:
    """Return the key, its value, and the allowed values."""
    key = _key(error)
    if error["type"] == "missing":
        return f"{key} is missing"
    requirement = describe_requirement(error["msg"])
    return f"{key} = {_shown(error['input'])} is not allowed: {requirement}"


def _shown(value: Any) -> str:
    text = "null" if value is None else redact(repr(value)[: 4 * LONGEST_VALUE])
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
