"""Define the constructor of a named network, and settings that a library's constructor defines."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from pydantic import ConfigDict
from torch import nn

from methods import Settings, SettingsError
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.core.user_code import short_reason
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
        code: Identity of the code of a network that is not part of this program.
    """

    make: Callable[[Any, int, Shape], Network]
    settings: type[Settings] = Settings
    inputs: Callable[[str], dict[str, Any]] | None = None
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
        given = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
        key = next(iter(settings)) if len(settings) == 1 else ""
        raise ConfigurationError(
            f"network {name} cannot be built with {given} ({short_reason(error)}): give other "
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


def suggest_networks(prefix: str, name: str, known: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Return the closest names of a library's networks, and a sentence part that lists them.

    Args:
        prefix: The prefix of the library, such as `timm`.
        name: An unknown name, without the prefix.
        known: All names of the library, without the prefix.
    """
    for cutoff, hint in ((0.5, "did you mean {}?"), (0.0, "the closest names are {}")):
        if close := difflib.get_close_matches(name, known, n=CLOSE_NAMES, cutoff=cutoff):
            names = tuple(f"{prefix}/{match}" for match in close)
            return names, hint.format(", ".join(names))
    return (), "it has no networks"


def list_plain_arguments(constructor: Callable[..., Any], reserved: Mapping[str, str]) -> list[str]:
    """Return the arguments of a constructor whose default is a plain value, without `reserved`."""
    return [
        name
        for name, parameter in inspect.signature(constructor).parameters.items()
        if isinstance(parameter.default, bool | int | float | str | None) and name not in reserved
    ]
