"""Networks and their weights."""

__all__ = [
    "batch_norm",
    "build",
    "network",
    "weight_files",
    "weights",
]
