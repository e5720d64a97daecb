"""Report the quality of a run's teacher; warn if it is at chance or worse than a student."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.data.dataset import Dataset, read_summary
from orchestrator.store.records import Sweep
from orchestrator.teacher.quality import ACCURACY, TeacherQuality, read_quality


def report_teacher(
    card: Mapping[str, Any],
    data: Path,
    show_line: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Report the quality of a card's teacher on the validation part of the data in a folder.

    Args:
        card: The teacher's card.
        data: Folder of the prepared data.
        show_line: Receives the quality in one line.
        note: Receives a warning if the teacher is no better than guessing.
    """
    quality, dataset = TeacherQuality.of_card(card), Dataset.open(data)
    show_line(f"teacher {quality.words}")
    labels = np.asarray(dataset.validation.labels)
    if warning := quality.chance_warning(
        np.bincount(labels, minlength=len(dataset.classes)).tolist()
    ):
        note(warning)


def worse_than_student(sweep: Sweep, data: Path) -> str:
    """Return a warning if a sweep's teacher is worse than the best student, else an empty text.

    A method of the sweep must use the teacher.
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
