"""Read a teacher's validation accuracy from its card, and compare it with chance and students."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.core.errors import ConfigurationError
from orchestrator.teacher.card import CARD, CARDS, TEACHER, TeacherCard

ACCURACY = "validation/accuracy"
ENSEMBLE = re.compile(r"(a/)?ensemble/")  # begin of the metrics of a trial with several teachers
NOISE = 3.0  # standard errors above guessing within which an accuracy counts as chance


@dataclass(frozen=True)
class TeacherQuality:
    """A teacher's accuracy on the validation part.

    Attributes:
        network: The name of its network.
        weights: The file or the torchvision name of given weights; empty for a fitted teacher.
        accuracy: In [0, 1]; None if it was never evaluated.
    """

    network: str
    weights: str
    accuracy: float | None

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> "TeacherQuality":
        """Return the quality that the card of a teacher records."""
        network, accuracy = card["network"], card.get("metrics", {}).get(ACCURACY)
        return cls(
            str(network["name"]),
            str(network.get("weights") or ""),
            None if accuracy is None else float(accuracy),
        )

    @property
    def accuracy_in_words(self) -> str:
        """Return the accuracy as text, such as `validation accuracy 0.9123`."""
        return (
            "not evaluated" if self.accuracy is None else f"validation accuracy {self.accuracy:.4f}"
        )

    @property
    def words(self) -> str:
        """Return the teacher in one line: its network, the source of its weights, its accuracy."""
        source = f"given weights {Path(self.weights).name}" if self.weights else "fitted here"
        return f"{self.network} ({source}): {self.accuracy_in_words}"

    def chance_warning(self, class_sizes: Sequence[int]) -> str:
        """Return a warning if the accuracy is no better than guessing, else an empty text.

        Accuracies of up to three standard errors above guessing count as chance. If this bound
        reaches 1, there are too few samples for a warning.

        Args:
            class_sizes: Number of validation samples of each class.
        """
        samples = sum(class_sizes)
        if self.accuracy is None or not samples:
            return ""
        guess = guessing_accuracy(class_sizes)
        chance = guess + NOISE * math.sqrt(guess * (1 - guess) / samples)
        if self.accuracy > chance or chance >= 1:
            return ""
        step = (
            "check that teacher.network.weights were trained on these classes, in this order, and "
            "on images with this preprocessing"
            if self.weights
            else "give it more epochs, or another teacher.training.learning_rate or teacher.network"
        )
        return (
            f"the teacher is no better than guessing: its validation accuracy is "
            f"{self.accuracy:.4f}, and guessing reaches "
            f"{guess:.4f} on these {samples} samples: {step}"
        )

    def student_warning(self, accuracy: float, trial: int, samples: int) -> str:
        """Return a warning if the teacher is worse than a student, else an empty text.

        A difference of up to one standard error gives no warning.

        Args:
            accuracy: The student's accuracy on the validation part.
            trial: The student's trial.
            samples: Number of samples of the validation part.
        """
        if self.accuracy is None or not samples:
            return ""
        error = math.sqrt(max(accuracy * (1 - accuracy), 0.0) / samples)
        if self.accuracy >= accuracy - error:
            return ""
        step = "give better teacher.network.weights" if self.weights else "fit a stronger teacher"
        return (
            f"the teacher is worse than its student: validation accuracy {self.accuracy:.4f}, "
            f"against {accuracy:.4f} for trial {trial}: "
            f"{step}, or compare with cross_entropy, which needs no teacher"
        )


def guessing_accuracy(class_sizes: Sequence[int]) -> float:
    """Return the accuracy of guessing: 1 / K for K classes, or the share of the largest class.

    Args:
        class_sizes: Number of samples of each class.
    """
    return max(1 / len(class_sizes), max(class_sizes) / sum(class_sizes))


def keep_cards(folder: Path, cards: Sequence[TeacherCard]) -> None:
    """Write the cards of all teachers of a sweep to its folder."""
    for name, card in zip(_names(len(cards)), cards, strict=True):
        TEACHER.keep(folder / name, card)


def _names(count: int) -> list[str]:
    return [CARD][:count] if count <= 1 else [CARDS.format(number) for number in range(count)]


def read_cards(folder: Path, count: int) -> list[TeacherCard | None]:
    """Return the cards of all teachers of a sweep; None for one without a readable card."""
    return [_read_card(folder / name) for name in _names(count)]


def read_qualities(folder: Path, count: int) -> list[TeacherQuality | None]:
    """Return the quality of all teachers of a sweep; None for one without a readable card."""
    return [card and TeacherQuality.of_card(card) for card in read_cards(folder, count)]


def describe_teachers(folder: Path, count: int) -> list[str]:
    """Return a line on each teacher of a sweep that has a readable card; several are numbered."""
    return [
        f"{number}: {quality.words}" if count > 1 else quality.words
        for number, quality in enumerate(read_qualities(folder, count))
        if quality is not None
    ]


def select_ensemble(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return `accuracy` and `weight_N` of the average of several teachers, of a trial's metrics.

    They are the same for all students of the trial.
    """
    return {
        ENSEMBLE.sub("", name): value for name, value in metrics.items() if ENSEMBLE.match(name)
    }


def _read_card(file: Path) -> TeacherCard | None:
    try:
        card = TEACHER.read(file)
        TeacherQuality.of_card(card)
    except (ConfigurationError, LookupError, ValueError, TypeError):
        return None
    return card


def read_quality(folder: Path) -> TeacherQuality | None:
    """Return the quality of the single teacher of a sweep; None without a readable card."""
    return read_qualities(folder, 1)[0]
