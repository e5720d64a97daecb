"""Define the conditions that a check reads and the finding that it returns."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.config.schema import Configuration
from orchestrator.core.paths import read_path


class Finding(NamedTuple):
    """Result of a check; `message` ends with the next step if the fitness is "bad"."""

    fitness: Literal["ok", "warn", "bad"]
    message: str


@dataclass(frozen=True)
class Conditions:
    """Input of the checks.

    Attributes:
        store: Folder of the store; the driver's local folder if `uri` names the store.
        configuration: Configuration of the intended run.
        quick: Omit slow checks.
        uri: URI of the store, or empty.
    """

    store: Path
    configuration: Configuration
    quick: bool = False
    uri: str = ""

    @property
    def address(self) -> str | None:
        """Return the address of the running cluster that a run would use, or None."""
        from orchestrator.config.resources import cluster_address

        return cluster_address(self.configuration.resources)

    @property
    def root(self) -> Path:
        """Return the folder of the store; it need not exist."""
        return read_path(self.store, "--store")

    @property
    def existing_folder(self) -> Path:
        """Return the store, or its nearest existing parent folder."""
        folder = self.root
        while not os.path.lexists(folder):
            folder = folder.parent
        return folder
