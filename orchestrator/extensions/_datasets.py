"""Make the source of a data set of user code."""

from bdb import BdbQuit
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from methods import SettingsError
from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError, UserError, short_reason
from orchestrator.core.paths import read_path
from orchestrator.core.user_code import failure_location
from orchestrator.data.conversion import Parts, convert_dataset
from orchestrator.data.datasets import Source
from orchestrator.extensions.signature import Signature, read_signature

KEYS = ("train", "validation", "test", "classes")


def make_source(target: Any, name: str, location: str, code: str) -> Source:
    """Return the source of a data set, for the registry.

    Args:
        target: The function that returns the parts.
        name: The name of the data set.
        location: File and line, for messages.
        code: The identity of the code.

    Raises:
        SignatureError: A parameter cannot be a setting.
    """
    signature = read_signature(target, "Settings", ("path",))

    def load(config: Data, raw: Path) -> Parts:
        try:
            returned = _call(signature, config)
        except (UserError, BdbQuit):
            raise
        except Exception as error:  # any error of user code
            failed_at = failure_location(error, location)
            raise ConfigurationError(
                f"data set {name} ({failed_at}) cannot be loaded ({short_reason(error)})"
            ).with_details("data.name", name, "code that returns the parts") from error
        parts = _named_parts(returned, name, location)
        try:
            return convert_dataset(**parts, size=config.size, folder=raw)
        except ConfigurationError as error:
            raise ConfigurationError.from_error(
                error, f"data set {name} ({location}): {error}"
            ) from error

    def identity(config: Data) -> list[Any]:
        path = config.path if "path" in signature.accepted else None
        return [code, _settings(signature, config).model_dump(), _identify_path(path)]

    return Source(load, identity, settings=signature.settings)


def _identify_path(path: Path | None) -> list[Any]:
    """Return the path, and size and modification time of a file."""
    if path is None:
        return []
    location = read_path(path, "data.path").resolve()
    status = location.stat() if location.is_file() else None
    return [str(location), *([status.st_size, status.st_mtime_ns] if status else [])]


def _settings(signature: Signature, config: Data) -> Any:
    try:
        return signature.settings.build(config.settings)
    except SettingsError as error:
        raise ConfigurationError.from_error(
            error, f"data.settings: {error}", "data.settings"
        ) from error


def _call(signature: Signature, config: Data) -> Any:
    return signature.call(_settings(signature, config), {"path": config.path})


def _named_parts(returned: Any, name: str, location: str) -> dict[str, Any]:
    """Return the parts and the class names by the arguments of `convert_dataset`."""
    if isinstance(returned, Mapping) and {"train", "test"} <= set(returned) <= set(KEYS):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        return _named_parts(returned._asdict(), name, location)
    if isinstance(returned, tuple) and len(returned) in (2, 3):
        return dict(zip(("train", "test"), (returned[0], returned[-1]), strict=True)) | (
            {"validation": returned[1]} if len(returned) == 3 else {}
        )
    raise ConfigurationError(
        f"data set {name} ({location}) returns {type(returned).__name__}: return (train, test), "
        f"(train, validation, test), or a dictionary with train, test and, if wanted, validation "
        f"and classes"
    ).with_details("data.name", type(returned).__name__, KEYS)
