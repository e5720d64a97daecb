"""Errors, signals, privacy, disk space and the context that a training runs in."""

__all__ = [
    "allocator",
    "context",
    "disk",
    "errors",
    "output",
    "paths",
    "privacy",
    "provenance",
    "proxies",
    "redact",
    "signals",
    "text",
]
