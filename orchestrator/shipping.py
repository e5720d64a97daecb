"""How a student of a run becomes a model of MLflow: it is exported as a program. Knows neither MLflow nor who asks for it."""

from pathlib import Path
from typing import Any

from orchestrator.store import Store


def ship(store: Store, name: str, trial: int, letter: str, to: Path) -> dict[str, Any]:
    """Export the student `letter` of a trial of the sweep `name`; its settings.

    A program needs neither this project nor a pickle where it is loaded. UserError: it cannot be exported.
    """
    from orchestrator.export import export

    return export(store, name, letter, trial, to=to, form="torchexport").settings
