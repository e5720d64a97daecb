"""Networks and their weights."""

__all__ = [
    "batch_norm",
    "build",
    "feature_maps",
    "input_adapter",
    "meta",
    "network",
    "weight_files",
    "weights",
    "wrapped",
]
