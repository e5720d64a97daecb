"""Run the conformance checks of every method in METHODS, and test that they detect errors."""

from typing import Any

import pytest
from pydantic import Field
from torch import Tensor

from methods import (
    METHODS,
    Batch,
    CrossEntropy,
    Method,
    Needs,
    Objective,
    Progress,
    Settings,
    build_method,
)
from orchestrator.extensions._checking import CheckError
from orchestrator.extensions.method_checks import method_checks
from search_spaces import SPACES, Space, Trial

every_method = pytest.mark.parametrize("name", METHODS)


@pytest.mark.parametrize(
    ("name", "check"), [(name, check) for name in METHODS for check in method_checks(name)]
)
def test_method_passes_the_check(name: str, check: str) -> None:
    method_checks(name)[check]()


@every_method
def test_provenance_is_documented(name: str) -> None:
    assert METHODS[name].provenance
    assert METHODS[name].__doc__


@every_method
def test_terms_are_tracked(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    assert method(make_batch(method)).terms


def test_part_of_a_capability_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Partial(CrossEntropy):
        def class_weights(self, batch: Batch) -> None:
            return None

    monkeypatch.setitem(METHODS, "partial", Partial)
    with pytest.raises(TypeError, match="part of Plots: add class_distributions"):
        build_method("partial", {})


class _Undocumented(Settings):
    share: float = 0.5


class _Documented(Settings):
    share: float = Field(0.5, description="Share of the soft term.", ge=0, le=1)


class _Faulty(Method):
    """Method with an error that one check detects."""

    def forward(self, batch: Batch) -> Objective:
        return Objective(self.loss(batch))

    def loss(self, batch: Batch) -> Tensor:
        return batch.cross_entropy()


class _WithoutDescription(_Faulty):
    Settings = _Undocumented


class _Constant(_Faulty):
    def loss(self, batch: Batch) -> Tensor:
        return batch.student.features.sum() * 0 + batch.student.logits.sum() * 0


class _Overflowing(_Faulty):
    def loss(self, batch: Batch) -> Tensor:
        return batch.cross_entropy() + batch.student.logits.exp().mean()


class _Attached(_Faulty):
    def forward(self, batch: Batch) -> Objective:
        loss = batch.cross_entropy()
        return Objective(loss, {"loss": loss})


class _InHalfPrecision(_Faulty):
    def loss(self, batch: Batch) -> Tensor:
        return batch.student.logits.logsumexp(1).mean().to(batch.student.logits.dtype)


class _Ordered(_Faulty):
    def loss(self, batch: Batch) -> Tensor:
        return batch.cross_entropies()[0]


class _Drawing(_Faulty):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.draws = next(_numbers)

    def loss(self, batch: Batch) -> Tensor:
        return batch.cross_entropy() * self.draws


_numbers = iter(range(1, 100))


class _WithUnlabelled(_Faulty):
    def loss(self, batch: Batch) -> Tensor:
        return batch.cross_entropy() / (batch.labels >= 0).sum()


class _TeacherGradient(_Faulty):
    needs = Needs(teacher=True)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.teacher is not None
        return (batch.student.logits - batch.teacher.logits).square().mean()


class _UnusedTeacher(_Faulty):
    needs = Needs(teacher=True)


class _NotFinite(_Faulty):
    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        return {"value": float("nan")}


class _WithShare(_Faulty):
    Settings = _Documented


def _too_wide(trial: Trial) -> None:
    trial.suggest_float("share", 0.0, 2.0)


@pytest.mark.parametrize(
    ("kind", "check", "problem"),
    [
        (_WithoutDescription, "settings", "share has no description"),
        (_Constant, "loss", "does not depend on"),
        (_Attached, "terms", "has a gradient"),
        (_InHalfPrecision, "half precision", "compute it in float32"),
        (_Overflowing, "extreme logits", "inf"),
        (_Ordered, "batch order", "order of the batch"),
        (_Drawing, "repeatability", "different losses"),
        (_WithUnlabelled, "unlabelled samples", "0 of 8 labels"),
        (_TeacherGradient, "teacher", "the teacher gets a gradient"),
        (_UnusedTeacher, "teacher", "does not use it"),
        (_NotFinite, "end of epoch", "value = nan"),
        (_WithShare, "search space", "a draw of its search space is refused"),
        (_WithShare, "points", "point 1 is refused"),
    ],
)
def test_check_detects_an_error(
    kind: type[Method], check: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "faulty", kind)
    monkeypatch.setitem(SPACES, "faulty", Space(({"share": 2.0},), _too_wide))
    with pytest.raises(CheckError, match=problem):
        method_checks("faulty")[check]()
