"""Run trainings, sweeps and comparisons from Python or a notebook.

These functions are `orchestrator.data`, `orchestrator.teacher` and so on.
"""

from orchestrator.api._data import Data, data
from orchestrator.api._results import Comparison, Result, Study, results
from orchestrator.api._runs import distil, sweep
from orchestrator.api._teacher import Teacher, teacher

__all__ = [
    "Comparison",
    "Data",
    "Result",
    "Study",
    "Teacher",
    "data",
    "distil",
    "results",
    "sweep",
    "teacher",
]
