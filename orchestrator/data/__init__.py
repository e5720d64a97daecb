"""Prepare data sets, draw augmented views, and yield batches."""

from orchestrator.core.callable_module import make_callable

__all__ = [
    "batches",
    "checks",
    "class_balance",
    "conversion",
    "dataset",
    "datasets",
    "decoding",
    "memory",
    "objects",
    "packed",
    "passes",
    "pictures",
    "prepare",
    "preprocessing",
    "shared_memory",
    "user_transforms",
    "views",
]

make_callable(__name__)  # `orchestrator.data(...)` is a function of orchestrator.api
