"""List the images of a folder by split and class at any depth, and count the files not read."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.core.errors import ConfigurationError

JPEG, NETPBM = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), (".ppm", ".pgm", ".pbm", ".pnm")
# the formats that decoding.py decodes
SUFFIXES = (*JPEG, ".png", ".webp", ".bmp", ".gif", *NETPBM, ".tif", ".tiff")
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg (or valid/, validation/) or test/CLASS/*.jpg"
VALIDATION = ("val", "valid", "validation")
UNLABELLED = "unlabelled"  # folder of training images without a label, at any depth
MOST_KINDS = 12  # listed in one message
# besides names that begin with a dot; lower case
SYSTEM = ("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin")


def list_kinds(words: Sequence[str]) -> str:
    """Return the first kinds of files that are not read, and the count of further kinds."""
    more = [f"{len(words) - MOST_KINDS} more kinds"] if len(words) > MOST_KINDS else []
    return "; ".join([*words[:MOST_KINDS], *more])


def describe_unread(words: Sequence[str]) -> str:
    """Return ` (not read: ...)` for an error message, empty if everything is read."""
    return f" (not read: {list_kinds(words)})" if words else ""


@dataclass
class Unread:
    """Files and folders below `root` that are not read.

    `files` holds paths by kind, `folders` holds paths by folder name.
    """

    root: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)

    def relative(self, path: str) -> str:
        """Return a path relative to the root."""
        return path.removeprefix(os.path.join(self.root, ""))

    def add_file(self, kind: str, path: str) -> None:
        """Count a file."""
        self.files.setdefault(kind, []).append(self.relative(path))

    def add_folder(self, path: str) -> None:
        """Count a folder."""
        self.folders.setdefault(os.path.basename(path), []).append(path)

    def restrict_to(self, folder: str) -> "Unread":
        """Return the entries below a folder, which is given relative to the root."""
        subset, start = Unread(self.root), os.path.join(folder, "")
        for source, target in ((self.files, subset.files), (self.folders, subset.folders)):
            for kind, paths in source.items():
                if matching := [path for path in paths if self.relative(path).startswith(start)]:
                    target[kind] = matching
        return subset

    def as_clause(self) -> str:
        """Return ` (not read: ...)` for an error message, empty if everything is read."""
        return describe_unread(self.in_words())

    def in_words(self) -> list[str]:
        """Return each kind with its count and the path of the first file."""
        descriptions = [
            f"{kind}: {len(paths)} ({_example(sorted(paths))})"
            for kind, paths in self.files.items()
        ]
        for name, paths in self.folders.items():
            count = sum(len(files) for path in paths for _, _, files in os.walk(path))
            if len(paths) == 1:
                which = f"folder {self.relative(paths[0])}/"
            else:
                which = f"{len(paths)} folders {name}/"
            descriptions.append(f"{which}: {count} files")
        return descriptions


@dataclass(frozen=True)
class Listing:
    """Images of each part by class, as sorted paths below the root.

    `splits` maps each part to the name of its folder. `unlabelled` are training images.
    """

    splits: dict[str, str]
    images: dict[str, dict[str, list[str]]]
    unread: Unread
    unlabelled: list[str]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes in the order of their labels.

        They are those of the training part, or of the validation part without labels in training.
        """
        return tuple(self.images[next(iter(self.splits))])


def list_images(root: Path) -> Listing:
    """List the images below `root` without opening them.

    Folders within a class are followed, including links, each folder once. `test/` is the test part
    and the validation folder is the validation part. Without `test/`, the validation folder is the
    test part. `unlabelled/` has training images without a label; without `train/` they are all.

    Raises:
        ConfigurationError: A part or its class folders are missing, or a folder cannot be read.
    """
    unread = Unread(root)
    entries = _scan_folder(root)
    present = [entry.name for entry in entries if _is_folder(entry)]
    splits = _splits(root, present)
    _add_unread(entries, unread, "images outside the parts", {*splits.values(), UNLABELLED})
    images = {part: _list_classes(root / split, unread) for part, split in splits.items()}
    unlabelled = _list_class(root / UNLABELLED, unread) if UNLABELLED in present else []
    if not unlabelled and "train" not in splits:
        raise ConfigurationError(
            f"{root / UNLABELLED} has 0 images, and there is no train/: add images "
            f"({', '.join(SUFFIXES)})"
        ).with_details(str(root / UNLABELLED), 0, (1, None))
    return Listing(splits, images, unread, unlabelled)


