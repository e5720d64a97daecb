"""Make a class of settings from the signature of a function."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, create_model
from pydantic.fields import FieldInfo

from methods import Settings

PLAIN = (bool, int, float, str)
NO_KEYWORD = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY)


class SignatureError(TypeError):
    """A parameter cannot be a setting; the message is a clause with the reason."""


@dataclass(frozen=True)
class Signature:
    """Parameters of a function.

    Attributes:
        function: The function or class.
        settings: The class of its settings.
        accepted: The reserved parameters that it takes.
        holder: The parameter that takes all settings; None if each is a parameter of its own.
        build: Makes the value of `holder` from validated settings.
    """

    function: Callable[..., Any]
    settings: type[Settings]
    accepted: tuple[str, ...]
    holder: str | None = None
    build: Callable[[Settings], Any] = lambda settings: settings

    def call(self, settings: Settings, reserved: Mapping[str, Any]) -> Any:
        """Call the function with validated settings and the reserved arguments that it takes."""
        arguments = {name: reserved[name] for name in self.accepted}
        if self.holder is not None:
            return self.function(**arguments, **{self.holder: self.build(settings)})
        return self.function(**arguments, **settings.model_dump())


def read_signature(function: Callable[..., Any], name: str, reserved: Sequence[str]) -> Signature:
    """Return how a function is called, and the settings that it takes.

    Settings are either one parameter, annotated with a class of settings (a subclass of `Settings`,
    a dataclass or a pydantic model), or one parameter each, with a default and an annotation, such
    as `width: Annotated[int, Field(ge=1, le=64, description="...")] = 8`. A description may also
    stand in the `Args:` of the docstring.

    Args:
        function: The function or class.
        name: The name of the class of settings.
        reserved: Parameters that are not settings.

    Raises:
        SignatureError: A parameter cannot be a setting.
    """
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise SignatureError(f"its signature cannot be read ({error})") from error
    accepted = tuple(each.name for each in parameters if each.name in reserved)
    for each in parameters:
        if each.kind in NO_KEYWORD:
            raise SignatureError(f"the parameter {each.name} cannot be passed by its name")
    settable = [
        each
        for each in parameters
        if each.name not in reserved and each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    holders = [each for each in settable if _is_settings_class(each.annotation)]
    if holders:
        if len(settable) > 1:
            further = ", ".join(each.name for each in settable if each is not holders[0])
            raise SignatureError(
                f"it takes {further} in addition to the settings {holders[0].name}: declare "
                f"everything in {holders[0].annotation.__name__}"
            )
        settings, build = _convert_class(holders[0].annotation)
        return Signature(function, settings, accepted, holders[0].name, build)
    described = _described_arguments(function)
    fields = {each.name: _field(each, described.get(each.name, "")) for each in settable}
    return Signature(function, _create(name, fields, function.__doc__), accepted)


def _is_settings_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )


def _field(parameter: inspect.Parameter, description: str) -> tuple[Any, Any]:
    default, annotation = parameter.default, parameter.annotation
    if default is inspect.Parameter.empty:
        raise SignatureError(f"the setting {parameter.name} has no default: give one")
    if annotation is inspect.Parameter.empty:
        if type(default) not in PLAIN:
            raise SignatureError(
                f"the setting {parameter.name} has no type: write, for example, "
                f"{parameter.name}: int = 8"
            )
        annotation = type(default)
    if isinstance(default, FieldInfo):
        return annotation, default
    return annotation, Field(default, description=description) if description else Field(default)


def _convert_class(kind: type[Any]) -> tuple[type[Settings], Callable[[Settings], Any]]:
    """Return a class of settings with the fields of a class, and how to make that class of it."""
    if issubclass(kind, Settings):
        return kind, lambda settings: settings
    fields: dict[str, Any] = {}
    if issubclass(kind, BaseModel):
        fields = {name: (info.annotation, info) for name, info in kind.model_fields.items()}
    else:
        types = typing.get_type_hints(kind, include_extras=True)
        for each in dataclasses.fields(kind):
            text = each.metadata.get("description")
            default = each.default
            if each.default_factory is not dataclasses.MISSING:
                default = each.default_factory()
            if default is dataclasses.MISSING:
                raise SignatureError(f"the setting {each.name} has no default: give one")
            fields[each.name] = (types[each.name], Field(default, description=text))
    settings = _create(kind.__name__, fields, kind.__doc__)
    return settings, lambda settings: kind(**settings.model_dump())


def _create(name: str, fields: Mapping[str, Any], doc: str | None) -> type[Settings]:
    try:
        created: type[Settings] = create_model(name, __base__=Settings, __doc__=doc, **fields)
        created()
    except (TypeError, ValueError, NameError) as error:
        raise SignatureError(" ".join(str(error).split())) from error
    return created


def _described_arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return the description of each argument in the `Args:` of a Google-style docstring."""
    lines = inspect.cleandoc(function.__doc__ or "").splitlines()
    if "Args:" not in lines:
        return {}
    descriptions: dict[str, str] = {}
    current = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if match := re.match(r"    (\w+)(?: \([^)]*\))?: (.+)", line):
            current, descriptions[match[1]] = match[1], match[2].strip()
        elif current and line.strip():
            descriptions[current] += f" {line.strip()}"
    return descriptions
