"""Prepare data sets, draw augmented views, and yield batches."""

__all__ = [
    "batches",
    "checks",
    "conversion",
    "dataset",
    "datasets",
    "decoding",
    "memory",
    "passes",
    "pictures",
    "prepare",
    "preprocessing",
    "shared_memory",
    "transforms",
    "views",
]
