"""One module for each command of run.py."""

__all__ = [
    "compare",
    "doctor",
    "error_handling",
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
