"""Hash the names, sizes and first bytes of image files, to recognise them after a move."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.data._parts import Parts

THREADS = 8
HEAD_BYTES = 4096  # of each file: more would read whole data sets, which only preparation does


def hash_contents(parts: Parts) -> str:
    """Return a hash over the path below the root, the size and the first 4 KiB of every image file.

    The modification times do not matter.

    Raises:
        OSError: A file cannot be read.
    """
    assert parts.root is not None
    root = parts.root
    names = sorted({bytes(path) for part in parts.splits().values() for path in part.inputs})
    digest = hashlib.sha256()
    with ThreadPoolExecutor(THREADS) as pool:
        for name, head_hash in zip(
            names, pool.map(lambda name: _hash_head(root / os.fsdecode(name)), names), strict=True
        ):
            digest.update(name + b"\0" + head_hash)
    return digest.hexdigest()


def _hash_head(file: Path) -> bytes:
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        return hashlib.sha256(size.to_bytes(8) + stream.read(HEAD_BYTES)).digest()
