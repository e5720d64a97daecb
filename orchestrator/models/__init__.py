"""Networks and their weights."""

__all__ = [
    "batch_norm",
    "build",
    "feature_maps",
    "module_weights",
    "network",
    "weight_files",
    "weights",
    "wrapped",
]
