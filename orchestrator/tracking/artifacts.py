"""What is added to the run of a sweep after it was written: metrics and files. An MLflow that is away is told, not raised."""

import time
from collections.abc import Mapping

from orchestrator.core.redact import redact
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking._client import connect, short
from orchestrator.tracking._runs import PARENT, RUN_IDS, RUNS, log_points, relocate, tracking_uri


def log_to_sweep(store: Store, sweep: Sweep, metrics: Mapping[str, float], step: int, folder: str, files: Mapping[str, str]) -> str:
    """Log metrics at a step, and text files into a folder of the artifacts, to the sweep's parent run.

    Returns "" when that is done, else why it is not, as the end of a sentence.
    """
    uri, here = tracking_uri(store, sweep.configuration), sweep.configuration.tracking.uri is None
    if not (sweep.folder / RUNS).exists() or (here and not store.database.exists()):
        return (
            f"the run of {sweep.name!r} is not in MLflow any more" if (sweep.folder / RUNS).exists() else "it has no run in MLflow"
        )
    try:
        run = RUN_IDS.read(sweep.folder / RUNS).get(PARENT)
    except DamagedRecordError as error:
        return f"{error}: `python run.py sweep --resume {sweep.name}{store.option}` makes it anew"
    if run is None:
        return "it has no run in MLflow"
    now = int(time.time() * 1000)
    try:
        client = connect(uri)
        relocate(store, sweep.configuration)
        log_points(client, run, [(name, value, now, step) for name, value in metrics.items()])
        for name, text in files.items():
            client.log_text(run, text, f"{folder}/{name}")
    except Exception as error:  # MLflow raises what its store, its server or the network raise
        return f"MLflow at {redact(uri)}: {short(error)}"
    return ""
