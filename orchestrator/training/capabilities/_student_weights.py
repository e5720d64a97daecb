"""Sample weights of a student in training: the current and the pending ones.

`orchestrator/training/sample_weighting.py` computes them.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from methods.histogram import BINS
from methods.sample_weighting import WeightingPlan
from methods.sample_weights import auc
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import InfluenceClientProtocol, Stopped, TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.data.dataset import Dataset
from orchestrator.training._restorable import find_misfit
from orchestrator.training.capabilities._displayed_samples import collect_samples
from orchestrator.training.metric_names import WEIGHT_RANGE
from orchestrator.training.sample_weighting import (
    SampleWeighting,
    Snapshot,
    State,
    compute_sample_weights,
)

NUM_EXTREME_SAMPLES = 8  # displayed samples of each kind
LATE_S = 1.0  # a longer wait is reported
Metrics = dict[str, float]


class StoredValues(BaseModel):
    """JSON values of the sample weights in a checkpoint.

    Attributes:
        noted: Values that the last weighting noted.
        pending: Epoch of the snapshot whose weights are pending; None without one.
        before: Values that the weighting before the pending one noted.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    noted: dict[str, float]
    pending: int | None = Field(None, ge=1)
    before: dict[str, float] = Field(default_factory=dict)


class SampleWeights:
    """The sample weights of one student: (n,) float32, 1 until the first ones are applied.

    All its ranks call its methods together, except `lookup`.
    """

    def __init__(
        self,
        spec: TrialSpec,
        letter: str,
        weighting_plan: WeightingPlan,
        dataset: Dataset,
        context: TrialContext,
    ) -> None:
        self.spec = spec
        self.letter = letter
        self.weighting_plan = weighting_plan
        self.dataset = dataset
        self.context = context
        self.current = torch.ones(len(dataset.train), device=context.device)
        self.scores = torch.full((len(dataset.train),), math.nan)
        self.pending: Snapshot | None = None
        self.noted: Metrics = {}
        self.pending_notes: list[str] = []
        self.applied_after: int | None = None  # finished epochs when the current ones were applied
        self.influence_client: InfluenceClientProtocol | None = None
        labels, truth = np.asarray(dataset.train.labels), np.asarray(dataset.clean_labels)
        self.is_wrong, self.is_right = (
            torch.from_numpy(mask & (labels != -1)) for mask in (labels != truth, labels == truth)
        )

    def lookup(self, index: Tensor) -> Tensor:
        """Return the weights of samples, (B,), on the device."""
        return self.current.index_select(0, index.to(self.current.device))

    def end_epoch(
        self, epoch: int, student: Callable[[], State], teacher: Callable[[], State]
    ) -> Metrics | None:
        """Apply weights that are due, and request new ones.

        Args:
            epoch: Number of finished epochs.
            student: Returns the student's state.
            teacher: Returns the state of a teacher that the trial has changed.

        Returns:
            The metrics and the cost of new weights; None if none were applied.
        """
        new_metrics = None
        if self.pending is not None and epoch >= self.pending.epoch + self.weighting_plan.lag:
            new_metrics = self._apply_pending()
        if self.weighting_plan.is_due(epoch):
            self.pending = Snapshot(
                self.spec, self.letter, epoch, {}, self.current.cpu(), before=self.noted
            )
            if self.context.is_main_process:
                self.pending = replace(
                    self.pending, student=_copy_to_cpu(student()), teacher=_copy_to_cpu(teacher())
                )
                self._send()
            if self.weighting_plan.lag == 0:
                new_metrics = self._apply_pending()
        if new_metrics is not None:
            self.applied_after = epoch
        return new_metrics

    def metrics(self) -> Metrics:
        """Return the spread of the current weights.

        If labels are wrong, also return the mean weights over samples with wrong and with right
        labels.
        """
        weights = self.current.cpu()
        metrics = {"influence/weight_std": float(weights.std(correction=0))}
        if self.is_wrong.any():
            metrics["influence/weight_noisy"] = float(weights[self.is_wrong].mean())
            metrics["influence/weight_clean"] = float(weights[self.is_right].mean())
        return metrics

    def figure_data(self) -> State:
        """Return the data of figures: the shares (BINS,) of the samples by weight, and both means.

        The means are NaN if no label is wrong.
        """
        metrics = self.metrics()
        counts = torch.histc(self.current.cpu().clamp(max=WEIGHT_RANGE), BINS, 0.0, WEIGHT_RANGE)
        means = {
            name: torch.tensor(metrics.get(f"influence/{name}", math.nan))
            for name in ("weight_noisy", "weight_clean")
        }
        return {"weight_histogram": counts / counts.sum(), **means}

    def collect_extreme_samples(self) -> State:
        """Return the most harmful and the most helpful training samples, strongest first.

        The result is empty if no sample was scored.
        """
        scored = torch.nonzero(self.scores.isfinite()).flatten()
        order = scored[self.scores[scored].argsort(stable=True)]
        samples: State = {}
        for name, index in (
            ("harmful", order.flip(0)[:NUM_EXTREME_SAMPLES]),
            ("helpful", order[:NUM_EXTREME_SAMPLES]),
        ):
            if len(index):
                samples |= collect_samples(self.dataset, name, index) | {
                    f"{name}_scores": self.scores[index]
                }
        return samples

    def notes(self) -> list[str]:
        """Return the messages for users since the last call."""
        notes = self.pending_notes + (
            self.influence_client.notes() if self.influence_client else []
        )
        self.pending_notes = []
        return notes

    def state(self) -> tuple[State, dict[str, Any]]:
        """Return the state that a resume needs, as tensors and as JSON values.

        It includes a pending snapshot.
        """
        tensors = {"weights": self.current, "scores": self.scores}
        values: dict[str, Any] = {"noted": self.noted}
        if self.pending is not None:
            tensors |= {"pending/weights": self.pending.weights}
            tensors |= {
                f"pending/student/{name}": value for name, value in self.pending.student.items()
            }
            tensors |= {
                f"pending/teacher/{name}": value for name, value in self.pending.teacher.items()
            }
            values |= {"pending": self.pending.epoch, "before": self.pending.before}
        return tensors, values

    def find_misfit(self, tensors: State, values: Mapping[str, Any]) -> str:
        """Return why a saved state does not fit these weights; "" if it fits."""
        expected = {"weights": self.current, "scores": self.scores}
        expected_pending = {"pending/weights": self.current} if "pending" in values else {}
        given = {
            name: value
            for name, value in tensors.items()
            if not name.startswith(("pending/student/", "pending/teacher/"))
        }
        if misfit := find_misfit("sample weights", expected | expected_pending, given):
            return misfit
        if not bool(torch.isfinite(tensors["weights"]).all()):
            return "weights of the sample weights is not finite"
        try:
            stored = StoredValues.model_validate(values)
        except ValidationError as error:
            (first, *_) = error.errors(include_url=False)
            return f"weights.{'.'.join(map(str, first['loc']))} in its progress: {first['msg']}"
        if stored.pending and "before" not in values:
            return "weights.before is missing in its progress"
        return ""

    def restore(self, tensors: State, values: Mapping[str, Any]) -> None:
        """Restore a saved state, and send a pending snapshot again."""
        self.current = tensors["weights"].to(self.context.device)
        self.scores = tensors["scores"].cpu()
        self.noted = values["noted"]
        if "pending" in values:
            student, teacher = (
                _select_prefix(f"pending/{name}/", tensors) for name in ("student", "teacher")
            )
            self.pending = Snapshot(
                self.spec,
                self.letter,
                values["pending"],
                student,
                tensors["pending/weights"],
                teacher,
                values["before"],
            )
            if self.context.is_main_process:
                self._send()

    def _send(self) -> None:
        assert self.pending is not None
        if self.influence_client is None and self.context.influence_client is not None:
            self.influence_client = self.context.influence_client()
        if self.influence_client is not None:
            self.influence_client.send(self.pending)

    def _apply_pending(self) -> Metrics:
        """Apply the requested weights, and return their metrics."""
        assert self.pending is not None
        started = time.perf_counter()
        weighting, failure = self.context.broadcast_object(
            self._receive_or_error() if self.context.is_main_process else None
        )
        if failure is not None:
            raise failure
        waited = time.perf_counter() - started
        self.current, self.scores = weighting.weights.to(self.context.device), weighting.scores
        self.noted, self.pending = weighting.noted, None
        self.pending_notes += weighting.notes
        metrics = weighting.tracked | weighting.costs | {"waited": waited}
        if self.is_wrong.any() and self.scores[self.is_wrong].isfinite().all():
            labelled = self.is_wrong | self.is_right
            metrics["auc_noisy"] = auc(self.scores[labelled], self.is_wrong[labelled])
        return {f"influence/{name}": value for name, value in metrics.items()}

    def _receive_or_error(self) -> tuple[SampleWeighting | None, Exception | None]:
        """Return the weights or the error, so that either all ranks raise it or none."""
        try:
            return self._receive(), None
        except (TrialError, Stopped) as error:
            return None, error

    def _receive(self) -> SampleWeighting:
        assert self.pending is not None
        if self.influence_client is not None:
            wait_s, started = self.spec.configuration.resources.influence_wait_s, time.monotonic()
            self.context.phase("the wait for the influence actor")
            weighting: SampleWeighting | None = self.influence_client.receive(
                wait_s, self._send_heartbeat
            )
            waited = time.monotonic() - started
            subject = f"the sample weights after epoch {self.pending.epoch}"
            if weighting is not None:
                if self.weighting_plan.lag and waited > LATE_S:
                    self.pending_notes.append(
                        f"{subject} were late; the trainer waited {waited:.1f} s for them"
                    )
                return weighting
            self.influence_client.drop()
            limit = f" within {wait_s:g} s (resources.influence_wait_s)" if waited >= wait_s else ""
            self.pending_notes.append(
                f"{subject} were not received{limit}; the trial's worker computed them instead"
            )
        return compute_sample_weights(self.pending, self.context.device, self._send_heartbeat)

    def _send_heartbeat(self) -> None:
        """Send a heartbeat; raise Stopped if a stop of the trial was requested meanwhile."""
        self.context.heartbeat()
        if self.context.stop_requested():
            raise Stopped


def _select_prefix(prefix: str, tensors: State) -> State:
    return {
        name.removeprefix(prefix): value.cpu()
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _copy_to_cpu(state: State) -> State:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
