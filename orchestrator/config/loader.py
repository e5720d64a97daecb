"""Load a configuration from a file, `--set` pairs or plain values.

The order of precedence is: defaults < file < `--set key=value`. The resolved form is plain JSON and
is stored with every run. Every error message is one sentence.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.config._yaml_text import MAX_BYTES, YamlError, parse_yaml
from orchestrator.config.examples import list_examples
from orchestrator.config.fields import allowed_at
from orchestrator.config.published_inputs import complete_networks
from orchestrator.config.schema import Configuration
from orchestrator.config.search_schema import RANGE_KEYS, is_number, join_keys
from orchestrator.config.yielding import (
    Origin,
    drop_other_teachers,
    keep_schedules,
    require_milestones,
    require_searched_method,
    with_yielding_values,
)
from orchestrator.core.errors import ConfigurationError, FieldError, suggest_name
from orchestrator.core.paths import read_file
from orchestrator.core.program import program_name
from orchestrator.core.redact import redact
from orchestrator.core.text import describe_requirement, quote, shorten

YAML_WORDS = {"True": "true", "False": "false", "None": "null"}
PYTHON_WORD = re.compile(r"\b(True|False|None)\b")


def load(
    file: Path | None, overrides: list[str], options: Mapping[str, Any] | None = None, **top: Any
) -> Configuration:
    """Return the configuration from a YAML file and the options of the command line.

    If two values conflict, the one of higher precedence overrides the other. The property
    `Configuration.yielded` reports each override.

    Args:
        file: The YAML file; None for the defaults.
        overrides: The `--set` pairs.
        options: Values of other options by dotted keys.
        top: Values of top-level keys; None for not given.

    Raises:
        ConfigurationError: The file cannot be read, or a key or value is not allowed.
    """
    values = _read(file) if file else {}
    origin = Origin(dict(_leaves(values)), str(file))
    # Names are set before the settings that belong to them.
    for pair in sorted(
        overrides, key=lambda pair: not _is_name_key(pair.partition("=")[0].split("."))
    ):
        origin.typed |= _apply(values, pair)
    named = dict(options or {}) | {key: value for key, value in top.items() if value is not None}
    for key, value in named.items():
        _put(values, key.split("."), value, f"{key}={value}")
        origin.typed.add(key)
    changed = drop_other_teachers(values, origin) | keep_schedules(values, origin)
    configuration = complete_networks(build(values))
    configuration = with_yielding_values(configuration, origin, changed)
    require_milestones(configuration)
    require_searched_method(configuration, origin)
    return configuration


def plain_values(file: Path) -> tuple[Configuration, dict[str, Any]]:
    """Return the configuration of a YAML file, and the values that the file contains."""
    return load(file, []), _read(file)


def find_extended(file: Path) -> list[Path]:
    """Return the files that a YAML file extends, directly and through another one."""
    return [path for path, _ in _read_chain(file)[1:]]


def override(values: dict[str, Any], pairs: list[str]) -> None:
    """Put the values of `--set` pairs into plain values, in place.

    Raises:
        ConfigurationError: A pair is not of the form key=value, or its value is not YAML.
    """
    for pair in pairs:
        _apply(values, pair)


def build(values: dict[str, Any]) -> Configuration:
    """Return a configuration from plain values.

    Raises:
        ConfigurationError: A key or a value is not allowed; the message is one sentence.
    """
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from error


EXTENDS = "extends"  # key of a file: another file whose values it changes
PLAIN = {  # the YAML form of Python types
    "tuple_type": "give a list, for example [first, second]",
    "dict_type": "give a mapping, for example {key: value}, or {} for none",
}


def _read(file: Path) -> dict[str, Any]:
    """Return the values of a YAML file, over those of the file that its key `extends` names.

    A section is merged key by key, unless its `name` differs; any other value replaces that of the
    extended file, which may extend another one. `teacher` and `teachers` replace each other.
    """
    *changes, (_, values) = _read_chain(file)
    for _, changed in reversed(changes):
        for key, other in (("teacher", "teachers"), ("teachers", "teacher")):
            if changed.get(key) and other not in changed:
                values.pop(other, None)
        values = _merge(values, changed)
    return values


def _read_chain(file: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return a file and those that it extends, each with its own values.

    Raises:
        ConfigurationError: A file cannot be read, or extends itself through others.
    """
    values, visited = _parse(file, "--config"), {file.resolve()}
    chain = [(file, values)]
    while (name := values.pop(EXTENDS, None)) is not None:
        extended = _extended_file(file, name)
        if extended.resolve() in visited:
            raise ConfigurationError(
                f"{EXTENDS} = {quote(name)} in {file} leads back to that file: extend a file that "
                f"does not extend it"
            ).with_details(EXTENDS, name, "a file that does not extend this one")
        visited.add(extended.resolve())
        file, values = extended, _parse(extended, EXTENDS)
        chain.append((file, values))
    return chain


