"""Define the constructor of a named network, and settings that a library's constructor defines."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self, get_args

import torch
from pydantic import ConfigDict
from torch import nn

from methods import Settings, SettingsError
from orchestrator.core.errors import ConfigurationError, PreflightError, short_reason, suggest_name
from orchestrator.core.program import install_command
from orchestrator.models.network import Network, Shape

UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
CLOSE_NAMES = 5  # in one message


@dataclass(frozen=True)
class Builder:
    """Constructor of a network, `make(settings, classes, shape)`, and the class of its settings.

    The settings are validated before `make` is called.

    Attributes:
        inputs: Returns the input size and the normalisation (`input_size`, `mean`, `std`) that
            published weights expect, and the complete `name` of the network, by the name of the
            weights; None if there are none.
        types: Returns the types (float, int or bool) of the settings that the constructor of a
            library defines, by name; None if `settings` declares all of them.
        code: Identity of the code of a network that is not part of this program.
    """

    make: Callable[[Any, int, Shape], Network]
    settings: type[Settings] = Settings
    inputs: Callable[[str], dict[str, Any]] | None = None
    types: Callable[[], Mapping[str, type]] | None = None
    code: str = ""


class OpenSettings(Settings):
    """Settings that the constructor of a library defines: plain values by any name.

    A subclass lists in `reserved` the arguments that this program sets itself, each with advice.
    """

    model_config = ConfigDict(extra="allow")
    reserved: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Build settings from plain values.

        Raises:
            SettingsError: A key is reserved, or a value is not a number, a text, true, false or
                null.
        """
        for key, value in values.items():
            if key in cls.reserved:
                raise SettingsError(
                    f"{key} cannot be set: {cls.reserved[key]}",
                    key,
                    value=value,
                    allowed=cls.reserved[key],
                )
            if not isinstance(value, bool | int | float | str | None):
                kinds = "a number, a text, true, false or null"
                raise SettingsError(
                    f"{key} = {value!r} is not allowed: give {kinds}",
                    key,
                    value=value,
                    allowed=kinds,
                )
        return cls(**values)

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the given values by name."""
        return dict(self.model_extra or {})


def call_constructor(
    create: Callable[..., nn.Module],
    name: str,
    settings: Mapping[str, Any],
    known: Callable[[], tuple[str, ...]],
) -> nn.Module:
    """Return `create(**settings)`, on the device of the context.

    Args:
        create: The constructor.
        name: The name of the network, for messages.
        settings: The settings of the user.
        known: Returns the names of all settings, for messages.

    Raises:
        ConfigurationError: The constructor refuses a setting or a value.
    """
    try:
        return _create_on_device(partial(create, **settings))
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError, RuntimeError) as error:
        if not settings:
            raise
        unexpected = UNEXPECTED.search(str(error))
        if unexpected and unexpected[1] in settings:
            key, allowed = unexpected[1], known()
            hint = suggest_name(key, allowed) if allowed else "leave it out"
            raise ConfigurationError(
                f"network {name}: there is no setting {key!r}: {hint}"
            ).with_details(key, settings[key], allowed) from error
        pairs = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
        key = next(iter(settings)) if len(settings) == 1 else ""
        raise ConfigurationError(
            f"network {name} cannot be built with {pairs} ({short_reason(error)}): give other "
            f"values, or leave them out"
        ).with_details(key or None, dict(settings), "values that the network accepts") from error


def _create_on_device(create: Callable[[], nn.Module]) -> nn.Module:
    """Return a new module; it is moved to `meta` if its constructor needs values of tensors."""
    try:
        return create()
    except (NotImplementedError, RuntimeError):
        if torch.get_default_device().type != "meta":
            raise
    with torch.device("cpu"), torch.random.fork_rng([]):
        return create().to("meta")


def missing_package(form: str, package: str, extra: str) -> PreflightError:
    """Return the error about a package that a form of names needs.

    Args:
        form: The form of the names, such as `timm/NAME`.
        package: The name of the package.
        extra: The optional extra of this program that installs it.
    """
    command = install_command(extra)
    return PreflightError(
        f"networks of the form {form} need {package}, which is not installed: install it with "
        f"`{command}`"
    ).with_details("name", package, command)


def unknown_network(
    prefix: str, name: str, version: str, known: Sequence[str]
) -> ConfigurationError:
    """Return the error about a network that a library lacks, with close names.

    Args:
        prefix: The prefix of the names, which is the name of the library.
        name: The unknown name, without the prefix; a tag follows the first dot.
        version: The version of the library.
        known: The names of the library.
    """
    architecture, names, hint = name.partition(".")[0], tuple[str, ...](), "see its documentation"
    for cutoff, words in ((0.5, "did you mean {}?"), (0.0, "the closest names are {}")):
        if close := difflib.get_close_matches(architecture, known, n=CLOSE_NAMES, cutoff=cutoff):
            names = tuple(f"{prefix}/{match}" for match in close)
            hint = words.format(", ".join(names))
            break
    return ConfigurationError(
        f"there is no network '{prefix}/{name}' in {prefix} {version}: {hint}"
    ).with_details("name", f"{prefix}/{name}", names)


def list_plain_arguments(constructor: Callable[..., Any], reserved: Mapping[str, str]) -> list[str]:
    """Return the arguments of a constructor whose default is a plain value, without `reserved`."""
    return [
        name
        for name, parameter in inspect.signature(constructor).parameters.items()
        if isinstance(parameter.default, bool | int | float | str | None) and name not in reserved
    ]


def list_types(constructor: Callable[..., Any]) -> dict[str, type]:
    """Return float, int or bool for each argument of a constructor with such a type, by name.

    The type is that of the annotation, or else that of the default. float precedes int.
    """
    types: dict[str, type] = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        annotated = (parameter.annotation, *get_args(parameter.annotation))
        kinds = [kind for kind in (float, int, bool) if kind in annotated]
        kinds += [kind for kind in (float, int, bool) if type(parameter.default) is kind]
        if kinds:
            types[name] = kinds[0]
    return types
