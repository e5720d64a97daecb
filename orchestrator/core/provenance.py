"""Describe the origin of a run: version, commit, packages, machine."""

import importlib.metadata
import platform
import subprocess

from orchestrator.core.project import IS_INSTALLED, ROOT, read_metadata

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "numpy")
PROGRAM = "distillation-orchestrator"


def describe() -> dict[str, str]:
    """Return the tags of a run; without git or outside a checkout the commit is `unknown`."""
    tags = {f"version.{name}": importlib.metadata.version(name) for name in PACKAGES}
    tags |= {"version.python": platform.python_version(), "machine": platform.platform()}
    tags |= {f"version.{PROGRAM}": _version()}
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
    commit = _git("rev-parse", "--short=12", "HEAD")
    return f"{_version()} ({commit})" if commit else _version()


def _version() -> str:
    """Return the version of this program, which a cluster's job has without an installation."""
    return str(read_metadata().get("version", "unknown"))


def _git(*arguments: str) -> str | None:
    """Return the output of git in the checkout, or None.

    An installed package may lie in the folder of another repository, whose commit is not its own.
    """
    if IS_INSTALLED:
        return None
    try:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
