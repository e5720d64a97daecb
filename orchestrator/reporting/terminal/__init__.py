"""Print live progress and tables in a terminal."""

__all__ = [
    "importance",
    "lines",
    "methods_table",
    "notebook",
    "progress",
    "settings_table",
    "teacher",
]
