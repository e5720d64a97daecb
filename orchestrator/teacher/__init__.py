"""Fit or load the teacher, and cache its outputs."""

__all__ = [
    "access",
    "acquire",
    "cache",
    "card",
    "faiss_index",
    "fit",
    "frozen",
    "moved",
    "outputs",
    "precompute",
    "quality",
    "retrieval",
]
