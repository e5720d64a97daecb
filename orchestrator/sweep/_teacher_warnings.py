"""Report the quality of a run's teacher; warn if it is at chance or worse than a student."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.dataset import Dataset, read_summary
from orchestrator.store.records import Sweep
from orchestrator.teacher.quality import ACCURACY, TeacherQuality, read_quality


def report_teachers(
    cards: Sequence[Mapping[str, Any]],
    data: Path,
    show_line: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Report the quality of each card's teacher on the validation part of the data in a folder.

    Args:
        cards: The cards of the teachers.
        data: Folder of the prepared data.
        show_line: Receives the quality of each teacher in one line.
        note: Receives a warning for each teacher that is no better than guessing.
    """
    dataset = Dataset.open(data)
    labels = np.asarray(dataset.validation.labels)
    sizes = np.bincount(labels, minlength=len(dataset.classes)).tolist()
    for number, card in enumerate(cards):
        quality = TeacherQuality.of_card(card)
        name = f"teacher {number}: " if len(cards) > 1 else ""
        show_line(f"{name or 'teacher '}{quality.words}")
        if warning := quality.chance_warning(sizes):
            note(f"{name}{warning}")


def worse_than_student(sweep: Sweep, data: Path) -> str:
    """Return a warning if a sweep's teacher is worse than the best student, else an empty text.

    A method of the sweep must use the teacher. Several teachers are not compared: their average may
    be better than each of them.
    """
    best, quality = sweep.best(), read_quality(sweep.folder)
    if best is None or best.state != "complete" or quality is None:
        return ""
    accuracies = [
        value
        for name, value in best.metrics.items()
        if name == ACCURACY or name[1:] == f"/{ACCURACY}"
    ]
    if not accuracies:
        return ""
    return quality.student_warning(
        max(accuracies), best.number, read_summary(data).sizes.validation
    )
