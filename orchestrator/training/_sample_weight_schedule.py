"""The weights of the training samples while a student is trained: those in force, and those that are on their way.

Knows when they are asked for and when they count; how they come about is in `appraisal.py`.
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
from methods.sample_weights import auc
from methods.weighing import Weighing
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Aide, Stopped, TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.data.dataset import Dataset
from orchestrator.training._restorable import find_misfit
from orchestrator.training._sample_predictions import samples
from orchestrator.training.sample_weighting import SampleWeighting, Snapshot, State, compute_sample_weights

SHOWN = 8  # samples of each kind that a person is shown
LATE_S = 1.0  # a wait that is worth a word
Metrics = dict[str, float]


class SampleWeights:
    """Of one student: (n,) float32, 1 until the first ones are in force. All its ranks call its methods together, `of` aside."""

    def __init__(self, spec: TrialSpec, letter: str, weighing: Weighing, dataset: Dataset, context: TrialContext) -> None:
        self.spec, self.letter, self.weighing, self.dataset, self.context = spec, letter, weighing, dataset, context
        self.in_force = torch.ones(len(dataset.train), device=context.device)
        self.scores = torch.full((len(dataset.train),), math.nan)
        self.pending: Snapshot | None = None
        self.noted: Metrics = {}
        self.said: list[str] = []
        self.aide: Aide | None = None
        labels, truth = np.asarray(dataset.train.labels), np.asarray(dataset.clean_labels)
        self.wrong, self.right = (torch.from_numpy(mask & (labels != -1)) for mask in (labels != truth, labels == truth))

    def of(self, index: Tensor) -> Tensor:
        """The weights of samples, (B,), on the device."""
        return self.in_force.index_select(0, index.to(self.in_force.device))

    def end_epoch(self, epoch: int, student: Callable[[], State], teacher: Callable[[], State]) -> Metrics | None:
        """After so many finished epochs: take the weights that fall due, ask for new ones; None where none came into force.

        `student` gives its state, `teacher` that of a teacher that the trial has changed. What came is tracked, with what it cost.
        """
        found = None
        if self.pending is not None and epoch >= self.pending.epoch + self.weighing.lag:
            found = self._take()
        if self.weighing.due(epoch):
            self.pending = Snapshot(self.spec.plain(), self.letter, epoch, {}, self.in_force.cpu(), before=self.noted)
            if self.context.leads:
                self.pending = replace(self.pending, student=_copied(student()), teacher=_copied(teacher()))
                self._send()
            if self.weighing.lag == 0:
                found = self._take()
        return found

    def metrics(self) -> Metrics:
        """Of the weights in force: their spread; where labels are wrong the means over samples with wrong and with right ones."""
        weights = self.in_force.cpu()
        found = {"influence/weight_std": float(weights.std(correction=0))}
        if self.wrong.any():
            found["influence/weight_noisy"] = float(weights[self.wrong].mean())
            found["influence/weight_clean"] = float(weights[self.right].mean())
        return found

    def drawn(self) -> State:
        """What pictures are made of: the shares (BINS,) of the samples by weight, and both means, NaN where no label is wrong."""
        numbers = self.metrics()
        counts = torch.histc(self.in_force.cpu().clamp(max=WEIGHT_RANGE), BINS, 0.0, WEIGHT_RANGE)
        means = {name: torch.tensor(numbers.get(f"influence/{name}", math.nan)) for name in ("weight_noisy", "weight_clean")}
        return {"weight_histogram": counts / counts.sum(), **means}

    def shown(self) -> State:
        """The training samples that do most harm and most good, those first that do so most; nothing where none was scored."""
        scored = torch.nonzero(self.scores.isfinite()).flatten()
        order = scored[self.scores[scored].argsort(stable=True)]
        found: State = {}
        for name, index in (("harmful", order.flip(0)[:SHOWN]), ("helpful", order[:SHOWN])):
            if len(index):
                found |= samples(self.dataset, name, index) | {f"{name}_scores": self.scores[index]}
        return found

    def notes(self) -> list[str]:
        """What a person should hear since the last call."""
        said = self.said + (self.aide.notes() if self.aide else [])
        self.said = []
        return said

    def state(self) -> tuple[State, dict[str, Any]]:
        """What a resume needs, as tensors and as JSON values: the snapshot that is on its way too."""
        tensors = {"weights": self.in_force, "scores": self.scores}
        values: dict[str, Any] = {"noted": self.noted}
        if self.pending is not None:
            tensors |= {"pending/weights": self.pending.weights}
            tensors |= {f"pending/student/{name}": value for name, value in self.pending.student.items()}
            tensors |= {f"pending/teacher/{name}": value for name, value in self.pending.teacher.items()}
            values |= {"pending": self.pending.epoch, "before": self.pending.before}
        return tensors, values

    def find_misfit(self, tensors: State, values: dict[str, Any]) -> str:
        """Return why a saved state is none of these weights; "" where it is."""
        own = {"weights": self.in_force, "scores": self.scores}
        on_its_way = {"pending/weights": self.in_force} if "pending" in values else {}
        held = {name: value for name, value in tensors.items() if not name.startswith(("pending/student/", "pending/teacher/"))}
        if misfit := find_misfit("sample weights", own | on_its_way, held):
            return misfit
        if not bool(torch.isfinite(tensors["weights"]).all()):
            return "weights of the sample weights is not finite"
        missing = [name for name in ("noted", *(("before",) if "pending" in values else ())) if name not in values]
        return f"weights.{missing[0]} is missing in its progress" if missing else ""

    def restore(self, tensors: State, values: dict[str, Any]) -> None:
        """Stand where the checkpoint was made; what was on its way is sent again."""
        self.in_force, self.scores = tensors["weights"].to(self.context.device), tensors["scores"].cpu()
        self.noted = values["noted"]
        if "pending" in values:
            student, teacher = (_below(f"pending/{name}/", tensors) for name in ("student", "teacher"))
            self.pending = Snapshot(
                self.spec.plain(), self.letter, values["pending"], student, tensors["pending/weights"], teacher, values["before"]
            )
            if self.context.leads:
                self._send()

    def _send(self) -> None:
        assert self.pending is not None
        if self.aide is None and self.context.aide is not None:
            self.aide = self.context.aide()
        if self.aide is not None:
            self.aide.send(self.pending)

    def _take(self) -> Metrics:
        """The weights that were asked for come into force."""
        assert self.pending is not None
        started = time.perf_counter()
        appraised, failure = self.context.share(self._received() if self.context.leads else None)
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
        """The answer, or what went wrong: that is raised by all ranks or by none."""
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
            waited, what = time.monotonic() - started, f"the weights of the samples after epoch {self.pending.epoch}"
            if answer is not None:
                if self.weighing.lag and waited > LATE_S:
                    self.said.append(f"{what} were late: the trainer waited {waited:.1f} s")
                return answer
            self.aide.drop()
            limit = f" within {wait_s:g} s (resources.influence_wait_s)" if waited >= wait_s else ""
            self.said.append(f"{what} did not come{limit}, so the worker computed them itself")
        return compute_sample_weights(self.pending, self.context.device, self._alive)

    def _alive(self) -> None:
        """A sign of life; Stopped where somebody asked for the end of the trial meanwhile."""
        self.context.alive()
        if self.context.asked_to_stop():
            raise Stopped


def _below(prefix: str, tensors: State) -> State:
    return {name.removeprefix(prefix): value.cpu() for name, value in tensors.items() if name.startswith(prefix)}


def _copied(state: State) -> State:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
