"""Provide metrics of a trial with two students, and methods that need them."""

import pytest

from methods import METHODS
from methods.kd import KD
from methods.kd_aif import KDAIF
from search_spaces import SPACES


def metrics_of(
    a: tuple[float, float], b: tuple[float, float], epoch: float = 2.0
) -> dict[str, float]:
    """Return last-epoch metrics of two students with accuracies (validation, test).

    The trial has the students' means.
    """
    metrics = {
        "pair/agreement": 0.9,
        "seconds/epoch": 1.0,
        "parameters": 300.0,
        "a/parameters": 100.0,
        "b/parameters": 200.0,
    }
    for place, name in enumerate(("validation/accuracy", "test/last/accuracy")):
        metrics |= {f"a/{name}": a[place], f"b/{name}": b[place], name: (a[place] + b[place]) / 2}
    for letter, own in (("a", a), ("b", b)):
        metrics |= {f"{letter}/test/best/accuracy": own[1] - 0.01, f"{letter}/best_epoch": epoch}
    return metrics


class PeerKD(KD):
    """KD whose students are declared to use peers."""

    uses_peers = True
    updates_alternately = False


def peer_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a method `mutual` for the duration of a test."""
    monkeypatch.setitem(METHODS, "mutual", PeerKD)
    monkeypatch.setitem(SPACES, "mutual", SPACES["kd"])


class WeightingMethod(KDAIF):
    """KD-AIF under another name: the plan treats all methods with sample weights alike."""


def weighing_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a method `weighing` for the duration of a test."""
    monkeypatch.setitem(METHODS, "weighing", WeightingMethod)
    monkeypatch.setitem(SPACES, "weighing", SPACES["kd_aif"])
