"""Make text safe for the page: without secrets and control characters, and escaped."""

from functools import lru_cache
from html import escape

from orchestrator.core.privacy import sanitize


@lru_cache(maxsize=4096)
def text(given: str) -> str:
    """Return text for an element or an attribute of HTML or SVG."""
    return escape(sanitize(given))
