"""Record the origin of a run: commit, dirty flag, versions, machine and data."""

import logging
from pathlib import Path

from orchestrator.core.provenance import describe
from orchestrator.data.dataset import SUMMARY, SUMMARY_FILE, read_summary
from orchestrator.extensions.record import keep_code
from orchestrator.store.environment import ENVIRONMENT, ENVIRONMENT_FILE
from orchestrator.store.store import set_aside

log = logging.getLogger(__name__)


def keep(folder: Path, data: Path) -> None:
    """Write the description of data and environment, and the user code, next to a sweep's record.

    Every start writes them. An export needs the first without the data, a report the second.
    """
    for schema, name, values in (
        (SUMMARY, SUMMARY_FILE, read_summary(data).plain()),
        (ENVIRONMENT, ENVIRONMENT_FILE, describe()),
    ):
        if damage := schema.damage(folder / name):
            log.warning("%s: it is kept as %s and rebuilt", damage, set_aside(folder / name).name)
        schema.keep(folder / name, values)
    keep_code(folder)
