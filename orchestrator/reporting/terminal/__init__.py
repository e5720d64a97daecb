"""Print live progress and tables in a terminal."""

__all__ = [
    "importance",
    "methods_table",
    "progress",
    "teacher",
]
