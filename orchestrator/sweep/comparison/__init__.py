"""Compare methods: one search each, then the best settings over paired seeds."""

__all__ = ["design", "lifecycle", "page", "progress", "record", "result", "running"]
