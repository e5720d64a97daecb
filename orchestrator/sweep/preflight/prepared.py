"""Define the start values of a run that the checks have settled."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.schema import Configuration
from orchestrator.sweep.run_facts import RunFacts
from orchestrator.teacher.access import TeacherAccess


@dataclass(frozen=True)
class Prepared:
    """Start values of a run, settled by the checks.

    `data` is the folder of the prepared data. `teacher_access` is None without a teacher. `note`
    explains how the configuration differs from the requested one. `facts` is None for a run that
    trains no student.
    """

    data: Path
    teacher_access: TeacherAccess | None
    configuration: Configuration
    note: str = ""
    facts: RunFacts | None = None
