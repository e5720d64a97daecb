"""Networks and their weights."""

__all__ = [
    "batch_norm",
    "build",
    "checkpoint_files",
    "feature_maps",
    "file_fingerprint",
    "input_adapter",
    "meta",
    "module_weights",
    "network",
    "weight_files",
    "weight_import",
    "weights",
    "wrapped",
]
