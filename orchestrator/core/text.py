"""Text that a person gave: what cannot be stored or printed, and how a value is quoted in a sentence."""

import unicodedata
from collections.abc import Container
from typing import Any

from orchestrator.core.redact import redact

LONGEST_QUOTE = 200  # characters of a value in a sentence
ESCAPED_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))  # of names that are not UTF-8, as Python decodes them
CONTROL, SURROGATE = "Cc", "Cs"  # categories of Unicode


def control_character(text: str, kinds: Container[str] = (CONTROL, SURROGATE), allowed: str = "\t\n") -> str:
    """Return the first character that cannot be stored or printed, such as `U+0000`; "" where there is none.

    These are control characters, the `allowed` ones aside, and halves of a surrogate pair, which UTF-8 cannot encode.
    """
    return next((f"U+{ord(mark):04X}" for mark in text if mark not in allowed and unicodedata.category(mark) in kinds), "")


def escaped_byte(text: str) -> str:
    """Return the first byte, such as `0xE9`, that Python could not decode in an argument or a file name; "" without one."""
    return next((f"0x{ord(mark) - 0xDC00:02X}" for mark in text if mark in ESCAPED_BYTES), "")


def quote(value: Any) -> str:
    """Return the `repr` of a value without secrets, cut after 200 characters."""
    return shorten(redact(repr(value)))


def shorten(text: str) -> str:
    """Return the text, cut after 200 characters."""
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}... ({len(text)} characters)"
