"""What tests of records, display, tracking and plans share: metrics as a trial of two students reports them, and methods."""

import pytest

from methods import METHODS, Needs
from methods.kd import KD
from methods.kd_aif import KDAIF
from search_spaces import SPACES


def metrics_of(a: tuple[float, float], b: tuple[float, float], epoch: float = 2.0) -> dict[str, float]:
    """Of the last epoch of a pair, of which each student has an accuracy (validation, test); the trial has their mean."""
    metrics = {"pair/agreement": 0.9, "seconds/epoch": 1.0, "parameters": 300.0, "a/parameters": 100.0, "b/parameters": 200.0}
    for place, name in enumerate(("validation/accuracy", "test/last/accuracy")):
        metrics |= {f"a/{name}": a[place], f"b/{name}": b[place], name: (a[place] + b[place]) / 2}
    for letter, own in (("a", a), ("b", b)):
        metrics |= {f"{letter}/test/best/accuracy": own[1] - 0.01, f"{letter}/best_epoch": epoch}
    return metrics


class Mutual(KD):
    """KD whose students are said to hear one another."""

    needs = Needs(teacher=True, peer=True)


def peer_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a method `mutual` into the lists for as long as a test."""
    monkeypatch.setitem(METHODS, "mutual", Mutual)
    monkeypatch.setitem(SPACES, "mutual", SPACES["kd"])


class Weighing(KDAIF):
    """KD-AIF under another name: what the plan says of it is said of whoever weighs samples."""


def weighing_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a method `weighing` into the lists for as long as a test."""
    monkeypatch.setitem(METHODS, "weighing", Weighing)
    monkeypatch.setitem(SPACES, "weighing", SPACES["kd_aif"])
