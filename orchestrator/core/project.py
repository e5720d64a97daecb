"""Locate the project's own files, in a checkout and in an installed package."""

import tomllib
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).resolve().parents[2]  # the folder of orchestrator, methods, search_spaces
BUNDLE = PACKAGES / "orchestrator" / "project"  # written by setup.py; absent in a checkout
IS_INSTALLED = BUNDLE.is_dir()
# the folder of configs, constraints.txt, pyproject.toml and run.py
ROOT = BUNDLE if IS_INSTALLED else PACKAGES


def read_metadata(root: Path = ROOT) -> dict[str, Any]:
    """Return the table `project` of `pyproject.toml`; empty without that file."""
    file = root / "pyproject.toml"
    metadata: dict[str, Any] = (
        tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}) if file.is_file() else {}
    )
    return metadata
