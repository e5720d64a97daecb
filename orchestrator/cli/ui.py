"""Open MLflow's user interface on a store."""

from pathlib import Path

from orchestrator.cli._run import console
from orchestrator.store.store import Store


def ui(store: Path | str, port: int) -> int:
    """Serve MLflow's user interface until it is interrupted."""
    from orchestrator.tracking.ui import serve

    return serve(Store.existing(store, any_format=True), port, console)
