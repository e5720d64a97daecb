"""Train one trial, in torch alone."""

__all__ = [
    "checkpoint",
    "cost",
    "execute",
    "metrics",
    "process_cache",
    "sample_weighting",
]
