"""Write prepared arrays to a temporary folder, and rename it into place."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.core.errors import PreflightError
from orchestrator.data._parts import Labels, Parts
from orchestrator.data.dataset import SUMMARY, SUMMARY_FILE


def write(target: Path, parts: Parts, clean: Labels, summary: dict[str, Any]) -> None:
    """Write the folder `target`. If another process was faster, its folder stays.

    Raises:
        PreflightError: The disk is full, or the folder cannot be written.
    """
    arrays = {f"{name}_inputs": part.inputs for name, part in parts.splits().items()}
    arrays |= {f"{name}_labels": part.labels for name, part in parts.splits().items()} | {
        "train_clean_labels": clean
    }
    with _aside(target) as aside:
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", np.ascontiguousarray(array))
        hashes = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
        SUMMARY.write(aside / SUMMARY_FILE, summary | {"sha256": hashes})


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    aside = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield aside
        try:
            os.rename(aside, target)
        except OSError:
            if not os.path.isfile(target / SUMMARY_FILE):
                raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise PreflightError(
            f"{target} cannot be written ({reason}): free some space, or give a --store that "
            f"you may write",
            field=str(target),
            value=reason,
            allowed="a folder that can be written",
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
