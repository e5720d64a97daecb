"""Published accuracies for some settings of a comparison, with source and conditions."""

from dataclasses import dataclass
from typing import Any

from orchestrator.config.data_schema import Data
from orchestrator.config.schema import Configuration

WTTM = "arXiv 2402.11148 (ICLR 2024), Tables 11 and 12, and the README of its code"
WTTM_CONDITIONS = (
    "5 runs, mean ± standard deviation of the top-1 accuracy; trained on the whole training "
    "part of CIFAR-100 with the teachers of "
    "CRD, temperature and weight chosen for each pair of networks; SGD, 240 epochs, batches of 64"
)
# keys of `data` that leave the setting of a source; all others must have their defaults
FREE_KEYS: dict[str, Any] = {
    **dict.fromkeys(("path", "download", "seed", "validation", "validation_in_training"), True),
    **dict.fromkeys(("augmentation", "views", "labelled_share", "mix_alpha"), True),
    **dict.fromkeys(("on_device", "loader_workers"), True),
    "limit": {"validation"},
}
AUGMENTATIONS = ("auto", "crop_flip")


@dataclass(frozen=True)
class Published:
    """Results of one source for one setting.

    Accuracies are in per cent, by method, with their standard deviations where the source gives
    them.
    """

    data: str
    teacher: str
    student: str
    epochs: int
    teacher_accuracy: float
    accuracies: dict[str, tuple[float, float | None]]
    source: str = WTTM
    conditions: str = WTTM_CONDITIONS


# Networks and accuracies of the teacher and the student, then those of kd, ttm and wttm
_CIFAR100 = (
    ("resnet56", "resnet20", 72.34, 69.06, (70.66, 0.24), (71.83, 0.16), (71.92, 0.40)),
    ("resnet110", "resnet20", 74.31, 69.06, (70.67, 0.27), (71.46, 0.16), (71.67, 0.28)),
    ("resnet110", "resnet32", 74.31, 71.14, (73.08, 0.18), (73.97, 0.23), (74.13, 0.37)),
    ("resnet32x4", "resnet8x4", 79.42, 72.50, (73.33, 0.25), (76.17, 0.28), (76.06, 0.27)),
)
PUBLISHED = tuple(
    Published(
        *("CIFAR100", teacher, student, 240, teacher_accuracy),
        {"cross_entropy": (cross_entropy, None), "kd": kd, "ttm": ttm, "wttm": wttm},
    )
    for teacher, student, teacher_accuracy, cross_entropy, kd, ttm, wttm in _CIFAR100
)


def find_published(configuration: Configuration) -> Published | None:
    """Return the published results for the data, teacher, student and epochs of a comparison.

    None if one of them differs. Changed data, networks with settings of their own, trainings that
    may end early, and students that learn from each other are different settings.
    """
    teacher, student = configuration.teacher, configuration.student
    if teacher is None or configuration.peers or not _is_published_use(configuration.data):
        return None
    if teacher.classes is not None or teacher.network.settings or student.settings:
        return None
    if student.weights or teacher.training.patience or configuration.training.patience:
        return None
    setting = (
        configuration.data.name,
        teacher.network.name,
        student.name,
        configuration.training.epochs,
    )
    return next(
        (one for one in PUBLISHED if (one.data, one.teacher, one.student, one.epochs) == setting),
        None,
    )


def _is_published_use(data: Data) -> bool:
    """Return whether the data are used as in the sources: all samples alike, crops and flips."""
    usual = Data(name=data.name).model_dump(exclude=FREE_KEYS)
    return data.model_dump(exclude=FREE_KEYS) == usual and data.augmentation in AUGMENTATIONS
