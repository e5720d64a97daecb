"""List, measure and archive the project's files for a cluster.

Only the program's own folders are packaged: no data, no results, no hidden files, and no files
outside the project that a link refers to.
"""

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray._private.thirdparty.pathspec import PathSpec

from orchestrator.core.errors import ConfigurationError

PACKAGES = ("orchestrator", "methods", "search_spaces")
FILES = ("run.py", "configs", "pyproject.toml", "constraints.txt")
ALWAYS_EXCLUDED = (
    *(".*", "__pycache__/", "*.pyc", "*.egg-info/"),
    "/orchestrator/project/",  # FILES of an installed package, which are packaged as such
)
MIB = 2**20
NUM_LARGEST = 3  # files named in the error of a package that is too large
# modification time in every archive: equal files make equal archives, which are sent once
TIMESTAMP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """Files by their names in the archive."""

    files: Mapping[str, Path]

    @property
    def bytes(self) -> int:
        """Return the size of the unpacked files in bytes."""
        return sum(self._sizes().values())

    def require_at_most(self, limit_mib: float) -> None:
        """Check the total size of the files.

        Raises:
            ConfigurationError: The files exceed the limit; the message names the largest ones.
        """
        if self.bytes <= limit_mib * MIB:
            return
        largest = sorted(self._sizes().items(), key=lambda item: -item[1])[:NUM_LARGEST]
        largest_names = ", ".join(f"{name} ({format_bytes(size)})" for name, size in largest)
        raise ConfigurationError(
            f"--limit-mib {limit_mib:g}: the project's {len(self.files)} files take "
            f"{format_bytes(self.bytes)}, the largest are {largest_names}: "
            "exclude some with --exclude, or raise the limit"
        ).with_details("--limit-mib", limit_mib, (self.bytes / MIB, None))

    def write(self, archive: Path) -> int:
        """Write the files to a zip file, and return its size in bytes.

        The same files make the same archive.
        """
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zip_file:
            for name, file in sorted(self.files.items()):
                entry = zipfile.ZipInfo(name, TIMESTAMP)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                zip_file.writestr(entry, file.read_bytes())
        return archive.stat().st_size

    def _sizes(self) -> dict[str, int]:
        return {name: file.stat().st_size for name, file in self.files.items()}


def collect(
    root: Path,
    excludes: Iterable[str] = (),
    extra_files: Mapping[str, Path] | None = None,
    packages: Path | None = None,
) -> Package:
    """Return the files of a project that are packaged, as a checkout holds them.

    Args:
        root: Folder of the project.
        excludes: Patterns of files to leave out, as in .gitignore. Those of the project's
            .gitignore are left out too.
        extra_files: Further files, by their names in the archive.
        packages: Folder of the Python packages of an installed project; None for `root`.

    Raises:
        ConfigurationError: A link leads to a folder or out of the project, or `run.py` is missing
            or excluded.
    """
    root = root.resolve()
    ignored = root / ".gitignore"
    patterns = [
        *ALWAYS_EXCLUDED,
        *(ignored.read_text().splitlines() if ignored.is_file() else ()),
        *excludes,
    ]
    excluded = PathSpec.from_lines("gitwildmatch", patterns)
    packages = (packages or root).resolve()
    parents = dict.fromkeys(FILES, root) | dict.fromkeys(PACKAGES, packages)
    files = {
        file.relative_to(parent).as_posix(): file
        for part, parent in parents.items()
        for file in _files(parent / part, parent, excluded)
    }
    if "run.py" not in files:
        raise ConfigurationError(
            f"--exclude: the package lacks {root}/run.py, without which nothing can run: "
            f"do not exclude it"
        ).with_details("--exclude", "run.py", "patterns that do not match run.py")
    return Package(files | dict(extra_files or {}))


def _files(path: Path, root: Path, excluded: PathSpec) -> Iterator[Path]:
    """Yield the files at and below a path; do not open excluded folders."""
    name = path.relative_to(root).as_posix()
    if excluded.match_file(name) or (path.is_dir() and excluded.match_file(f"{name}/")):
        return
    if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(root)):
        raise ConfigurationError(
            f"{name} is a link to {path.resolve()}, which cannot be packaged: replace it by a "
            f"copy, or use --exclude {name}"
        ).with_details(name, str(path.resolve()), "a copy in the project")
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            yield from _files(inner, root, excluded)
    elif path.is_file():
        yield path


def format_bytes(size: int) -> str:
    """Return a size in bytes as readable text."""
    return f"{size / MIB:.1f} MiB" if size >= MIB else f"{size / 2**10:.0f} KiB"
