"""Make the source of a data set of user code."""

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


def source(target: Any, name: str, place: str, code: str) -> Source:
    """Return the source of a data set, for the registry.

    Args:
        target: The function that returns the parts.
        name: The name of the data set.
        place: File and line, for messages.
        code: The identity of the code.

    Raises:
        SignatureError: A parameter cannot be a setting.
    """
    signature = read_signature(target, "Settings", ("path",))

    def load(config: Data, raw: Path) -> Parts:
        try:
            found = _call(signature, config)
        except UserError:
            raise
        except Exception as error:  # any error of user code
            location = failure_location(error, place)
            raise ConfigurationError(
                f"data set {name} ({location}) cannot be loaded ({short_reason(error)})"
            ).with_details("data.name", name, "code that returns the parts") from error
        parts = _named_parts(found, name, place)
        try:
            return convert_dataset(**parts, size=config.size, folder=raw)
        except ConfigurationError as error:
            raise ConfigurationError.from_error(
                error, f"data set {name} ({place}): {error}"
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


def _named_parts(found: Any, name: str, place: str) -> dict[str, Any]:
    """Return the parts and the class names by the arguments of `convert_dataset`."""
    if isinstance(found, Mapping) and {"train", "test"} <= set(found) <= set(KEYS):
        return dict(found)
    if isinstance(found, tuple) and hasattr(found, "_asdict"):
        return _named_parts(found._asdict(), name, place)
    if isinstance(found, tuple) and len(found) in (2, 3):
        return dict(zip(("train", "test"), (found[0], found[-1]), strict=True)) | (
            {"validation": found[1]} if len(found) == 3 else {}
        )
    raise ConfigurationError(
        f"data set {name} ({place}) returns {type(found).__name__}: return (train, test), (train, "
        f"validation, test), or a dictionary with train, test and, if wanted, validation and "
        f"classes"
    ).with_details("data.name", type(found).__name__, KEYS)
