"""Search for the recipe that distils best.

A package imports only packages above it in this list:

core       Errors, signals, privacy, disk space and the context that a training runs in.
models     Networks and their weights.
config     What a user writes: schema, loader, search space, plan, resources.
store      What lies on disk: paths, records, locks, remote stores, checkpoints.
data       Data sets, their views, and batches.
teacher    Fit or load the teacher, and cache its outputs.
training   Train one trial, in torch alone.
extensions Networks, data sets, methods, transforms and metrics of user code.
cluster    Everything that Ray executes: worker groups, workers, dispatcher, jobs.
reporting  What people look at: terminal, HTML, figures, importance, statistics.
export     A student on its own: weights, settings, model card, predictions.
tracking   Runs, figures and models in MLflow.
sweep      The search: Optuna studies, Ray Tune schedulers, the driver of a sweep.
cli        One module for each command.
api        The same runs from Python: data, teacher, distil, sweep and results.

The names in `__all__` are imported when they are first used: `import orchestrator` is cheap.
`data`, `teacher` and `sweep` are packages that can be called (core/callable_module.py).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Comparison as Comparison
    from orchestrator.api import Data as Data
    from orchestrator.api import Result as Result
    from orchestrator.api import Study as Study
    from orchestrator.api import Teacher as Teacher
    from orchestrator.api import distil as distil
    from orchestrator.api import results as results
    from orchestrator.extensions.decorators import dataset as dataset
    from orchestrator.extensions.decorators import method as method
    from orchestrator.extensions.decorators import metric as metric
    from orchestrator.extensions.decorators import network as network
    from orchestrator.extensions.decorators import transform as transform

_HOMES = dict.fromkeys(
    ("dataset", "method", "metric", "network", "transform"), "orchestrator.extensions.decorators"
) | dict.fromkeys(
    ("Comparison", "Data", "Result", "Study", "Teacher", "distil", "results"), "orchestrator.api"
)
_CALLABLE = ("data", "sweep", "teacher")
__all__ = [
    "Comparison",
    "Data",
    "Result",
    "Study",
    "Teacher",
    "data",
    "dataset",
    "distil",
    "method",
    "metric",
    "network",
    "results",
    "sweep",
    "teacher",
    "transform",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _CALLABLE:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
