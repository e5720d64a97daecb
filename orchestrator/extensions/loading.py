"""Load the files of `--code` and the plugins of `--plugin`.

This is the only module that executes code which is not part of the program or of an installed
package. The user names each file on the command line; a configuration cannot name one.
"""

import ast
import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import keyword
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from orchestrator.core.errors import ConfigurationError, short_reason, suggest_name
from orchestrator.core.paths import read_file
from orchestrator.extensions.registry import ENTRIES, Origin, registering_from, unregister

GROUP = "distillation_orchestrator.plugins"
MOST_BYTES = 2**20  # of a file


@dataclass(frozen=True)
class CodeFile:
    """File of user code.

    Attributes:
        name: The name of the file, such as `mine.py`.
        text: Its content.
        identity: SHA-256 of the content; of the identities of imported files too, if there are any.
    """

    name: str
    text: str
    identity: str

    @property
    def module(self) -> str:
        """Return the name of its module."""
        return self.name.removesuffix(".py")

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the content."""
        return hashlib.sha256(self.text.encode()).hexdigest()


_files: dict[str, CodeFile] = {}  # by module, in the order of loading
_plugins: dict[str, str] = {}  # the distribution and version of each loaded plugin


def loaded_files() -> tuple[CodeFile, ...]:
    """Return the loaded files, in their order."""
    return tuple(_files.values())


def loaded_plugins() -> dict[str, str]:
    """Return the distribution and version of each loaded plugin, by its name."""
    return dict(_plugins)


def load_code(paths: Sequence[Path | str], plugins: Sequence[str] = ()) -> None:
    """Load plugins, then files in their order; each file may import the earlier ones by name.

    A file that is loaded already is not loaded again, unless it has changed.

    Args:
        paths: The files of `--code`.
        plugins: The names of `--plugin`.

    Raises:
        ConfigurationError: A file or plugin cannot be loaded; the message has file and line.
    """
    for name in plugins:
        _load_plugin(name)
    names: dict[str, Path] = {}
    for path in paths:
        file = read_file(Path(path), "--code", "give the path of a Python file")
        if (known := names.setdefault(file.name, file.resolve())) != file.resolve():
            raise ConfigurationError(
                f"--code {path} has the same name as {known}: rename one of them"
            ).with_details("--code", str(path), "files with different names")
        _load_file(file)


def load_sources(sources: Mapping[str, str]) -> None:
    """Load files from their content, in their order.

    Args:
        sources: The content of each file, by its name.

    Raises:
        ConfigurationError: A file cannot be loaded.
    """
    for name, text in sources.items():
        _execute(name, text, f"<code>/{name}")


def _load_file(file: Path) -> None:
    name = file.name
    module = name.removesuffix(".py")
    if file.suffix != ".py" or not module.isidentifier() or keyword.iskeyword(module):
        raise ConfigurationError(
            f"--code {file} is not the name of a Python module: give a file such as mine.py, named "
            f"with letters, digits and '_'"
        ).with_details("--code", str(file), "a file such as mine.py")
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ConfigurationError(
                f"--code {file} has more than {MOST_BYTES} bytes: give a smaller file"
            ).with_details("--code", str(file), (0, MOST_BYTES))
        text = file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"--code {file} cannot be read ({error}): give a readable file in UTF-8"
        ).with_details("--code", str(file), "a readable file in UTF-8") from error
    if module not in _files:
        _require_free_name(file, module)
    _execute(name, text, str(file))


def _require_free_name(file: Path, module: str) -> None:
    """Raise ConfigurationError if a module of this name is installed."""
    try:
        specification = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a module without a specification
        specification = None
    if specification is None and module not in sys.modules:
        return
    origin = (specification.origin if specification else None) or module
    if Path(origin).is_file() and Path(origin).samefile(file):
        return
    raise ConfigurationError(
        f"--code {file} has the name of the installed module {module!r} ({origin}): rename the file"
    ).with_details("--code", str(file), "a name that no installed module has")


def _execute(name: str, text: str, location: str) -> None:
    """Execute a file as a module, unless the same content is loaded already."""
    module = name.removesuffix(".py")
    known = _files.get(module)
    imported = _imported_files(name, text)
    identity = hashlib.sha256(text.encode()).hexdigest()
    if imported:
        chain = "".join(_files[each].identity for each in imported)
        identity = hashlib.sha256((identity + chain).encode()).hexdigest()
    if known is not None:
        if known.text == text and known.identity == identity:
            return
        _unload(known)
    origin = Origin(name, identity)
    loader = _TextLoader(text, location)
    spec = importlib.util.spec_from_loader(module, loader, origin=location)
    assert spec is not None
    created = importlib.util.module_from_spec(spec)
    created.__file__ = location
    sys.modules[module] = created
    try:
        with registering_from(origin):
            loader.exec_module(created)
    except (Exception, SystemExit) as error:
        _unload(CodeFile(name, text, identity))
        raise _import_error(name, location, error) from error
    _files[module] = CodeFile(name, text, identity)


class _TextLoader(importlib.abc.InspectLoader):
    """Loader of a module from its text."""

    def __init__(self, text: str, location: str) -> None:
        self.text, self.location = text, location

    def get_source(self, fullname: str) -> str:
        """Return the text, which tracebacks show too."""
        return self.text

    def exec_module(self, module: ModuleType) -> None:
        """Execute the text in the module."""
        code = self.source_to_code(self.text, self.location)
        exec(code, vars(module))


def _imported_files(name: str, text: str) -> list[str]:
    """Return the loaded modules of user code that a text imports, in their order."""
    try:
        nodes = list(ast.walk(ast.parse(text, name)))
    except (SyntaxError, ValueError):
        return []  # the execution reports it
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    roots = {each.partition(".")[0] for each in names} - {name.removesuffix(".py")}
    return [module for module in _files if module in roots]


def _unload(file: CodeFile) -> None:
    for entry in list(ENTRIES.values()):
        if entry.origin.name == file.name:
            unregister(entry)
    sys.modules.pop(file.module, None)
    _files.pop(file.module, None)


def _import_error(name: str, location: str, error: BaseException) -> ConfigurationError:
    """Return an error with file and line of the failure."""
    if isinstance(error, ConfigurationError) and f"{name}:" in str(error):
        return ConfigurationError.from_error(error, f"--code {error}")
    if isinstance(error, SyntaxError) and error.filename == location:
        line, reason = error.lineno or 1, f"SyntaxError: {error.msg}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if frame.filename == location]
        line = (own[-1] if own else None) or 1
        reason = short_reason(error)
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing:
        advice = f"install {missing}, or give its file before this one with --code"
    else:
        advice = "correct it"
    return ConfigurationError(
        f"--code {name}:{line} cannot be imported ({reason}): {advice}"
    ).with_details("--code", f"{name}:{line}", "a file that can be imported")


def _load_plugin(name: str) -> None:
    if name in _plugins:
        return
    points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in points:
        known = suggest_name(name, points) if points else f"no installed package offers {GROUP}"
        raise ConfigurationError(f"--plugin {name!r} is not installed: {known}").with_details(
            "--plugin", name, tuple(points)
        )
    point = points[name]
    version = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
    origin = Origin(f"plugin {name}", version)
    try:
        with registering_from(origin):
            target = point.load()
            if callable(target):
                target()
    except (Exception, SystemExit) as error:
        for entry in [each for each in ENTRIES.values() if each.origin == origin]:
            unregister(entry)
        reason = short_reason(error)
        raise ConfigurationError(
            f"--plugin {name} ({version}) cannot be loaded ({reason}): update or remove it"
        ).with_details("--plugin", name, "a plugin that can be imported") from error
    _plugins[name] = version
