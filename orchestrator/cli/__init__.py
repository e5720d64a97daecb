"""Commands of run.py, one module each."""

__all__ = [
    "app",
    "check_code",
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
