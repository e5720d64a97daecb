"""Schedule the sample weights of a student in training: those in force, and those pending.

`sample_weighting` computes the weights.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.histogram import BINS, WEIGHT_RANGE
from methods.sample_weighting import WeightingPlan
from methods.sample_weights import auc
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Aide, Stopped, TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.data.dataset import Dataset
from orchestrator.training._restorable import find_misfit
from orchestrator.training._sample_predictions import samples
from orchestrator.training.sample_weighting import (
    SampleWeighting,
    Snapshot,
    State,
    compute_sample_weights,
)

SHOWN = 8  # displayed samples of each kind
LATE_S = 1.0  # a longer wait is reported
Metrics = dict[str, float]


class SampleWeights:
    """The sample weights of one student: (n,) float32, 1 until the first ones are in force.

    All its ranks call its methods together, except `of`.
    """

    def __init__(
        self,
        spec: TrialSpec,
        letter: str,
        weighting_plan: WeightingPlan,
        dataset: Dataset,
        context: TrialContext,
    ) -> None:
        self.spec, self.letter, self.weighting_plan, self.dataset, self.context = (
            spec,
            letter,
            weighting_plan,
            dataset,
            context,
        )
        self.in_force = torch.ones(len(dataset.train), device=context.device)
        self.scores = torch.full((len(dataset.train),), math.nan)
        self.pending: Snapshot | None = None
        self.noted: Metrics = {}
        self.said: list[str] = []
        self.aide: Aide | None = None
        labels, truth = np.asarray(dataset.train.labels), np.asarray(dataset.clean_labels)
        self.wrong, self.right = (
            torch.from_numpy(mask & (labels != -1)) for mask in (labels != truth, labels == truth)
        )

    def of(self, index: Tensor) -> Tensor:
        """Return the weights of samples, (B,), on the device."""
        return self.in_force.index_select(0, index.to(self.in_force.device))

    def end_epoch(
        self, epoch: int, student: Callable[[], State], teacher: Callable[[], State]
    ) -> Metrics | None:
        """Put weights that are due in force, and request new ones.

        Args:
            epoch: Number of finished epochs.
            student: Returns the student's state.
            teacher: Returns the state of a teacher that the trial has changed.

        Returns:
            The metrics and the cost of new weights; None if none came into force.
        """
        found = None
        if self.pending is not None and epoch >= self.pending.epoch + self.weighting_plan.lag:
            found = self._take()
        if self.weighting_plan.is_due(epoch):
            self.pending = Snapshot(
                self.spec.plain(), self.letter, epoch, {}, self.in_force.cpu(), before=self.noted
            )
            if self.context.is_main_process:
                self.pending = replace(
                    self.pending, student=_copied(student()), teacher=_copied(teacher())
                )
                self._send()
            if self.weighting_plan.lag == 0:
                found = self._take()
        return found

    def metrics(self) -> Metrics:
        """Return the spread of the weights in force.

        If labels are wrong, also return the mean weights over samples with wrong and with right
        labels.
        """
        weights = self.in_force.cpu()
        found = {"influence/weight_std": float(weights.std(correction=0))}
        if self.wrong.any():
            found["influence/weight_noisy"] = float(weights[self.wrong].mean())
            found["influence/weight_clean"] = float(weights[self.right].mean())
        return found

    def drawn(self) -> State:
        """Return the data of figures: the shares (BINS,) of the samples by weight, and both means.

        The means are NaN if no label is wrong.
        """
        numbers = self.metrics()
        counts = torch.histc(self.in_force.cpu().clamp(max=WEIGHT_RANGE), BINS, 0.0, WEIGHT_RANGE)
        means = {
            name: torch.tensor(numbers.get(f"influence/{name}", math.nan))
            for name in ("weight_noisy", "weight_clean")
        }
        return {"weight_histogram": counts / counts.sum(), **means}

    def shown(self) -> State:
        """Return the most harmful and the most helpful training samples, strongest first.

        The result is empty if no sample was scored.
        """
        scored = torch.nonzero(self.scores.isfinite()).flatten()
        order = scored[self.scores[scored].argsort(stable=True)]
        found: State = {}
        for name, index in (("harmful", order.flip(0)[:SHOWN]), ("helpful", order[:SHOWN])):
            if len(index):
                found |= samples(self.dataset, name, index) | {f"{name}_scores": self.scores[index]}
        return found

    def notes(self) -> list[str]:
        """Return the messages for users since the last call."""
        said = self.said + (self.aide.notes() if self.aide else [])
        self.said = []
        return said

    def state(self) -> tuple[State, dict[str, Any]]:
        """Return the state that a resume needs, as tensors and as JSON values.

        It includes a pending snapshot.
        """
        tensors = {"weights": self.in_force, "scores": self.scores}
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

    def find_misfit(self, tensors: State, values: dict[str, Any]) -> str:
        """Return why a saved state does not fit these weights; "" if it fits."""
        own = {"weights": self.in_force, "scores": self.scores}
        on_its_way = {"pending/weights": self.in_force} if "pending" in values else {}
        held = {
            name: value
            for name, value in tensors.items()
            if not name.startswith(("pending/student/", "pending/teacher/"))
        }
        if misfit := find_misfit("sample weights", own | on_its_way, held):
            return misfit
        if not bool(torch.isfinite(tensors["weights"]).all()):
            return "weights of the sample weights is not finite"
        missing = [
            name
            for name in ("noted", *(("before",) if "pending" in values else ()))
            if name not in values
        ]
        return f"weights.{missing[0]} is missing in its progress" if missing else ""

    def restore(self, tensors: State, values: dict[str, Any]) -> None:
        """Restore a saved state, and send a pending snapshot again."""
        self.in_force, self.scores = (
            tensors["weights"].to(self.context.device),
            tensors["scores"].cpu(),
        )
        self.noted = values["noted"]
        if "pending" in values:
            student, teacher = (
                _below(f"pending/{name}/", tensors) for name in ("student", "teacher")
            )
            self.pending = Snapshot(
                self.spec.plain(),
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
        if self.aide is None and self.context.influence_client is not None:
            self.aide = self.context.influence_client()
        if self.aide is not None:
            self.aide.send(self.pending)

    def _take(self) -> Metrics:
        """Put the requested weights in force, and return their metrics."""
        assert self.pending is not None
        started = time.perf_counter()
        appraised, failure = self.context.broadcast_object(
            self._received() if self.context.is_main_process else None
        )
        if failure is not None:
            raise failure
        waited = time.perf_counter() - started
        self.in_force, self.scores = appraised.weights.to(self.context.device), appraised.scores
        self.noted, self.pending = appraised.noted, None
        self.said += appraised.notes
        numbers = appraised.tracked | appraised.costs | {"waited": waited}
        if self.wrong.any() and self.scores[self.wrong].isfinite().all():
            labelled = self.wrong | self.right
            numbers["auc_noisy"] = auc(self.scores[labelled], self.wrong[labelled])
        return {f"influence/{name}": value for name, value in numbers.items()}

    def _received(self) -> tuple[SampleWeighting | None, Exception | None]:
        """Return the weights or the error, so that either all ranks raise it or none."""
        try:
            return self._receive(), None
        except (TrialError, Stopped) as error:
            return None, error

    def _receive(self) -> SampleWeighting:
        assert self.pending is not None
        if self.aide is not None:
            wait_s, started = self.spec.configuration.resources.influence_wait_s, time.monotonic()
            self.context.phase("the influence actor")
            answer: SampleWeighting | None = self.aide.receive(wait_s, self._alive)
            waited, what = (
                time.monotonic() - started,
                f"the weights of the samples after epoch {self.pending.epoch}",
            )
            if answer is not None:
                if self.weighting_plan.lag and waited > LATE_S:
                    self.said.append(f"{what} were late: the trainer waited {waited:.1f} s")
                return answer
            self.aide.drop()
            limit = f" within {wait_s:g} s (resources.influence_wait_s)" if waited >= wait_s else ""
            self.said.append(f"{what} did not come{limit}, so the worker computed them itself")
        return compute_sample_weights(self.pending, self.context.device, self._alive)

    def _alive(self) -> None:
        """Send a heartbeat; raise Stopped if a stop of the trial was requested meanwhile."""
        self.context.heartbeat()
        if self.context.stop_requested():
            raise Stopped


def _below(prefix: str, tensors: State) -> State:
    return {
        name.removeprefix(prefix): value.cpu()
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _copied(state: State) -> State:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
