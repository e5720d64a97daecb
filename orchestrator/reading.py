"""A configuration from a file, `--set` pairs or plain values; what does not fit is said in one sentence.

Defaults < file < `--set key=value`. The resolved form is plain JSON and is stored with every run.
"""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.config import Configuration
from orchestrator.errors import ConfigurationError, nearest
from orchestrator.redact import redacted


def load(file: Path | None, overrides: list[str], **top: Any) -> Configuration:
    """The configuration from a YAML file (None: the defaults), `--set` pairs, and top-level values that are not None."""
    values = _read(file) if file else {}
    for pair in sorted(overrides, key=lambda pair: not _names(pair.partition("=")[0].split("."))):  # names come first
        _apply(values, pair)
    values.update({key: value for key, value in top.items() if value is not None})
    return build(values)


def given(file: Path) -> tuple[Configuration, dict[str, Any]]:
    """The configuration of a YAML file, and the values that stand in it."""
    return load(file, []), _read(file)


def override(values: dict[str, Any], pairs: list[str]) -> None:
    """Put the values of `--set` pairs into plain values, in place; ConfigurationError where a pair is none."""
    for pair in pairs:
        _apply(values, pair)


def build(values: dict[str, Any]) -> Configuration:
    """A configuration from plain values; ConfigurationError says in one sentence what does not fit."""
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        raise ConfigurationError(_sentence(error)) from error


PLAIN = {  # what the types of Python are in YAML
    "tuple_type": "give a list, such as [one, another]",
    "dict_type": "give keys with their values, such as {key: value}, or {} for none",
}


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number: YAML 1.1 reads it as text, and a person means the number."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def _parse(text: str) -> Any:
    """Plain values; yaml.YAMLError or, for a date that does not exist, ValueError."""
    return _Loader(text).get_single_data()


def _read(file: Path) -> dict[str, Any]:
    try:
        values = _parse(file.read_text())
    except OSError as error:
        raise ConfigurationError(f"--config {file} cannot be read ({error.strerror}): give the path of a YAML file") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"--config {file} is not YAML: {redacted(' '.join(str(error).split()))}") from error
    if not isinstance(values, dict | None):
        raise ConfigurationError(f"--config {file} holds a {type(values).__name__}: give keys such as `data:` and `method:`")
    return values or {}


def _apply(values: dict[str, Any], pair: str) -> None:
    key, equals, text = pair.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigurationError(
            f"--set {redacted(pair)} is not of the form key=value: write for example --set method.temperature=4"
        )
    try:
        value = _parse(text) if text else None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"--set {redacted(pair)}: the value is not YAML; quote it") from error
    for name in path[:-1]:
        inner = values.get(name)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigurationError(f"--set {redacted(pair)}: {name} is {redacted(repr(inner))}, which has no keys below it")
        values[name] = inner = {} if inner is None else inner
        values = inner
    if _names(path) and values.get("name", value) != value:
        values.clear()  # the settings of the file are those of what it named
    values[path[-1]] = value


def _names(path: list[str]) -> bool:
    """Whether the key names something that has settings of its own."""
    return path[-1] == "name" and len(path) > 1 and path[-2] in ("method", "student", "network")


def _sentence(error: ValidationError) -> str:
    """The first thing wrong, as: field = value is not allowed: what is, and the next step."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"there is no key {path!r}: {nearest(str(first['loc'][-1]), _keys(first['loc'][:-1]))}{more}"
    if first["type"] == "missing":
        return f"{path} is missing: give it in the file or with --set {path}=...{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{path}: {message}{more}" if path else f"{message}{more}"
    if first["type"] == "model_type":
        message = f"give keys below it, of {', '.join(_keys(first['loc']))}"
    message = PLAIN.get(first["type"], message)
    given = "null" if first["input"] is None else redacted(repr(first["input"]))
    return f"{path} = {given} is not allowed: {message[0].lower()}{message[1:]}{more}"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Configuration
    parts = list(location)
    while parts:
        annotation = section.model_fields[str(parts.pop(0))].annotation
        if get_origin(annotation) is dict and parts:
            parts.pop(0)  # a letter
        section = next(
            kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return list(section.model_fields)
