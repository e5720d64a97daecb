"""Export a student: weights, settings, model card, predictions."""

__all__ = ["check", "export", "formats", "loading", "predict", "settings"]
