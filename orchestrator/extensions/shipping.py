"""Pack the loaded user code for another process, and register it there.

Files travel as text, and the names of plugins as names. Objects of a notebook travel by
cloudpickle, in the arguments of Ray's calls or through the pipe to a local process; they are never
written to a store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.extensions.loading import load_code, load_sources, loaded_files, loaded_plugins
from orchestrator.extensions.registry import ENTRIES, Origin


@dataclass(frozen=True)
class ShippedObject:
    """Registered object without a file; the attributes are those of `Entry`."""

    kind: str
    name: str
    target: Any
    location: str
    origin: Origin
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Shipment:
    """User code for another process.

    Attributes:
        sources: The text of each file, by its name, in the order of loading.
        plugins: The names of the plugins.
        objects: Objects that do not come from files or plugins.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()
    objects: tuple[ShippedObject, ...] = ()


def pack_code() -> Shipment:
    """Return the code that this process has loaded."""
    return Shipment(
        {file.name: file.text for file in loaded_files()},
        tuple(loaded_plugins()),
        tuple(
            ShippedObject(
                entry.kind, entry.name, entry.target, entry.location, entry.origin, entry.options
            )
            for entry in ENTRIES.values()
            if entry.origin.replaces
        ),
    )


def unpack_code(shipment: Shipment) -> None:
    """Load the code of another process into this one.

    Raises:
        ConfigurationError: The code cannot be loaded here.
    """
    from orchestrator.extensions.decorators import register_again  # imports torch

    load_code((), shipment.plugins)
    load_sources(shipment.sources)
    for each in shipment.objects:
        register_again(each.kind, each.name, each.target, each.location, each.origin, each.options)
