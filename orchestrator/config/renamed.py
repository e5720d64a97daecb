"""Refuse the former names of settings and options, and give the new name."""

from orchestrator.core.errors import ConfigurationError

RENAMED = {
    "data.mix": "data.mixing",
    "data.resident": "data.on_device",
    "resources.influence": "resources.influence_backend",
    "resources.pair": "resources.peer_placement",
    "resources.silence_s": "resources.heartbeat_warning_s",
    "resources.wait_s": "resources.heartbeat_timeout_s",
    "search.choices": "search.extra_space",
    "search.finish_points": "search.protect_initial_trials",
    "search.fixed": "search.configurations",
    "search.hold": "search.freeze",
    "--fill": "--precompute",
}


def refuse_renamed(name: str, value: object) -> None:
    """Refuse a dotted key or an option that was renamed.

    Args:
        name: A key such as `search.hold`, or an option such as `--fill`.
        value: The value that was given under that name.

    Raises:
        ConfigurationError: The name is a former one.
    """
    if name in RENAMED:
        raise ConfigurationError(f"{name} was renamed: write {RENAMED[name]}").with_details(
            name, value, RENAMED[name]
        )
