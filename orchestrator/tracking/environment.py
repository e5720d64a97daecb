"""What a run should say of where it came from: commit, dirty flag, versions, machine."""

import importlib.metadata
import logging
import platform
import subprocess
from pathlib import Path

from orchestrator.data.dataset import SUMMARY, SUMMARY_FILE, read_summary
from orchestrator.record_file import RecordSchema
from orchestrator.store import set_aside

ENVIRONMENT_FILE = "environment.json"  # in the folder of a sweep: what it ran on
ENVIRONMENT = RecordSchema[dict[str, str]](dict[str, str])
log = logging.getLogger(__name__)
PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy")


def describe() -> dict[str, str]:
    """Tags of a run; without git or outside a checkout the commit is `unknown`."""
    tags = {f"version.{name}": importlib.metadata.version(name) for name in PACKAGES}
    tags |= {"version.python": platform.python_version(), "machine": platform.platform()}
    commit = _git("rev-parse", "HEAD")
    dirty = _git("status", "--porcelain", "--untracked-files=no")
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags | {"git.commit": commit or "unknown", "git.dirty": "unknown" if dirty is None else str(bool(dirty)).lower()}


def describe_version() -> str:
    """Return the version of the package and, in a git checkout, the commit: `0.1.0 (0123456789ab)`."""
    version = importlib.metadata.version("distillation-orchestrator")
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{version} ({commit})" if commit else version


def keep(folder: Path, data: Path) -> None:
    """Beside a sweep's record, at every start: what its data are, for an export without them, and what it runs on, for a report."""
    for schema, name, values in ((SUMMARY, SUMMARY_FILE, read_summary(data)), (ENVIRONMENT, ENVIRONMENT_FILE, describe())):
        if damage := schema.damage(folder / name):
            log.warning("%s: it is kept as %s, and made anew", damage, set_aside(folder / name).name)
        schema.keep(folder / name, values)


def _git(*arguments: str) -> str | None:
    try:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
