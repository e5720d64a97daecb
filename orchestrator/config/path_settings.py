"""Resolve the settings that are paths before they are recorded.

A resume therefore does not depend on the working directory.
"""

import os
from pathlib import Path
from typing import Any

from orchestrator.config.loader import build, override
from orchestrator.config.resources import cluster_address
from orchestrator.config.schema import Configuration
from orchestrator.config.uris import database_file, database_uri
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path

SUFFIX = ".safetensors"  # of a weights file; other values name published weights
CACHE = "cache"  # of each teacher


def movable_keys(configuration: Configuration) -> list[str]:
    """Return the keys whose path may change when a run is resumed; the content must be the same."""
    networks = ["student", *(f"peers.{letter}.network" for letter in configuration.peers)]
    networks += [f"{key}.network" for key in configuration.named_teachers]
    return [
        "data.path",
        *(f"{key}.{CACHE}" for key in configuration.named_teachers),
        *(f"{key}.weights" for key in networks),
    ]


def resolve_paths(configuration: Configuration, local: bool = False) -> Configuration:
    """Return the configuration with absolute paths.

    Paths relative to the working directory and paths that begin with `~` are resolved. The cache on
    a running cluster stays as it is given, because its `~` is that of each node.

    Args:
        configuration: The configuration to resolve.
        local: Whether the run starts Ray on this machine, so that the cache is resolved too.

    Raises:
        ConfigurationError: A path is valid on no file system.
    """
    values = configuration.plain()
    for key in movable_keys(configuration):
        section, name = _section(values, key)
        path = section.get(name)
        if path is None or (name == "weights" and not path.endswith(SUFFIX)):
            continue
        if _is_cache(key) and not local and cluster_address(configuration.resources) is not None:
            continue
        section[name] = str(read_path(path, key))
    uri = configuration.tracking.uri
    if uri is not None and (file := database_file(uri)):
        values["tracking"]["uri"] = database_uri(file.absolute())
    return (
        configuration if values == configuration.plain() else _replace(configuration, build(values))
    )


def move_paths(configuration: Configuration, pairs: list[str]) -> Configuration:
    """Return the configuration of a run with the paths of `--set` pairs, resolved.

    Raises:
        ConfigurationError: A pair sets something else, or a path where the run has none.
    """
    values, keys = configuration.plain(), movable_keys(configuration)
    for pair in pairs:
        key = pair.partition("=")[0].strip()
        section, name = _section(values, key) if key in keys else ({}, "")
        if section.get(name) is None and not _is_cache(key):
            raise ConfigurationError(
                f"--set {key}: a resumed run keeps its configuration; with --resume, --set "
                f"changes only the path of files that were moved: "
                f"{', '.join(_list_given(values, keys)) or 'this run has no path'}"
            ).with_details(key, pair.partition("=")[2], tuple(_list_given(values, keys)))
    override(values, pairs)
    moved = build(values)
    for key in keys:
        section, name = _section(values, key)
        if (
            not _is_cache(key)
            and _section(configuration.plain(), key)[0].get(name) is not None
            and section.get(name) is None
        ):
            raise ConfigurationError(f"--set {key} is empty: give the new path").with_details(
                key, None, Path
            )
    return resolve_paths(moved)


def require_paths(name: str, configuration: Configuration) -> None:
    """Require that the paths that the run `name` needs to continue exist.

    Raises:
        ConfigurationError: A path does not exist any more.
    """
    values = configuration.plain()
    for key in movable_keys(configuration):
        section, last = _section(values, key)
        path = section.get(last)
        if path is None or _is_cache(key) or (last == "weights" and not path.endswith(SUFFIX)):
            continue
        if not os.path.exists(os.path.expanduser(path)) and not (
            key == "data.path" and configuration.data.download
        ):
            raise ConfigurationError(
                f"--resume {name}: {key} = {path} does not exist any more: restore it, or add "
                f"`--set {key}=...` with the new path"
            ).with_details(key, path, "a path that exists")


def without_paths(configuration: Configuration) -> dict[str, Any]:
    """Return the configuration as JSON values without the paths that may change."""
    values = configuration.plain()
    for key in movable_keys(configuration):
        section, name = _section(values, key)
        section.pop(name, None)
    return values


def _list_given(values: dict[str, Any], keys: list[str]) -> list[str]:
    return [
        key
        for key in keys
        if _is_cache(key) or _section(values, key)[0].get(key.rpartition(".")[2]) is not None
    ]


def _is_cache(key: str) -> bool:
    return key.rpartition(".")[2] == CACHE


def _section(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    *path, name = key.split(".")
    section: Any = values
    for part in path:
        section = section[int(part) if isinstance(section, list) else part]
    return section, name


def _replace(configuration: Configuration, resolved: Configuration) -> Configuration:
    """Return the configuration with the paths of another one; private attributes stay."""
    return configuration.model_copy(update=dict(resolved))
