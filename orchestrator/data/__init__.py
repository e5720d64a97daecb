"""Prepare data sets, draw augmented views, and yield batches."""

__all__ = [
    "batches",
    "checks",
    "class_balance",
    "conversion",
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
    "user_transforms",
    "views",
]
