"""Commands of the program, one module each, and the command line that lists them."""

__all__ = [
    "app",
    "check_code",
    "compare",
    "configs",
    "doctor",
    "error_handling",
    "export",
    "import_weights",
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
