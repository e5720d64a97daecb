"""One module for each command of run.py."""

__all__ = [
    "compare",
    "doctor",
    "export",
    "importance",
    "methods",
    "report",
    "status",
    "stop",
    "submit",
    "sweep",
    "teacher",
    "train",
    "ui",
    "watch",
]
