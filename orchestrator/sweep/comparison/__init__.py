"""Compare methods: one search each, then the best settings over paired seeds."""

__all__ = ["design", "formats", "lifecycle", "page", "record", "result", "runnable", "running"]
