"""Fit or load the teacher, and cache its outputs."""

from orchestrator.core.callable_module import make_callable

__all__ = [
    "access",
    "acquire",
    "cache",
    "card",
    "ensemble",
    "faiss_index",
    "fit",
    "frozen",
    "moved",
    "outputs",
    "precompute",
    "quality",
    "retrieval",
]

make_callable(__name__)  # `orchestrator.teacher(...)` is a function of orchestrator.api
