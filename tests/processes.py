"""Find processes of Ray, for tests that end or stop one of them."""

from collections.abc import Iterable

import psutil


def titled(name: str, candidates: Iterable[psutil.Process] | None = None) -> list[psutil.Process]:
    """Return the live processes titled `name...` among `candidates`.

    None stands for the descendants of this process.
    """
    matches = []
    for process in psutil.Process().children(recursive=True) if candidates is None else candidates:
        try:
            if process.cmdline() and process.cmdline()[0].startswith(name):
                matches.append(process)
        except psutil.Error:
            continue
    return matches
