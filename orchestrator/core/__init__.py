"""Core: errors, signals, privacy, disk space and the context in which a training runs."""

__all__ = [
    "allocator",
    "callable_module",
    "child_process",
    "context",
    "debugging",
    "disk",
    "errors",
    "output",
    "paths",
    "privacy",
    "program",
    "project",
    "provenance",
    "proxies",
    "redact",
    "reports",
    "signals",
    "text",
    "user_code",
]
