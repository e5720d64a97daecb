"""Draw the figures of a trial with matplotlib."""

__all__ = ["trial"]
