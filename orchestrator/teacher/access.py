"""Whether the teacher's knowledge is cached, and where: decided once per run, before anything starts. Knows no teacher."""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config import sizes
from orchestrator.config.resources import cluster_address
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.store.store import SPARE_BYTES, Store
from orchestrator.teacher.cache import folders

OF_EACH_NODE = Path("~/.cache/distillation-orchestrator/knowledge")  # `~` is that of the worker


@dataclass(frozen=True)
class TeacherAccess:
    """The folder of the cache, None when the teacher is asked at every step, and whether every node has its own; in words too."""

    folder: Path | None
    words: str
    of_each_node: bool = False

    @property
    def mode(self) -> Literal["cached", "online"]:
        """What `auto` came to."""
        return "cached" if self.folder else "online"


def decide_access(
    store: Store,
    configuration: Configuration,
    data: Mapping[str, Any],
    local: bool,
    reserve_bytes: int = SPARE_BYTES,
    clean_bytes: int = 0,
) -> TeacherAccess:
    """Cached, or online where that was asked for or `auto` finds no room; `data` is what `describe` says of them.

    Decided once per run, before Ray is started: afterwards every process has the address of a cluster. `local` runs without
    Ray; `reserve_bytes` are those that something else takes of the disk, `clean_bytes` those of the cache that are no logits:
    features of the clean view, and what is retrieved by them. ConfigurationError when the cache is asked for and
    larger than its limit or the disk, or its folder cannot be used.
    """
    teacher = configuration.teacher
    assert teacher is not None
    cluster = not local and cluster_address(configuration.resources) is not None
    needed = sizes.cache_bytes(configuration, data["sizes"]["train"], len(data["classes"]), data["augmentation"]) + clean_bytes
    views = sizes.views(configuration) if sizes.varies(configuration, data["augmentation"]) else 0
    size = sizes.size(needed) + (f" for {views} views and the clean one" if views else "")
    if teacher.mode == "online":
        return TeacherAccess(None, "asked at every step (teacher.mode = online)")
    folder = _of_cluster(teacher.cache) if cluster else _of_this_node(teacher.cache or store.knowledge)
    short = _short(needed, teacher.cache_gib, None if cluster else folder, reserve_bytes)
    if not short:
        return TeacherAccess(folder, f"cached in {folder}{' of each node' if cluster else ''}, {size}", cluster)
    if teacher.mode == "auto":
        return TeacherAccess(None, f"asked at every step: a cache would take {size}, and {short}")
    limited = needed > teacher.cache_gib * 2**30
    raise ConfigurationError(
        f"teacher.mode = cached takes {size}, and {short}: raise teacher.cache_gib, lower data.views, name another folder with "
        "teacher.cache, or set teacher.mode=auto",
        field="teacher.cache_gib" if limited else "teacher.cache",
        value=teacher.cache_gib if limited else str(folder),
        allowed=(needed / 2**30, None) if limited else f"{sizes.size(needed + reserve_bytes)} free",
    )


def _of_cluster(given: Path | None) -> Path:
    if given and not given.is_absolute() and given.parts[0] != "~":
        raise ConfigurationError(
            f"teacher.cache = {given} is relative, and the nodes of a cluster have no common place: give /... or ~/...",
            field="teacher.cache",
            value=str(given),
            allowed="an absolute path",
        )
    return given or OF_EACH_NODE


def _of_this_node(folder: Path) -> Path:
    """The folder as any process finds it; ConfigurationError when it cannot be used."""
    folder = read_path(folder, "teacher.cache")  # absolute: Ray's workers stand in another place
    nearest = _existing(folder)
    if not nearest.is_dir() or not os.access(nearest, os.R_OK | os.X_OK | (0 if nearest == folder else os.W_OK)):
        raise ConfigurationError(
            f"teacher.cache = {folder} cannot be used ({nearest} stands there): give a folder that you may write",
            field="teacher.cache",
            value=str(folder),
            allowed="a folder that can be written",
        )
    return folder


def _existing(folder: Path) -> Path:
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _short(needed: int, limit_gib: float, folder: Path | None, reserve_bytes: int) -> str:
    """What there is too little of, in words; empty when it fits. Of the disk of another node (None) nothing is known here."""
    if needed > limit_gib * 2**30:
        return f"teacher.cache_gib = {limit_gib:g}"
    if folder is None:
        return ""
    free = shutil.disk_usage(_existing(folder)).free + _held_bytes(folder)
    return (
        f"{folder} has {sizes.size(free)} free, of which {sizes.size(reserve_bytes)} are for other things"
        if free < needed + reserve_bytes
        else ""
    )


def _held_bytes(folder: Path) -> int:
    """What the cache holds already: it is what is needed, or makes room for it."""
    held = 0
    for file in (file for each in folders(folder) for file in each.glob("*.npy")):
        with contextlib.suppress(FileNotFoundError):  # another sweep makes room in this moment
            held += file.stat().st_size
    return held
