"""Define the conditions that a check reads and the finding that it returns."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.config.schema import Configuration
from orchestrator.core.paths import read_path


class Finding(NamedTuple):
    """What a check found; what is bad ends with the next step."""

    fitness: Literal["ok", "warn", "bad"]
    said: str


@dataclass(frozen=True)
class Conditions:
    """What is looked at: the store, the settings that a run would have, and whether nothing that takes long is tried.

    Of a store that is named by a `uri`, `store` is the driver's folder.
    """

    store: Path
    configuration: Configuration
    quick: bool = False
    uri: str = ""

    @property
    def address(self) -> str | None:
        """The running cluster that a run would use."""
        from orchestrator.config.resources import cluster_address

        return cluster_address(self.configuration.resources)

    @property
    def root(self) -> Path:
        """The folder of the store, whether it is there or not."""
        return read_path(self.store, "--store")

    @property
    def place(self) -> Path:
        """The store, or what there is of the way to it."""
        folder = self.root
        while not os.path.lexists(folder):
            folder = folder.parent
        return folder
