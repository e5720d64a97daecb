"""Runs a trial in this process, to its end or until its worker dies, and reads what it saved. Knows no test."""

import copy

import pytest
import torch

from orchestrator.context import Record, TrialContext
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.trainer import train
from orchestrator.trial import TrialSpec


class Interrupted(Exception):
    """The worker dies after an epoch."""


def records_of(spec: TrialSpec, dies_after: int | None = None) -> list[Record]:
    """The records of a trial; `dies_after` an epoch its worker dies."""
    records: list[Record] = []

    def report(record: Record) -> None:
        records.append(copy.deepcopy(record))
        if record["epoch"] == dies_after:
            raise Interrupted

    if dies_after is None:
        train(spec, TrialContext(report=report))
    else:
        with pytest.raises(Interrupted):
            train(spec, TrialContext(report=report))
    return records


def saved(spec: TrialSpec, letter: str = "a") -> Checkpoint:
    """The trial's checkpoint of one of its students."""
    loaded = checkpoint.load(spec.folder, letter, torch.device("cpu"))
    assert loaded is not None
    return loaded[letter]
