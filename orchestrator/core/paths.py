"""Read the paths in the configuration and the options, so that every refusal names its key."""

import os
import stat
from pathlib import Path

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.redact import redact
from orchestrator.core.text import (
    ESCAPED_BYTES,
    SURROGATE,
    control_character,
    escaped_byte,
    shorten,
)

MAX_COMPONENT_BYTES = 255  # NAME_MAX of Linux and macOS
MAX_PATH_BYTES = 4095  # PATH_MAX of Linux without the terminating zero
KERNEL = ("proc", "sys")  # files in these may be endless or block forever


def path_problem(text: str, only_read: bool = False) -> str:
    """Return the reason why a text cannot be used as a path, or ""; the disk is not accessed.

    Args:
        text: The path.
        only_read: Whether the path is not stored as text. It may then contain names that are not
            UTF-8, which Linux file systems accept.
    """
    if not text.strip():
        return "is empty"
    if (byte := escaped_byte(text)) and not only_read:
        return f"has a component that is not UTF-8 (byte {byte}; rename it)"
    if (
        odd := "U+0000"
        if "\0" in text
        else control_character(text, (SURROGATE,), allowed=ESCAPED_BYTES)
    ):
        return f"contains the character {odd}"
    encoded = os.fsencode(text)
    longest = max(len(part) for part in encoded.split(b"/"))
    if longest > MAX_COMPONENT_BYTES:
        return f"has a component of {longest} bytes, and at most {MAX_COMPONENT_BYTES} are allowed"
    if len(encoded) > MAX_PATH_BYTES:
        return f"has {len(encoded)} bytes, and at most {MAX_PATH_BYTES} are allowed"
    return ""


def read_path(raw_path: str | Path, key: str, only_read: bool = False) -> Path:
    """Return an absolute path without links; `~` is a home folder and the path need not exist.

    Args:
        raw_path: The path as the user wrote it.
        key: The configuration key or the option, which begins the message of a refusal.
        only_read: Whether the path is used now and not stored, so that its names need not be UTF-8.

    Raises:
        ConfigurationError: The path is valid on no file system, names an unknown user after `~`,
            is a loop of links, or lies in a virtual file system of the kernel.
    """
    shown = _shown(raw_path, key)
    if problem := path_problem(str(raw_path), only_read):
        raise ConfigurationError(f"{shown} {problem}: give another path").with_details(
            key, str(raw_path), Path
        )
    try:
        path = Path(raw_path).expanduser().resolve()
    except RuntimeError as error:  # raised for `~` and for links in a circle
        if "loop" in str(error).lower():
            reason = "is a loop of symbolic links"
        else:
            reason = "begins with ~ and an unknown user"
        raise ConfigurationError(
            f"{shown} {reason}: give an absolute path, for example /folder/file"
        ).with_details(key, str(raw_path), "an absolute path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{shown} cannot be resolved ({reason}): give another path"
        ).with_details(key, str(raw_path), Path) from error
    if problem := path_problem(str(path), only_read):
        raise ConfigurationError(
            f"{shown}, which resolves to {shorten(redact(str(path)))}, {problem}: give another path"
        ).with_details(key, str(raw_path), Path)
    if path.parts[1:2] and path.parts[1] in KERNEL:
        raise ConfigurationError(
            f"{shown} is in a virtual file system of the kernel: give a path on a disk"
        ).with_details(key, str(raw_path), "a path on a disk")
    return path


def read_file(raw_path: str | Path, key: str, advice: str) -> Path:
    """Return the path of a regular file that can be opened, resolved as by `read_path`.

    Args:
        raw_path: The path as the user wrote it.
        key: The configuration key or the option.
        advice: The end of the message of a refusal.

    Raises:
        ConfigurationError: The file does not exist, is a folder, a device or a pipe, or is not
            readable.
    """
    return _readable(raw_path, key, advice, "file")


def read_folder(raw_path: str | Path, key: str, advice: str) -> Path:
    """Return the path of a folder that can be listed, resolved as by `read_path`.

    Args:
        raw_path: The path as the user wrote it.
        key: The configuration key or the option.
        advice: The end of the message of a refusal.

    Raises:
        ConfigurationError: The folder does not exist, is something else, or is not readable.
    """
    return _readable(raw_path, key, advice, "folder")


def _readable(raw_path: str | Path, key: str, advice: str, kind: str) -> Path:
    path, shown = read_path(raw_path, key), _shown(raw_path, key)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISDIR(mode) if kind == "folder" else stat.S_ISREG(mode)):
            raise ConfigurationError(
                f"{shown} is not a {kind} (it is {_kind(mode)}): {advice}"
            ).with_details(key, str(raw_path), kind)
        if kind == "folder":
            next(os.scandir(path), None)
        else:
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigurationError(
            f"{shown} is not a {kind} ({error.strerror}): {advice}"
        ).with_details(key, str(raw_path), kind) from error
    except OSError as error:
        raise ConfigurationError(
            f"{shown} cannot be read ({error.strerror or error}): {advice}"
        ).with_details(key, str(raw_path), f"a {kind} that can be read") from error
    return path


def _shown(raw_path: str | Path, key: str) -> str:
    """Return the key and the value as an option is typed or as a key is set."""
    text = shorten(redact(str(raw_path))) if str(raw_path).strip() else repr(str(raw_path))
    return f"{key} {text}" if key.startswith("--") else f"{key} = {text}"


def _kind(mode: int) -> str:
    kinds = {
        "a folder": stat.S_ISDIR,
        "a file": stat.S_ISREG,
        "a pipe": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((name for name, holds in kinds.items() if holds(mode)), "a device")
