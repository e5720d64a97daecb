"""Commands of the program, one module each, and the command line that lists them."""

__all__ = [
    "app",
    "compare",
    "configs",
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
