"""Processes of Ray that a test looks for, to end or to stop one of them."""

from collections.abc import Iterable

import psutil


def titled(name: str, among: Iterable[psutil.Process] | None = None) -> list[psutil.Process]:
    """The living processes whose title begins with `name`, below this process or `among` others."""
    found = []
    for process in psutil.Process().children(recursive=True) if among is None else among:
        try:
            if process.cmdline() and process.cmdline()[0].startswith(name):
                found.append(process)
        except psutil.Error:
            continue
    return found
