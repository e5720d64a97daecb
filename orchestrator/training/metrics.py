"""Compute accuracy (also per class), NLL, calibration, entropy and agreement on a labelled part."""

import math
from bdb import BdbQuit
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, nll_loss

from orchestrator.core.errors import ConfigurationError, TrialError, short_reason
from orchestrator.core.user_code import failure_location

MOST_CHECKED = 4096  # samples of a check before the start
BINS = 15  # of the calibration error, as in Guo et al. 2017 (arXiv 1706.04599)


class UserMetric(NamedTuple):
    """Metric of user code.

    Attributes:
        name: The name, with the prefix `my/`.
        function: Takes logits (N, K) float32 and labels (N,) int64 of a part, and returns a number.
        place: File and line of the function, for messages.
    """

    name: str
    function: Callable[[Tensor, Tensor], Any]
    place: str

    def compute(self, logits: Tensor, labels: Tensor) -> float:
        """Return the value on a part.

        Raises:
            TrialError: The function fails, or does not return a finite number.
        """
        try:
            value = float(self.function(logits, labels))
        except BdbQuit:  # the user has left the debugger
            raise
        except Exception as error:  # any error of user code
            reason, location = short_reason(error), failure_location(error, self.place)
            raise TrialError(f"metric {self.name} ({location}) fails ({reason})").with_details(
                self.name, reason, "a finite number"
            ) from error
        if not math.isfinite(value) and bool(logits.isfinite().all()):
            raise TrialError(
                f"metric {self.name} ({self.place}) is {value}: return a finite number"
            ).with_details(self.name, value, "a finite number")
        return value


USER_METRICS: dict[str, UserMetric] = {}


def check_user_metrics(classes: int, samples: int) -> None:
    """Compute the metrics of user code for random logits.

    Args:
        classes: Number of classes K.
        samples: Number of samples of the validation part.

    Raises:
        ConfigurationError: A metric fails, or is not a finite number.
    """
    count = max(classes, min(samples, MOST_CHECKED))
    logits = torch.randn(count, classes, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % classes
    for metric in USER_METRICS.values():
        try:
            with torch.random.fork_rng(devices=[]):
                metric.compute(logits.clone(), labels.clone())
        except TrialError as error:
            raise ConfigurationError.from_error(
                error, f"{error} for {count} random logits and labels: correct it"
            ) from error


class Scores:
    """Sums over the batches of one part; they add over ranks, so any split gives the same metrics.

    Args:
        classes: Number of classes.
        device: The device of the sums.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes = classes
        # samples, correct, nll, entropy, agreeing; then per bin: samples, confidence, correct;
        # then per class: samples, correct
        self.sums = torch.zeros(5 + 3 * BINS + 2 * classes, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
        """Count a batch; return the predicted classes (B,).

        Args:
            logits: (B, K).
            labels: (B,).
            teacher: The teacher's predicted classes (B,), or None.
        """
        log_q = log_softmax(logits.float(), dim=1).double()
        confidence, predicted = log_q.max(dim=1)
        correct = (predicted == labels).double()
        one = torch.ones_like(correct)
        agreeing = torch.zeros_like(correct) if teacher is None else (predicted == teacher).double()
        nll = nll_loss(log_q, labels, reduction="none")
        q, confidence = log_q.exp(), confidence.exp()
        entropy = -torch.special.xlogy(q, q).sum(dim=1)
        sums = torch.stack([one, correct, nll, entropy, agreeing], dim=1).sum(dim=0)
        # NaN comes from a diverged student; its nll is then NaN
        bins = (confidence.nan_to_num() * BINS).long().clamp(max=BINS - 1)
        of_bins = self._table(bins, BINS, one, confidence, correct)
        of_classes = self._table(labels, self.classes, one, correct)
        self.sums += torch.cat([sums, of_bins.flatten(), of_classes.flatten()])
        return predicted

    def metrics(self, agreement: bool) -> dict[str, float]:
        """Return accuracy, nll (nats), ece, entropy (nats) and, on request, the agreement.

        The agreement is that with the teacher. `worst_class_accuracy` and `class_gap`, the best
        class's accuracy minus that, cover the classes that have samples.
        """
        sums = self.sums.cpu()
        samples, correct, nll, entropy, agreeing = sums[:5].tolist()
        table = sums[5 : 5 + 3 * BINS].reshape(BINS, 3)
        ece = (table[:, 1] - table[:, 2]).abs().sum().item() / samples
        accuracies = self.class_accuracies()
        worst, best = (
            bound(accuracies[~accuracies.isnan()]).item() for bound in (torch.min, torch.max)
        )
        metrics = {
            "accuracy": correct / samples,
            "worst_class_accuracy": worst,
            "class_gap": best - worst,
        }
        metrics |= {"nll": nll / samples, "ece": ece, "entropy": entropy / samples}
        return metrics | ({"agreement": agreeing / samples} if agreement else {})

    def class_accuracies(self) -> Tensor:
        """Return the accuracy of each class (K,), float64 on the CPU; NaN without samples."""
        samples, correct = self.sums[5 + 3 * BINS :].reshape(self.classes, 2).cpu().unbind(1)
        return correct / samples

    def _table(self, rows: Tensor, count: int, *values: Tensor) -> Tensor:
        """Return the sums of each of V `values` (B,) by row, (count, V); `rows` (B,)."""
        table = torch.zeros(count, len(values), dtype=torch.float64, device=self.sums.device)
        return table.index_add_(0, rows, torch.stack(values, dim=1))
