"""Mutate JSON into values that a damaged or edited file may hold."""

import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    "text",
    "\x1b[31m",
    [],
    {},
    [[]],
    -1,
    0,
    True,
    10**30,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    0.5,
)
WHOLE = (
    "",
    "{",
    "[]",
    "null",
    '"text"',
    "{}",
    "[" * 5000,
    '{"a":' * 3000,
    "\x00" * 64,
    "1" * 5000,
    '{"format": 99}',
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values within one; of a list only the first two items."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:2])
        if isinstance(value, list)
        else ()
    )
    for name, each in inner:
        yield (*path, name)
        yield from paths(each, (*path, name))


def replace_value(value: Any, path: tuple[Any, ...], new: Any, remove: bool = False) -> Any:
    """Return a copy with another value at a path, or without it."""
    copy = json.loads(json.dumps(value))
    parent = copy
    for name in path[:-1]:
        parent = parent[name]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return copy


def mutations(content: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` mutations of a JSON file with their names.

    Each changes one value, and keeps the stale checksum or removes it.
    """
    generator, value = random.Random(seed), json.loads(content)
    all_paths = list(paths(value))
    for _ in range(count):
        path, new, remove = (
            generator.choice(all_paths),
            generator.choice(VALUES),
            generator.random() < 0.2,
        )
        changed = replace_value(value, path, new, remove)
        if changed == value and repr(changed) == repr(value):
            continue  # unchanged
        if generator.random() < 0.6 and isinstance(changed, dict):
            changed.pop("checksum", None)
        name = f"{'.'.join(map(str, path))} {'removed' if remove else repr(new)[:20]}"
        yield (
            f"{name}{'' if 'checksum' in changed else ', without a checksum'}",
            json.dumps(changed, indent=1).encode(),
        )


def destroy(file: Path, how: str) -> None:
    """Replace a file by content that is not JSON, or not of its kind."""
    content = file.read_bytes()
    if how == "a folder":
        file.unlink()
        file.mkdir()
    elif how == "four GiB":
        os.truncate(file, 2**32)
    else:
        contents = {
            "half": content[: len(content) // 2],
            "not UTF-8": b'{"a": "\xff\xfe"}',
            "a mark": b"\xef\xbb\xbf{}",
        }
        file.write_bytes(contents[how] if how in contents else how.encode())


WAYS = (*WHOLE, "half", "not UTF-8", "a mark", "four GiB", "a folder")  # to destroy a file
