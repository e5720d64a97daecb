"""Decide whether the teacher's outputs are cached, and where.

The decision is made once per run, before anything starts.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.config import sizes
from orchestrator.config.resources import cluster_address
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.data.dataset import DataSummary
from orchestrator.store.store import SPARE_BYTES, Store
from orchestrator.teacher.cache import list_files

NODE_CACHE = Path("~/.cache/distillation-orchestrator/knowledge")  # the worker expands `~`


@dataclass(frozen=True)
class TeacherAccess:
    """The source of the teacher's outputs: a cache, or the teacher at every step.

    Attributes:
        folder: The folder of the cache; None if the teacher runs at every step.
        words: A description for users.
        of_each_node: Whether every node has its own cache.
    """

    folder: Path | None
    words: str
    of_each_node: bool = False

    @property
    def mode(self) -> Literal["cached", "online"]:
        """Return the mode in force, with `auto` resolved."""
        return "cached" if self.folder else "online"


def decide_access(
    store: Store,
    configuration: Configuration,
    data: DataSummary,
    local: bool,
    reserve_bytes: int = SPARE_BYTES,
    clean_bytes: int = 0,
) -> TeacherAccess:
    """Return whether the teacher's outputs are cached, or computed online.

    They are computed online if the configuration requests it, or if the mode is `auto` and the
    cache does not fit. Call this once per run, before Ray starts: afterwards every process has the
    address of a cluster.

    Args:
        store: The store of the run.
        configuration: The configuration, with a teacher.
        data: The result of `describe` for the data.
        local: Whether the run works without Ray.
        reserve_bytes: Bytes of the disk that are reserved for other files.
        clean_bytes: Bytes of the cache that are not logits: features of the clean view, and the
            neighbours that are retrieved by them.

    Raises:
        ConfigurationError: `teacher.mode` is `cached` and the cache exceeds its limit or the free
            disk space, or the folder of the cache cannot be used.
    """
    teacher = configuration.teacher
    assert teacher is not None
    cluster = not local and cluster_address(configuration.resources) is not None
    needed = (
        sizes.cache_bytes(configuration, data.sizes.train, len(data.classes), data.augmentation)
        + clean_bytes
    )
    views = sizes.views(configuration) if sizes.varies(configuration, data.augmentation) else 0
    size = sizes.format_bytes(needed) + (f" for {views} views and the clean one" if views else "")
    if teacher.mode == "online":
        return TeacherAccess(None, "computed online at every step (teacher.mode = online)")
    if cluster:
        folder = _cluster_folder(teacher.cache)
    else:
        folder = _local_folder(teacher.cache or store.knowledge)
    excess = _describe_excess(needed, teacher.cache_gib, None if cluster else folder, reserve_bytes)
    if not excess:
        return TeacherAccess(
            folder, f"cached in {folder}{' of each node' if cluster else ''}, {size}", cluster
        )
    if teacher.mode == "auto":
        return TeacherAccess(
            None, f"computed online at every step: a cache would take {size}, and {excess}"
        )
    limited = needed > teacher.cache_gib * 2**30
    raise ConfigurationError(
        f"teacher.mode = cached takes {size}, and {excess}: raise teacher.cache_gib, lower "
        "data.views, name another folder with teacher.cache, or set teacher.mode=auto"
    ).with_details(
        "teacher.cache_gib" if limited else "teacher.cache",
        teacher.cache_gib if limited else str(folder),
        (needed / 2**30, None) if limited else f"{sizes.format_bytes(needed + reserve_bytes)} free",
    )


def _cluster_folder(folder: Path | None) -> Path:
    if folder and not folder.is_absolute() and folder.parts[0] != "~":
        raise ConfigurationError(
            f"teacher.cache = {folder} is relative, and the nodes of a cluster have no common "
            f"working directory: give an absolute path, or one that begins with ~/"
        ).with_details("teacher.cache", str(folder), "an absolute path")
    return folder or NODE_CACHE


def _local_folder(folder: Path) -> Path:
    """Return the absolute folder; raise ConfigurationError if it cannot be used."""
    folder = read_path(folder, "teacher.cache")  # absolute: Ray's workers run in another directory
    nearest = _existing(folder)
    if not nearest.is_dir() or not os.access(
        nearest, os.R_OK | os.X_OK | (0 if nearest == folder else os.W_OK)
    ):
        raise ConfigurationError(
            f"teacher.cache = {folder} cannot be used ({nearest} is not a writable folder): give a "
            f"folder that you may write to"
        ).with_details("teacher.cache", str(folder), "a folder that can be written")
    return folder


def _existing(folder: Path) -> Path:
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


def _describe_excess(needed: int, limit_gib: float, folder: Path | None, reserve_bytes: int) -> str:
    """Return the limit that the cache exceeds, as text; "" if it fits.

    The disk of another node (folder None) is not checked: its free space is unknown here.
    """
    if needed > limit_gib * 2**30:
        return f"teacher.cache_gib = {limit_gib:g}"
    if folder is None:
        return ""
    free = shutil.disk_usage(_existing(folder)).free + _cached_bytes(folder)
    return (
        f"{folder} has {sizes.format_bytes(free)} free, of which "
        f"{sizes.format_bytes(reserve_bytes)} are reserved for other files"
        if free < needed + reserve_bytes
        else ""
    )


def _cached_bytes(folder: Path) -> int:
    """Return the bytes of the files in the cache: they are reused, or removed to make room."""
    return sum(file.size for file in list_files(folder) if file.path.suffix == ".npy")
