"""Write prepared arrays to a temporary folder, and rename it into place."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.core.errors import PreflightError
from orchestrator.data._parts import Labels, Part, Parts, RowImages
from orchestrator.data.dataset import SUMMARY, SUMMARY_FILE, DataSummary


def write(folder: Path, parts: Parts, clean: Labels, summary: DataSummary) -> None:
    """Write the arrays and `data.json` to a folder; checksums are added for all of its files."""
    arrays = {f"{name}_labels": part.labels for name, part in parts.splits().items()}
    arrays |= {"train_clean_labels": clean}
    for name, part in parts.splits().items():
        file = folder / f"{name}_inputs.npy"
        if parts.images is None:
            np.save(file, np.ascontiguousarray(part.inputs))
        else:
            # the validation part is counted once, if it is in the training part, too
            counts = not (name == "validation" and summary.validation_in_training)
            conversions = Counter(summary.decoded)
            _write_decoded(file, parts.images, part, conversions if counts else Counter())
            summary = replace(summary, decoded=dict(conversions))
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array))
    hashes = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    SUMMARY.write(folder / SUMMARY_FILE, replace(summary, sha256=hashes).plain())


def _write_decoded(file: Path, images: RowImages, part: Part, notes: Counter[str]) -> None:
    """Decode the images of a part into a file, a few at a time."""
    shape = (len(part), *images.shape)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for batch in images.decode(part.inputs, notes):
            stream.write(np.ascontiguousarray(batch).data)


@contextlib.contextmanager
def publishing(target: Path) -> Iterator[Path]:
    """Give a temporary folder, and rename it to `target` at the end of the block.

    If another process wrote `target` first, keep that folder.

    Raises:
        PreflightError: The disk is full, or the folder cannot be written.
    """
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield temporary
        try:
            os.rename(temporary, target)
        except OSError:
            if not os.path.isfile(target / SUMMARY_FILE):
                raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise PreflightError(
            f"{target} cannot be written ({reason}): free some space, or give a writable --store"
        ).with_details(str(target), reason, "a folder that can be written") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
