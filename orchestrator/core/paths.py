"""Read the paths that a person gives, in the configuration and as options: every one of them, so that a refusal names its key."""

import os
import stat
from pathlib import Path

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.redact import redact
from orchestrator.core.text import ESCAPED_BYTES, SURROGATE, control_character, escaped_byte, shorten

MAX_COMPONENT_BYTES = 255  # NAME_MAX of Linux and macOS
MAX_PATH_BYTES = 4095  # PATH_MAX of Linux, without its zero
KERNEL = ("proc", "sys")  # what lies there may never end, or wait for ever


def path_problem(text: str, only_read: bool = False) -> str:
    """Return why a text cannot be used as a path, or ""; nothing is looked up.

    File systems of Linux take names that are not UTF-8. Where a path is `only_read`, and not stored as text, it may have one.
    """
    if not text.strip():
        return "is empty"
    if (byte := escaped_byte(text)) and not only_read:
        return f"has a name that is not UTF-8 (byte {byte}; rename it)"
    if odd := "U+0000" if "\0" in text else control_character(text, (SURROGATE,), allowed=ESCAPED_BYTES):
        return f"has the character {odd}"
    encoded = os.fsencode(text)
    longest = max(len(part) for part in encoded.split(b"/"))
    if longest > MAX_COMPONENT_BYTES:
        return f"has a name of {longest} bytes in it, and file systems take {MAX_COMPONENT_BYTES}"
    if len(encoded) > MAX_PATH_BYTES:
        return f"has {len(encoded)} bytes, and {MAX_PATH_BYTES} are allowed"
    return ""


def read_path(given: str | Path, key: str, only_read: bool = False) -> Path:
    """Return an absolute path without links, `~` being a home folder; the path need not exist.

    Args:
        given: What the person wrote.
        key: The key of the configuration or the option, which begins the sentence of a refusal.
        only_read: Whether the path is used now and not stored, so that its names need not be UTF-8.

    Raises:
        ConfigurationError: no path of any file system, an unknown user after `~`, or links that lead in a circle.
    """
    shown = _shown(given, key)
    if problem := path_problem(str(given), only_read):
        raise ConfigurationError(f"{shown} {problem}: give another path", field=key, value=str(given), allowed=Path)
    try:
        path = Path(given).expanduser().resolve()
    except RuntimeError as error:  # of `~` as of links in a circle
        reason = "leads in a circle of links" if "loop" in str(error).lower() else "begins with the home folder of an unknown user"
        raise ConfigurationError(
            f"{shown} {reason}: give the whole path, as /folder/file", field=key, value=str(given), allowed="a whole path"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{shown} cannot be looked up ({reason}): give another path", field=key, value=str(given), allowed=Path
        ) from error
    if problem := path_problem(str(path), only_read):
        raise ConfigurationError(
            f"{shown}, in full {shorten(redact(str(path)))}, {problem}: give another path",
            field=key,
            value=str(given),
            allowed=Path,
        )
    if path.parts[1:2] and path.parts[1] in KERNEL:
        raise ConfigurationError(
            f"{shown} is kept by the kernel and on no disk: give another path",
            field=key,
            value=str(given),
            allowed="a path on a disk",
        )
    return path


def read_file(given: str | Path, key: str, wanted: str) -> Path:
    """Return the path of an ordinary file that can be opened, as `read_path`; `wanted` ends the sentence of a refusal.

    Raises:
        ConfigurationError: there is none, it is a folder, a device or a pipe, or it must not be read.
    """
    return _readable(given, key, wanted, "file")


def read_folder(given: str | Path, key: str, wanted: str) -> Path:
    """Return the path of a folder that can be listed, as `read_path`; `wanted` ends the sentence of a refusal.

    Raises:
        ConfigurationError: there is none, it is something else, or it must not be read.
    """
    return _readable(given, key, wanted, "folder")


def _readable(given: str | Path, key: str, wanted: str, kind: str) -> Path:
    path, shown = read_path(given, key), _shown(given, key)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISDIR(mode) if kind == "folder" else stat.S_ISREG(mode)):
            raise ConfigurationError(
                f"{shown} is not a {kind} (it is {_kind(mode)}): {wanted}", field=key, value=str(given), allowed=kind
            )
        if kind == "folder":
            next(os.scandir(path), None)
        else:
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"{shown} is not a {kind} ({error.strerror}): {wanted}", field=key, value=str(given), allowed=kind
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{shown} cannot be read ({error.strerror or error}): {wanted}",
            field=key,
            value=str(given),
            allowed=f"a {kind} that can be read",
        ) from error
    return path


def _shown(given: str | Path, key: str) -> str:
    """The key and the value, as an option is typed and as a key is set."""
    text = shorten(redact(str(given))) if str(given).strip() else repr(str(given))
    return f"{key} {text}" if key.startswith("--") else f"{key} = {text}"


def _kind(mode: int) -> str:
    kinds = {"a folder": stat.S_ISDIR, "a file": stat.S_ISREG, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, holds in kinds.items() if holds(mode)), "a device")
