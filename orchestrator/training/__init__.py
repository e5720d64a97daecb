"""Train one trial, with torch alone."""

__all__ = [
    "checkpoint",
    "cost",
    "execute",
    "metric_names",
    "metrics",
    "process_cache",
    "sample_weighting",
]
