"""Prepare data sets, draw augmented views, and yield batches."""

__all__ = [
    "batches",
    "checks",
    "dataset",
    "datasets",
    "decoding",
    "memory",
    "packed",
    "passes",
    "pictures",
    "prepare",
    "preprocessing",
    "shared_memory",
    "views",
]