def _splits(root: Path, present: Sequence[str]) -> dict[str, str]:
    validation = [name for name in VALIDATION if name in present]
    if len(validation) > 1:
        both = " and ".join(f"{name}/" for name in validation)
        raise ConfigurationError(
            f"data.path = {root} has {both}, and only one folder can be the validation part: "
            f"keep one"
        ).with_details("data.path[validation]", tuple(validation), "one of them")
    if "train" not in present and UNLABELLED in present and validation and "test" in present:
        return {"validation": validation[0], "test": "test"}
    if "train" not in present or not (validation or "test" in present):
        missing = "train/" if "train" not in present else "val/ and no test/"
        raise ConfigurationError(
            f"data.path = {root} has no {missing}: data.name = folder needs {LAYOUT}"
        ).with_details(f"data.path[{'test' if 'train' in present else 'train'}]", None, LAYOUT)
    if not validation:
        return {"train": "train", "test": "test"}
    return {"train": "train", "test": validation[0]} | (
        {"validation": validation[0], "test": "test"} if "test" in present else {}
    )


def _list_classes(folder: Path, unread: Unread) -> dict[str, list[str]]:
    entries = _scan_folder(folder)
    names = sorted(
        entry.name for entry in entries if _is_folder(entry) and not _is_system(entry.name)
    )
    _add_unread(entries, unread, f"images in {folder.name}/ outside its class folders", set(names))
    if not names:
        unread_clause = unread.restrict_to(folder.name).as_clause()
        raise ConfigurationError(
            f"{folder} has no class folders: data.name = folder needs {LAYOUT}{unread_clause}"
        ).with_details(str(folder), 0, LAYOUT)
    return {name: _list_class(folder / name, unread) for name in names}


def _list_class(folder: Path, unread: Unread) -> list[str]:
    """Return the images of a class, as sorted paths below the root."""
    images: list[str] = []
    pending = [str(folder)]
    visited = {_folder_id(unread.root), _folder_id(folder.parent), _folder_id(folder)}
    while pending:
        for entry in _scan_folder(pending.pop()):
            if _is_folder(entry):
                if _is_system(entry.name):
                    unread.add_folder(entry.path)
                elif (identifier := _folder_id(entry.path)) in visited:
                    unread.add_file("links to folders that are already read", entry.path)
                else:
                    visited.add(identifier)
                    pending.append(entry.path)
            elif (kind := _kind(entry)) is None:
                images.append(unread.relative(entry.path))
            else:
                unread.add_file(kind, entry.path)
    return sorted(images)


def _add_unread(
    entries: Sequence[os.DirEntry[str]], unread: Unread, kind: str, read: set[str]
) -> None:
    """Count the entries that are not read: all except the folders named in `read`.

    Images are counted under `kind`.
    """
    for entry in entries:
        if not _is_folder(entry):
            unread.add_file(_kind(entry) or kind, entry.path)
        elif entry.name not in read:
            unread.add_folder(entry.path)


def _kind(entry: os.DirEntry[str]) -> str | None:
    """Return the reason why a file is not read, None for an image by its name."""
    if _is_system(entry.name):
        return "hidden or system files"
    if not _is_reachable(entry.is_file):
        return "broken links or special files"
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in SUFFIXES:
        return None
    return f"files of {suffix}" if suffix else "files without a suffix"


def _is_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return _is_reachable(entry.is_dir)


def _is_reachable(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except OSError:  # a link to itself, or into a folder without access
        return False


def _folder_id(path: Path | str) -> tuple[int, int]:
    """Return the identity of a folder, independent of links to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _scan_folder(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, links last.

    A folder that is also linked is therefore read under its own path.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be read ({error.strerror}): make it readable"
        ).with_details(str(folder), error.strerror, "a folder that can be read") from error


def _example(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"such as {paths[0]}"
