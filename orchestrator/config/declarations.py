"""Keep what a search space needs of methods and networks, for a process without torch.

The process that checks a run imports torch and collects it. The driver of the run receives it, and
draws the same trials.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import network_key

Fields = Mapping[str, FieldInfo]


@dataclass(frozen=True)
class Declarations:
    """Declarations of the methods and of the networks of a run.

    Attributes:
        methods: Of each method, the declarations of its settings by name.
        networks: Of each student, by the key of its network, all settings with their defaults.
        numbers: The type of each key of the configuration that `search.space` gives a range; None
            if it is not a number.
    """

    methods: Mapping[str, Fields]
    networks: Mapping[str, Mapping[str, Any]]
    numbers: Mapping[str, type | None]


_received: list[Declarations] = []  # at most one: this process drives one run


def receive(declarations: Declarations) -> None:
    """Take the declarations that `collect` has returned in another process."""
    _received[:] = [declarations]


def received() -> Declarations | None:
    """Return the declarations of another process; None in a process that imports torch itself."""
    return _received[0] if _received else None


def collect(configuration: Configuration, kind: str) -> Declarations:
    """Return the declarations of a checked run; this imports torch.

    Args:
        configuration: The configuration of the run.
        kind: "sweep" or "train".
    """
    from methods import METHODS
    from orchestrator.config.changed_space import find_field, is_configuration_key
    from orchestrator.config.key_fields import numeric_type
    from orchestrator.models.build import all_settings

    space = configuration.search.space if kind == "sweep" else {}
    return Declarations(
        {name: dict(method.Settings.model_fields) for name, method in METHODS.items()},
        {
            network_key(letter): all_settings(student.network.name, student.network.settings)
            for letter, student in configuration.students.items()
        },
        {
            key: numeric_type(find_field(configuration, configuration.method.name, key))
            for key, change in space.items()
            if is_configuration_key(key) and not change.choices
        },
    )


def setting_fields(method: str) -> Fields | None:
    """Return the declarations of a method's settings by name; None if there is no such method."""
    if known := received():
        return known.methods.get(method)
    from methods import METHODS  # imports torch

    return METHODS[method].Settings.model_fields if method in METHODS else None
