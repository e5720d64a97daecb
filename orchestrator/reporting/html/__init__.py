"""Render a sweep as one HTML page."""

__all__ = ["forest", "page", "report"]
