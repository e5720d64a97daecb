"""Report results: terminal output, HTML pages, figures, importance and statistics."""

__all__ = ["figures", "html", "importance", "peer_gain", "statistics", "terminal"]
