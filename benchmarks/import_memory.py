"""Record how the resident memory of a process grows with each module that it imports.

`install` runs in the observed processes, through a `sitecustomize` module; `read_imports` reads
what they have recorded.
"""

import functools
import importlib
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
NATIVE, COMPILER = "torch (native libraries)", "torch (compiler)"
COMPILER_MODULES = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx.experimental")
SITE = """
from benchmarks.import_memory import install
install({folder!r})
"""


def install(folder: str) -> None:
    """Record every later import of this process in a file of `folder`, named by the process."""
    bootstrap: Any = importlib.import_module("importlib._bootstrap")
    load, thread = bootstrap._load_unlocked, threading.local()

    @functools.wraps(load)
    def load_and_record(spec: Any) -> Any:
        outer, thread.nested = getattr(thread, "nested", 0), 0
        before = _resident_bytes()
        try:
            return load(spec)
        finally:
            grown = _resident_bytes() - before
            if own := grown - thread.nested:
                with open(f"{folder}/{os.getpid()}", "a") as stream:
                    stream.write(f"{own} {spec.name}\n")
            thread.nested = outer + grown

    bootstrap._load_unlocked = load_and_record


def read_imports(folder: Path, process: int) -> Counter[str]:
    """Return the bytes by which the imports of a process enlarged it, by package."""
    grown: Counter[str] = Counter()
    for line in (folder / str(process)).read_text().splitlines():
        size, _, name = line.partition(" ")
        grown[_package(name)] += int(size)
    return grown


def _package(name: str) -> str:
    if name in ("torch", "torch._C"):  # both load shared libraries
        return NATIVE
    if name.startswith(COMPILER_MODULES):
        return COMPILER
    return name.partition(".")[0]


def _resident_bytes() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * PAGE_BYTES
