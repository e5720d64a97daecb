"""Compare methods: one search each, then the best settings over paired seeds."""

__all__ = [
    "design",
    "formats",
    "inference_cost",
    "lifecycle",
    "page",
    "progress",
    "record",
    "result",
    "runnable",
    "running",
]
