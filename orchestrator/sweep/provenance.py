"""What a run should say of where it came from: commit, dirty flag, versions, machine."""

import logging
from pathlib import Path

from orchestrator.core.provenance import describe
from orchestrator.data.dataset import SUMMARY, SUMMARY_FILE, read_summary
from orchestrator.store.environment import ENVIRONMENT, ENVIRONMENT_FILE
from orchestrator.store.store import set_aside

log = logging.getLogger(__name__)


def keep(folder: Path, data: Path) -> None:
    """Beside a sweep's record, at every start: what its data are, for an export without them, and what it runs on, for a report."""
    for schema, name, values in ((SUMMARY, SUMMARY_FILE, read_summary(data)), (ENVIRONMENT, ENVIRONMENT_FILE, describe())):
        if damage := schema.damage(folder / name):
            log.warning("%s: it is kept as %s, and made anew", damage, set_aside(folder / name).name)
        schema.keep(folder / name, values)
