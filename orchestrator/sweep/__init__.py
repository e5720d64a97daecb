"""Sweeps: Optuna studies, Ray Tune schedulers and the driver."""

__all__ = [
    "changed_configuration",
    "checkpoint_retention",
    "comparison",
    "driver",
    "events",
    "preflight",
    "provenance",
    "space_snapshot",
    "teacher_run",
]
