"""Decide whether the teacher's outputs are cached, and where.

The decision is made once per run, before anything starts.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import sizes
from orchestrator.config.resources import cluster_address
from orchestrator.config.schema import Configuration, Teacher
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.data.dataset import DataSummary
from orchestrator.store.store import SPARE_BYTES, Store
from orchestrator.teacher.cache import list_files

NODE_CACHE = Path("~/.cache/distillation-orchestrator/knowledge")  # the worker expands `~`


@dataclass(frozen=True)
class TeacherAccess:
    """The source of the outputs of the teachers: a cache, or the teachers at every step.

    Attributes:
        folder: The folder of the cache; None if all teachers run at every step.
        words: A description for users.
        of_each_node: Whether every node has its own cache.
        online: The keys of the teachers that run at every step although others are cached.
    """

    folder: Path | None
    words: str
    of_each_node: bool = False
    online: tuple[str, ...] = ()

    def resolve(self, teachers: Mapping[str, Teacher]) -> dict[str, Teacher]:
        """Return the teachers, by key, with the mode in force instead of `auto`."""
        return {
            key: teacher.model_copy(
                update={"mode": "cached" if self.folder and key not in self.online else "online"}
            )
            for key, teacher in teachers.items()
        }


def decide_access(
    store: Store,
    configuration: Configuration,
    data: DataSummary,
    local: bool,
    reserve_bytes: int = SPARE_BYTES,
    clean_bytes: int = 0,
) -> TeacherAccess:
    """Return whether the outputs of the teachers are cached, or computed online.

    They are computed online if the configuration requests it, or if the mode is `auto` and the
    cache does not fit. The cache of several teachers is counted as a whole; if it does not fit,
    those with the mode `auto` are computed online. Call this once per run, before Ray starts:
    afterwards every process has the address of a cluster.

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
    teachers = configuration.named_teachers
    cluster = not local and cluster_address(configuration.resources) is not None
    first, settings = next(iter(teachers.items()))  # the cache and its limit are those of all
    cached = [key for key, teacher in teachers.items() if teacher.mode != "online"]
    if not cached:
        return TeacherAccess(None, f"computed online at every step ({first}.mode = online)")
    if cluster:
        folder = _cluster_folder(settings.cache)
    else:
        folder = _local_folder(settings.cache or store.knowledge)
    while True:
        chosen = configuration.with_teachers({key: teachers[key] for key in cached})
        needed, size = _measure(chosen, data, clean_bytes)
        online = tuple(key for key in teachers if key not in cached)
        excess = _describe_excess(
            needed,
            f"{first}.cache_gib",
            settings.cache_gib,
            None if cluster else folder,
            reserve_bytes,
        )
        if not excess:
            words = f"cached in {folder}{' of each node' if cluster else ''}, {size}"
            words += f"; {', '.join(online)} online at every step" if online else ""
            return TeacherAccess(folder, words, cluster, online)
        kept = [key for key in cached if teachers[key].mode == "cached"]
        if not kept:
            return TeacherAccess(
                None, f"computed online at every step: a cache would take {size}, and {excess}"
            )
        if kept == cached:
            raise _refuse(first, settings, kept[0], folder, needed, reserve_bytes, size, excess)
        cached = kept


def _refuse(
    first: str,
    settings: Teacher,
    cached: str,
    folder: Path,
    needed: int,
    reserve_bytes: int,
    size: str,
    excess: str,
) -> ConfigurationError:
    """Return the error about a cache that exceeds a limit, for the teacher with the key `cached`.

    The cache and its limit are `settings`, which are those of the teacher with the key `first`.
    """
    limited = needed > settings.cache_gib * 2**30
    return ConfigurationError(
        f"{cached}.mode = cached takes {size}, and {excess}: raise {first}.cache_gib, lower "
        f"data.views, name another folder with {first}.cache, or set {cached}.mode=auto"
    ).with_details(
        f"{first}.cache_gib" if limited else f"{first}.cache",
        settings.cache_gib if limited else str(folder),
        (needed / 2**30, None) if limited else f"{sizes.format_bytes(needed + reserve_bytes)} free",
    )


def _measure(configuration: Configuration, data: DataSummary, clean_bytes: int) -> tuple[int, str]:
    """Return the bytes of the cache of all teachers of a configuration, and a text of them."""
    needed = clean_bytes + sizes.cache_bytes(
        configuration, data.sizes.train, len(data.classes), data.augmentation
    )
    varies = sizes.varies(configuration, data.augmentation)
    views = f" for {sizes.views(configuration)} views and the clean one" if varies else ""
    number = len(configuration.named_teachers)
    return needed, sizes.format_bytes(needed) + views + (f" of {number} teachers" * (number > 1))


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


def _describe_excess(
    needed: int, limit: str, limit_gib: float, folder: Path | None, reserve_bytes: int
) -> str:
    """Return the limit that the cache exceeds, as text; "" if it fits.

    The disk of another node (folder None) is not checked: its free space is unknown here.
    """
    if needed > limit_gib * 2**30:
        return f"{limit} = {limit_gib:g}"
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
