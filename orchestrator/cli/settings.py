"""Explain the keys of the configuration."""

import json
from pathlib import Path

from orchestrator.cli._run import console
from orchestrator.config.loader import load
from orchestrator.core import errors


def settings(key: str | None, config: Path | None, pairs: list[str], as_json: bool) -> int:
    """Print the description of a key, or of all sections; return the exit code.

    Args:
        key: The dotted key; None for all sections.
        config: Configuration file, whose values are shown; None for the defaults.
        pairs: `KEY=VALUE` settings of `--set`.
        as_json: Print JSON.

    Raises:
        ConfigurationError: The key does not exist, or the configuration is invalid.
    """
    from orchestrator.reporting.terminal.settings_table import describe_key, print_key

    configuration = load(config, pairs)
    with_value = bool(config or pairs)
    if as_json:
        print(json.dumps(describe_key(configuration, key or "", with_value), indent=1))
        return errors.OK
    source = " and ".join([f"in {config}"] * bool(config) + ["with --set"] * bool(pairs))
    print_key(console, configuration, key or "", with_value, source)
    return errors.OK
