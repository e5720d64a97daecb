"""Read options that several commands share."""

import re
from typing import Any

from orchestrator.core.errors import ConfigurationError

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def cluster_address(address: str | None, local: bool = False) -> dict[str, Any]:
    """Return the change of the configuration that `--address` makes.

    Args:
        address: Value of `--address`, or None if it is left out.
        local: Whether `--local` is given, which excludes an address.

    Raises:
        ConfigurationError: Both are given, or the address cannot be used.
    """
    if address is not None and local:
        raise ConfigurationError(
            "--address and --local exclude each other: leave one of them out"
        ).with_details("--address", address, "without --local")
    return {"resources.address": address or None} if address is not None else {}


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `10m`, `2h` or `90`.

    Raises:
        ConfigurationError: The text is no duration, or it is zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise ConfigurationError(
            f"--time-budget {text!r} is not a time: write 90s, 10m or 2h"
        ).with_details("--time-budget", text, "90s, 10m or 2h")
    return float(match[1]) * UNITS[match[2]]
