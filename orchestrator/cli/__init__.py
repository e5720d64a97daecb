"""Commands of run.py, one module each."""

__all__ = [
    "app",
    "compare",
    "doctor",
    "error_handling",
    "export",
    "importance",
    "methods",
    "report",
    "settings",
    "status",
    "stop",
    "submit",
    "sweep",
    "teacher",
    "train",
    "ui",
    "watch",
]
