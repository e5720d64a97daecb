"""Figures of a trial, drawn with matplotlib."""

__all__ = [
    "trial",
]
