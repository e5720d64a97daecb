"""Add metrics and files to the existing run of a sweep.

If MLflow cannot be reached, the reason is returned, not raised.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.core.program import program_name
from orchestrator.core.redact import redact
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking._client import connect, short_message
from orchestrator.tracking._runs import RUN_IDS, RUNS, log_points, relocate
from orchestrator.tracking._values import PARENT, tracking_uri


def log_to_sweep(
    store: Store,
    sweep: Sweep,
    metrics: Mapping[str, float],
    step: int,
    folder: str,
    files: Mapping[str, str | bytes],
) -> str:
    """Log metrics and files to the parent run of a sweep.

    Args:
        store: The store of the sweep.
        sweep: The sweep.
        metrics: Values by metric name.
        step: The step of the metrics.
        folder: The folder of the run's artifacts that the files go into.
        files: Contents by file name; texts are written in UTF-8.

    Returns:
        "" on success, else the reason as the end of a sentence.
    """
    uri = tracking_uri(store, sweep.configuration)
    is_local = sweep.configuration.tracking.uri is None
    if not (sweep.folder / RUNS).exists() or (is_local and not store.database.exists()):
        if (sweep.folder / RUNS).exists():
            return f"the run of {sweep.name!r} was removed from MLflow"
        return "it has no run in MLflow"
    try:
        run = RUN_IDS.read(sweep.folder / RUNS).get(PARENT)
    except DamagedRecordError as error:
        return (
            f"{error}: run `{program_name()} sweep --resume {sweep.name}{store.option}` to create "
            f"it again"
        )
    if run is None:
        return "it has no run in MLflow"
    now = int(time.time() * 1000)
    try:
        client = connect(uri)
        relocate(store, sweep.configuration)
        log_points(client, run, [(name, value, now, step) for name, value in metrics.items()])
        with TemporaryDirectory() as local:
            for name, content in files.items():
                data = content if isinstance(content, bytes) else content.encode()
                (Path(local) / name).write_bytes(data)
            client.log_artifacts(run, local, folder)
    except Exception as error:  # MLflow raises errors of its store, server or network
        return f"MLflow at {redact(uri)}: {short_message(error)}"
    return ""
