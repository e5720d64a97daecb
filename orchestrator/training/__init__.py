"""Train one trial, with torch alone."""

__all__ = [
    "capabilities",
    "checkpoint",
    "cost",
    "execute",
    "metric_names",
    "metrics",
    "process_cache",
    "sample_weighting",
]
