"""Find characters that cannot be stored or printed, and quote values in messages."""

import re
import unicodedata
from collections.abc import Container
from typing import Any

from orchestrator.core.redact import redact

LONGEST_QUOTE = 200  # characters of a value in a message
# Bytes of names that are not UTF-8, as Python decodes them.
ESCAPED_BYTES = "".join(map(chr, range(0xDC80, 0xDD00)))
CONTROL, SURROGATE = "Cc", "Cs"  # Unicode categories


def control_character(
    text: str, kinds: Container[str] = (CONTROL, SURROGATE), allowed: str = "\t\n"
) -> str:
    """Return the first character that cannot be stored or printed, such as `U+0000`, or "".

    These are control characters except the `allowed` ones, and halves of a surrogate pair, which
    UTF-8 cannot encode.

    Args:
        text: The text to search.
        kinds: The Unicode categories to find.
        allowed: Characters that are accepted in any case.
    """
    return next(
        (
            f"U+{ord(mark):04X}"
            for mark in text
            if mark not in allowed and unicodedata.category(mark) in kinds
        ),
        "",
    )


def escaped_byte(text: str) -> str:
    """Return the first byte, such as `0xE9`, that Python could not decode, or "".

    Such bytes occur in arguments and file names.
    """
    return next((f"0x{ord(mark) - 0xDC00:02X}" for mark in text if mark in ESCAPED_BYTES), "")


def describe_requirement(message: str) -> str:
    """Return a message of pydantic as a clause about the value: `it must be ...`."""
    message = re.sub(
        r"^(Value error, )|^\w+ should ", lambda match: "" if match[1] else "it must ", message
    )
    return f"{message[0].lower()}{message[1:]}"


def quote(value: Any) -> str:
    """Return the `repr` of a value without secrets, truncated after 200 characters."""
    return shorten(redact(repr(value)))


def shorten(text: str) -> str:
    """Return the text, truncated after 200 characters."""
    if len(text) <= LONGEST_QUOTE:
        return text
    return f"{text[:LONGEST_QUOTE]}... ({len(text)} characters)"
