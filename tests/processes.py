"""Find processes of Ray, for tests that end or stop one of them."""

from collections.abc import Iterable

import psutil


def titled(name: str, among: Iterable[psutil.Process] | None = None) -> list[psutil.Process]:
    """Return the live processes titled `name...`, below this process or `among` others."""
    found = []
    for process in psutil.Process().children(recursive=True) if among is None else among:
        try:
            if process.cmdline() and process.cmdline()[0].startswith(name):
                found.append(process)
        except psutil.Error:
            continue
    return found
