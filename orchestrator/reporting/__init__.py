"""What people look at: terminal, HTML, figures, importance, statistics."""

__all__ = [
    "figures",
    "html",
    "importance",
    "peer_gain",
    "statistics",
    "terminal",
]
