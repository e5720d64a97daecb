"""The search: Optuna studies, Ray Tune schedulers, the driver of a sweep."""

__all__ = [
    "changed_configuration",
    "checkpoint_retention",
    "comparison",
    "driver",
    "events",
    "preflight",
    "provenance",
    "space_snapshot",
]
