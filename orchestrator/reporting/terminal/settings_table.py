"""Describe the settings of the configuration, of networks and of methods, and print them."""

import inspect
import json
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from methods import METHODS, allowed_values, describe_allowed
from methods.settings import format_bound, read_limits
from orchestrator.config.fields import Choice, list_types, read_annotation_limits
from orchestrator.config.key_fields import LETTER, Key, find_key, find_section
from orchestrator.config.schema import Configuration, PeerTraining, Training
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.reporting.terminal.methods_table import search_parameters

KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    Any: "any value",
}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
LENGTHS = {"min_length": "at least {} long", "max_length": "at most {} long"}


def read_summary(kind: type) -> str:
    """Return the first paragraph of a class's docstring as one line."""
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def describe_type(
    annotation: Any, metadata: Iterable[Any] = (), quote: Callable[[Any], str] = str
) -> str:
    """Return a description of the values that a setting accepts, with its bounds.

    Args:
        annotation: The type of the setting.
        metadata: Its bounds and lengths.
        quote: Function that formats a literal value.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(arguments[0], _flat(arguments[1:]), quote)
    if origin is list:
        return f"{describe_type(arguments[0], (), quote)}, repeatable"
    if origin in (Union, types.UnionType):
        return " or ".join(
            "null" if kind is type(None) else describe_type(kind, metadata, quote)
            for kind in arguments
        )
    limits = read_limits(metadata)
    bounds = [f"{BOUNDS[name]} {format_bound(limits[name])}" for name in limits if name in BOUNDS]
    bounds += [LENGTHS[name].format(limits[name]) for name in limits if name in LENGTHS]
    if origin is Literal:
        plain = (str(each).lower() if isinstance(each, bool) else each for each in arguments)
        kind = "one of " + ", ".join(map(quote, plain))
    elif origin is tuple:
        kind = f"list ({describe_type(arguments[0], (), quote)})"
    elif origin is dict:
        kind = f"mapping ({describe_type(arguments[1], (), quote)})"
    else:
        kind = KINDS.get(annotation) or (
            "name and settings" if issubclass(annotation, Choice) else "section"
        )
    return ", ".join([kind, *bounds])


def _flat(metadata: Iterable[Any]) -> list[Any]:
    return [
        inner
        for item in metadata
        for inner in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]


def find_unit(field: FieldInfo) -> str:
    """Return the unit of a setting, from its own declaration or that of its type."""
    nested = [
        item
        for kind in get_args(field.annotation)
        for item in get_args(kind)
        if isinstance(item, FieldInfo)
    ]
    for declared in [field, *nested]:
        if isinstance(declared.json_schema_extra, dict) and "unit" in declared.json_schema_extra:
            return str(declared.json_schema_extra["unit"])
    return ""


def show_default(field: FieldInfo) -> str:
    """Return the default of a setting as a user types it; "" for that of a section."""
    if field.default is PydanticUndefined:
        return "required"
    text = _plain(_to_json(field.default))
    return text if text != "{}" else ""


def describe_meaning(section: type[BaseModel] | None, name: str, field: FieldInfo) -> str:
    """Return the description of a setting of a section."""
    if section is PeerTraining:
        doc = (Training.model_fields[name].description or "").partition("; null")[0].rstrip(".")
        return f"{doc}; null inherits `training.{name}`."
    inner = find_section(field.annotation)
    return field.description or (read_summary(inner) if inner else "")


def describe_key(configuration: Configuration, key: str, with_value: bool) -> dict[str, Any]:
    """Return the description of a key as plain JSON, with the keys directly below it.

    Args:
        configuration: The configuration, which selects the networks and the method.
        key: The dotted key; "" for the whole configuration.
        with_value: Whether to include the values of the configuration.

    Raises:
        ConfigurationError: The key does not exist.
    """
    if not key:
        found = Key("", None, Configuration, "", Configuration.model_fields)
    else:
        found = find_key(configuration, key)
    description = _describe(configuration, found, with_value)
    below = found.fields or (found.section.model_fields if found.section else {})
    if below:
        place = key or ""
        if found.field and get_origin(found.field.annotation) is dict:
            place = f"{key}.{LETTER if key == 'peers' else 'KEY'}"
        names = [f"{place}.{name}" if place else name for name in below]
        description["keys"] = [
            _describe(configuration, find_key(configuration, name), with_value)
            if ".KEY." not in f"{name}."
            else _describe(
                configuration, Key(name, below[name.rpartition(".")[2]]), with_value=False
            )
            for name in names
        ]
    return description


def _describe(configuration: Configuration, found: Key, with_value: bool) -> dict[str, Any]:
    name, field = found.name.rpartition(".")[2], found.field
    described: dict[str, Any] = {"key": found.name}
    if field is None:
        meaning = read_summary(METHODS[name]) if name in METHODS else ""
        return described | {
            "type": "section",
            "description": meaning or (read_summary(found.section) if found.section else ""),
        }
    if found.owner:
        described |= {"of": found.owner, "type": describe_allowed(field)}
    else:
        described["type"] = describe_type(field.annotation, field.metadata)
    if field.is_required():
        described["required"] = True
    else:
        described["default"] = _to_json(field.default)
    described |= {"unit": find_unit(field)} if find_unit(field) else {}
    described |= _list_allowed(found)
    described["description"] = describe_meaning(found.parent, name, field)
    if with_value:
        described |= _find_value(configuration, found)
    return described


def _list_allowed(found: Key) -> dict[str, Any]:
    """Return the choices or the limits of a setting; empty for any other."""
    field = found.field
    assert field is not None
    choices = [
        choice
        for kind in list_types(field.annotation)
        if get_origin(kind) is Literal
        for choice in get_args(kind)
    ]
    if choices:
        return {"choices": choices}
    limits = read_annotation_limits(field)
    if found.owner and field.annotation in (int, float):
        low, high = allowed_values(field)  # type: ignore[misc]  # bounds of a number
        limits = {"gt" if "gt" in limits else "ge": low, "lt" if "lt" in limits else "le": high}
    return {"limits": limits} if limits else {}


def _to_json(value: Any) -> Any:
    """Return a default as JSON values."""
    return (
        value.model_dump(mode="json", exclude_unset=True)
        if isinstance(value, BaseModel)
        else (list(value) if isinstance(value, tuple) else value)
    )


def _find_value(configuration: Configuration, found: Key) -> dict[str, Any]:
    """Return the `value` of a key in a configuration, or nothing if it has none.

    The value of a setting that is not given is its default.
    """
    path = found.name.split(".")
    if path[0] in METHODS:
        if configuration.method.name != path[0]:
            return {}
        path[0] = "method"
    *sections, name = path
    value: Any = configuration.plain()
    for part in sections:
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return {}
    if name not in value and found.owner and found.field:
        return {"value": found.field.default}
    return {"value": value[name]} if name in value else {}


def print_key(
    console: Console, configuration: Configuration, key: str, with_value: bool, source: str
) -> None:
    """Print a key with its type, bounds, unit, default and meaning, and the keys below it.

    Args:
        console: The console.
        configuration: The configuration, which selects the networks and the method.
        key: The dotted key; "" for the whole configuration.
        with_value: Whether to print the values of the configuration.
        source: The origin of the values, in words.
    """
    described = describe_key(configuration, key, with_value)
    below = described.get("keys", [])
    if not key:
        width = max(len(each["key"]) for each in below) + 2
        for each in below:
            print_line(console, f"{each['key']:{width}}{each['description']}")
        return
    for line in _lines(described, source):
        print_line(console, line)
    for each in below:
        print_line(console, f"  {_one_line(each)}")


def _lines(described: dict[str, Any], source: str) -> Iterator[str]:
    """Yield the lines about one key."""
    yield described["key"] + (f"  (of {described['of']})" if "of" in described else "")
    yield f"  {described['description']}"
    yield f"  type      {described['type']}"
    if "unit" in described:
        yield f"  unit      {described['unit']}"
    if "required" in described:
        yield "  default   none: it is required"
    elif described.get("default", {}) != {}:
        yield f"  default   {_plain(described['default'])}"
    if "value" in described and "keys" not in described:
        yield f"  value     {_plain(described['value'])} {source}"
    if described.get("of", "").startswith("method "):
        method, name = described["of"].removeprefix("method "), described["key"].rpartition(".")[2]
        searched = [text for text in search_parameters(method) if text.split()[0] == name]
        yield f"  searched  {searched[0] if searched else 'not by default'}"


def _one_line(described: dict[str, Any]) -> str:
    """Return a key with its value, or its default, on one line."""
    is_section = described["type"].startswith(("section", "mapping (section"))
    shown = described.get("value", described.get("default"))
    has_value = not is_section and ("value" in described or "default" in described)
    equals = f" = {_plain(shown)}" if has_value else ""
    unit = f"; {described['unit']}" if "unit" in described else ""
    required = "; required" if "required" in described else ""
    details = f"{described['type']}{unit}{required}"
    return f"{described['key']}{equals} ({details}): {described['description']}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