def _extended_file(file: Path, name: Any) -> Path:
    """Return the file that `extends` names: in the folder of `file` or below it, or an example."""
    allowed = "a YAML file in the same folder or below it, or the name of an example"
    if isinstance(name, str) and name and not Path(name).is_absolute():
        folder = file.resolve().parent
        path = (folder / name).resolve()
        if path.is_relative_to(folder) and path != file.resolve():
            return path if path.exists() else list_examples().get(name, path)
    raise ConfigurationError(
        f"{EXTENDS} = {quote(name)} in {file} is not allowed: give {allowed}"
    ).with_details(EXTENDS, name, allowed)


def _merge(values: dict[Any, Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    """Return the values with these changes, section by section.

    A section whose `name` changes is replaced, because its settings belong to the name.
    """
    merged = dict(values)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict) and value:
            name = value.get("name")
            value = _merge(before, value) if name in (None, before.get("name", name)) else value
        merged[key] = value
    return merged


def _parse(file: Path, key: str) -> dict[str, Any]:
    advice = (
        f"give the path of a YAML file, or the name of an example, see `{program_name()} configs`"
    )
    path = read_file(file, key, advice)
    try:
        with path.open("rb") as stream:
            values = parse_yaml(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise ConfigurationError(
            f"{key} {file} cannot be read ({error.strerror}): give the path of a YAML file"
        ).with_details(key, str(file), "a YAML file") from error
    except YamlError as error:
        what = "is not valid YAML, line" if error.syntax else "cannot be used, line"
        raise ConfigurationError(
            f"{key} {file} {what} {error.line}: {redact(str(error))}"
        ).with_details(key, str(file), "a YAML file") from error
    if not isinstance(values, dict | None):
        raise ConfigurationError(
            f"{key} {file} contains a {type(values).__name__} instead of a mapping: give keys "
            f"such as `data:` and `method:`"
        ).with_details(key, str(file), dict)
    return values or {}


def _leaves(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of everything that is not a non-empty mapping."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _apply(values: dict[str, Any], pair: str) -> set[str]:
    """Put the value of a `--set` pair into `values`; return the dotted keys that it sets."""
    key, equals, text = pair.partition("=")
    path, shown = key.strip().split("."), shorten(redact(pair))
    if not equals or not all(path):
        raise ConfigurationError(
            f"--set {shown} is not of the form key=value: write, for example, --set "
            f"method.temperature=4"
        ).with_details("--set", pair, "key=value")
    try:
        value = parse_yaml(text) if text else None
    except YamlError as error:
        problem = "the value is not valid YAML; quote it" if error.syntax else redact(str(error))
        raise ConfigurationError(f"--set {shown}: {problem}").with_details(
            key.strip(), text, "YAML"
        ) from error
    _put(values, path, value, pair)
    return {key for key, _ in _leaves({".".join(path): value})}


def _put(values: dict[str, Any], path: list[str], value: Any, pair: str) -> None:
    path, value = _searched_path(values, path, value)
    section: Any = values
    for index, name in enumerate(path[:-1]):
        if isinstance(section, list):
            section = section[_read_position(section, path[:index], name, pair)]
        else:
            inner = section.get(name)
            section[name] = section = {} if inner is None else inner
        is_list = isinstance(section, list) and index < len(path) - 2
        if not isinstance(section, dict) and not is_list:
            raise ConfigurationError(
                f"--set {shorten(redact(pair))}: {name} is {quote(section)} and not a section, so "
                f"it has no keys below it"
            ).with_details(
                pair.partition("=")[0].strip(), pair.partition("=")[2], f"a section {name}"
            )
    values = section
    if _is_name_key(path) and values.get("name", value) != value:
        values.clear()  # the settings of the file belong to the name in the file
    values[path[-1]] = value


def _read_position(items: list[Any], path: list[str], name: str, pair: str) -> int:
    """Return the position that a part of a key names in a list, such as 1 of `teachers.1`."""
    if name.isdecimal() and int(name) < len(items):
        return int(name)
    key = ".".join(path)
    raise ConfigurationError(
        f"--set {shorten(redact(pair))}: {key} has no position {name}: give 0 to {len(items) - 1}"
    ).with_details(f"{key}.{name}", name, (0, len(items) - 1))


def _searched_path(values: dict[str, Any], path: list[str], value: Any) -> tuple[list[str], Any]:
    """Return the path and the value of a searched key, whose name in its mapping has dots.

    A part of a range, such as `high`, is merged into the range that `values` contain.
    """
    if path[0] != "search" or len(path) < 4 or path[1] not in ("space", "extra_space"):
        return path, value
    section = values.get("search")
    known = section.get(path[1]) if isinstance(section, dict) else None
    if isinstance(known, dict):
        joined = dict(join_keys(known))
        if len(joined) == len(list(join_keys(known))):
            known.clear()
            known.update(joined)
    if path[1] == "space" and len(path) > 3 and path[-1] in RANGE_KEYS:
        *path, part = path
        before = known.get(".".join(path[2:])) if isinstance(known, dict) else None
        if isinstance(before, list) and len(before) == 2 and all(map(is_number, before)):
            before = {"low": before[0], "high": before[1]}
        value = (before if isinstance(before, dict) else {}) | {part: value}
    return [*path[:2], ".".join(path[2:])], value


def _is_name_key(path: list[str]) -> bool:
    """Return whether the key selects a method or a network, which has its own settings."""
    return path[-1] == "name" and len(path) > 1 and path[-2] in ("method", "student", "network")


def _refusal(error: ValidationError) -> ConfigurationError:
    """Convert the first error of a validation.

    The result has the dotted key, the value without secrets and the allowed values of that key.
    """
    first = error.errors(include_url=False)[0]
    location, cause = first["loc"], first.get("ctx", {}).get("error")
    path = ".".join(str(part) for part in location)
    if isinstance(cause, FieldError):
        return ConfigurationError.from_error(cause, _sentence(error), path)
    is_unknown = first["type"] == "extra_forbidden"
    value = None if first["type"] == "missing" else first["input"]
    allowed = allowed_at(Configuration, location[:-1] if is_unknown else location)
    return ConfigurationError(_sentence(error)).with_details(path or None, value, allowed)


def _sentence(error: ValidationError) -> str:
    """Return the first error as `field = value is not allowed: what is allowed`."""
    first = error.errors(include_url=False)[0]
    path = shorten(".".join(str(part) for part in first["loc"]))
    errors_left = error.error_count() - 1
    more = f" ({errors_left} more error{'s' * (errors_left > 1)})" if errors_left else ""
    if first["type"] == "extra_forbidden":
        return (
            f"unknown key {path!r}: "
            f"{suggest_name(str(first['loc'][-1]), _names_at(first['loc'][:-1]))}{more}"
        )
    if first["type"] == "missing":
        return f"{path} is required: give it in the file or with --set {path}=...{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        field = getattr(first["ctx"]["error"], "field", None)
        joint = "." if field and message.startswith(f"{field} = ") else ": "
        return f"{path}{joint}{message}{more}" if path else f"{message}{more}"
    if first["type"] == "model_type":
        message = f"it is a section; set keys below it: {', '.join(_names_at(first['loc']))}"
    if first["type"] == "literal_error":  # it lists Python's values
        message = PYTHON_WORD.sub(lambda word: YAML_WORDS[word[0]], message)
    message = PLAIN.get(first["type"], describe_requirement(message))
    text = quote(first["input"])
    text = YAML_WORDS.get(text, text)
    return f"{path} = {text} is not allowed: {message}{more}"


def _names_at(location: tuple[int | str, ...]) -> list[str]:
    allowed = allowed_at(Configuration, location)
    return list(allowed) if isinstance(allowed, tuple) else []
