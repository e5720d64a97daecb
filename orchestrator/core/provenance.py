"""Describe the origin of a run: commit, versions, machine."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy")


def describe() -> dict[str, str]:
    """Return the tags of a run; without git or outside a checkout the commit is `unknown`."""
    tags = {f"version.{name}": importlib.metadata.version(name) for name in PACKAGES}
    tags |= {"version.python": platform.python_version(), "machine": platform.platform()}
    commit = _git("rev-parse", "HEAD")
    dirty = _git("status", "--porcelain", "--untracked-files=no")
    if commit:
        tags["mlflow.source.git.commit"] = commit
    return tags | {
        "git.commit": commit or "unknown",
        "git.dirty": "unknown" if dirty is None else str(bool(dirty)).lower(),
    }


def describe_version() -> str:
    """Return the package version and, in a git checkout, the commit: `0.1.0 (0123456789ab)`."""
    version = importlib.metadata.version("distillation-orchestrator")
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{version} ({commit})" if commit else version


def _git(*arguments: str) -> str | None:
    try:
        folder = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
