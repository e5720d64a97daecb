"""Sweeps: Optuna studies, Ray Tune schedulers and the driver."""

from orchestrator.core.callable_module import make_callable

__all__ = [
    "changed_configuration",
    "checkpoint_retention",
    "checks",
    "comparison",
    "driver",
    "events",
    "preflight",
    "provenance",
    "report_file",
    "run_facts",
    "runs",
    "space_snapshot",
    "teacher_run",
]

make_callable(__name__)  # `orchestrator.sweep(...)` is a function of orchestrator.api
