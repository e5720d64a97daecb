"""Networks and their weights."""

__all__ = ["batch_norm", "build", "feature_maps", "network", "weight_files", "weights", "wrapped"]
