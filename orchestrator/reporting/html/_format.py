"""Format values as text for the page, and redact it."""

import math
from functools import lru_cache
from typing import Any

from orchestrator.core.privacy import sanitize

LONGEST = 18  # most letters of a name on an axis
redacted = lru_cache(maxsize=4096)(sanitize)


def word(value: Any) -> str:
    """Return the text of a setting's value."""
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Return a number with at most four significant digits; large integers have all, in groups."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.4g}"


def short(text: str, longest: int = LONGEST) -> str:
    """Return a redacted name that fits an axis.

    A long name keeps its beginning and its end, because similar names differ there.
    """
    text = redacted(text)
    return text if len(text) <= longest else f"{text[: longest - 7]}…{text[-6:]}"


def is_number(value: Any) -> bool:
    """Return whether a setting's value is a finite number and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
