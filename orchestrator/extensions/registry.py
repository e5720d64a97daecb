"""Keep what user code registers, and enter it into the registries of the built-in things."""

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.core.errors import ConfigurationError
from orchestrator.extensions.code_identity import code_identity

Kind = Literal["network", "dataset", "method", "transform", "metric"]
PREFIX = "my/"
PYTHON = "Python"  # the origin of what a program or a notebook registers itself
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
Slot = tuple[MutableMapping[str, Any], str, Any]  # a registry, the key in it and the value


@dataclass(frozen=True)
class Origin:
    """Origin of registered code.

    Attributes:
        name: The name of the file or plugin, for messages.
        identity: Text that changes with the code: the SHA-256 of the file and of the files that it
            imports, the version of the plugin, or the hash of the code of an object.
        replaces: Whether a name can be registered again, as in a notebook.
    """

    name: str
    identity: str
    replaces: bool = False


@dataclass(frozen=True)
class Entry:
    """Registered object.

    Attributes:
        kind: The kind of the object.
        name: Its name with the prefix `my/`.
        target: The function or class that was registered.
        location: File and line, for messages.
        origin: The origin of its code.
        slots: Its places in the registries of the program.
        options: The arguments of its decorator besides the name.
    """

    kind: Kind
    name: str
    target: Any
    location: str
    origin: Origin
    slots: tuple[Slot, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


ENTRIES: dict[tuple[str, str], Entry] = {}
_origins: list[tuple[Origin, str]] = []  # of the code that is being executed, innermost last


@contextlib.contextmanager
def registering_from(origin: Origin, location: str = "") -> Iterator[None]:
    """Give everything that the block registers this origin, and this location if there is one."""
    _origins.append((origin, location))
    try:
        yield
    finally:
        _origins.pop()


def current_origin(target: Any) -> Origin:
    """Return the origin of an object that is being registered.

    Outside of a file of `--code` and of a plugin, the identity is that of the code of the object
    and of what it uses.
    """
    if _origins:
        return _origins[-1][0]
    return Origin(PYTHON, code_identity(target), replaces=True)


def calling_location(depth: int) -> str:
    """Return file and line of the caller that is `depth` frames above this function's caller.

    It is the location that `registering_from` names, if that has one.
    """
    if _origins and _origins[-1][1]:
        return _origins[-1][1]
    frame = sys._getframe(depth + 1)
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def full_name(kind: Kind, name: str, location: str) -> str:
    """Return the name with the prefix `my/`.

    Raises:
        ConfigurationError: The name has other characters than letters, digits, `_` and `-`.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name.removeprefix(PREFIX)):
        raise ConfigurationError(
            f"{location}: the name {name!r} of a {kind} is not allowed: give letters, digits, '_' "
            f"or '-' (at most 64, the first a letter)"
        ).with_details("--code", name, "letters, digits, '_' or '-'")
    return PREFIX + name.removeprefix(PREFIX)


def register(entry: Entry) -> None:
    """Enter an object into the registries.

    Raises:
        ConfigurationError: The name is taken.
    """
    known = ENTRIES.get((entry.kind, entry.name))
    if known is not None:
        if not (known.origin.replaces and entry.origin.replaces):
            raise ConfigurationError(
                f"{entry.location}: the {entry.kind} {entry.name} is already registered in "
                f"{known.location}: give one of them another name"
            ).with_details("--code", entry.name, "a name that is not taken")
        unregister(known)
    for registry, key, value in entry.slots:
        registry[key] = value
    ENTRIES[entry.kind, entry.name] = entry


def unregister(entry: Entry) -> None:
    """Remove an object from all registries."""
    ENTRIES.pop((entry.kind, entry.name), None)
    for registry, key, _ in entry.slots:
        registry.pop(key, None)
