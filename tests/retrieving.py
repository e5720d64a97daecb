"""Define a retrieval method for tests of checks and plans; its needs follow from its bank."""

from typing import Literal

import pytest
from pydantic import Field

from methods import METHODS, Batch, Knowledge, Method, Needs, Objective, Settings, SettingsError
from methods.bank_plan import BankPlan
from search_spaces import SPACES
from search_spaces.space import Space, Trial


class RetrievingSettings(Settings):
    """Source of the bank, and the number of retrieved samples."""

    paradigm: Literal["offline", "online", "teacher_free"] = Field(
        "offline", description="Source of the bank."
    )
    positives: int = Field(8, description="Number of retrieved samples of the same class.", ge=0)
    negatives: int = Field(32, description="Number of retrieved samples of other classes.", ge=0)
    first: int = Field(1, description="Epochs before the first bank.", ge=1)
    queue: int = Field(0, description="Number of samples that can be retrieved.", ge=0)


class Retrieving(Method):
    """Cross entropy that declares retrieval."""

    Settings = RetrievingSettings
    settings: RetrievingSettings
    needs = Needs(teacher=True)
    updates_alternately = False
    neighbours = None

    def __init__(self, settings: RetrievingSettings) -> None:
        super().__init__(settings)
        self.needs = Needs(teacher=settings.paradigm == "offline")

    @property
    def uses_peers(self) -> bool:
        """Return whether the peers fill the bank."""
        return self.settings.paradigm == "online"

    def bank_plan(self, epochs: int) -> BankPlan:
        """Return the plan of the teacher's bank, or of one that students fill."""
        chosen = self.settings
        retrieved = (chosen.positives, chosen.negatives)
        if chosen.paradigm == "offline":
            return BankPlan("teacher", *retrieved)
        if chosen.first >= epochs:
            raise SettingsError(
                f"first = {chosen.first} leaves no epoch of {epochs} with a bank: lower it", "first"
            )
        source = "peers" if self.uses_peers else "own"
        return BankPlan(source, *retrieved, queue=chosen.queue, first=chosen.first)  # type: ignore[arg-type]

    def update_bank(self, knowledge: Knowledge) -> None:
        """Ignore the bank."""

    def forward(self, batch: Batch) -> Objective:
        """Return the cross entropy; no test uses its value."""
        return Objective(batch.cross_entropy())


def _space(trial: Trial) -> None:
    trial.suggest_categorical("paradigm", ["offline", "online", "teacher_free"])
    trial.suggest_categorical("positives", [4, 8])
    trial.suggest_categorical("negatives", [32])


def retrieving_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a method `retrieving` for the duration of a test."""
    monkeypatch.setitem(METHODS, "retrieving", Retrieving)
    monkeypatch.setitem(SPACES, "retrieving", Space((), _space))
