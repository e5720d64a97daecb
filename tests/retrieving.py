"""Define a retrieval method for tests of checks and plans; its needs follow from its bank."""

from dataclasses import dataclass

import pytest

from methods import METHODS, Batch, Method, Needs, Objective, Settings, SettingsError, setting
from methods.bank_schedule import BankSchedule
from search_spaces import SPACES
from search_spaces.space import Space, Trial


@dataclass(frozen=True)
class RetrievingSettings(Settings):
    """Source of the bank, and the number of retrieved samples."""

    paradigm: str = setting(
        "offline", "Source of the bank.", choices=("offline", "online", "teacher_free")
    )
    positives: int = setting(8, "Number of retrieved samples of the same class.", low=0)
    negatives: int = setting(32, "Number of retrieved samples of other classes.", low=0)
    first: int = setting(1, "Epochs before the first bank.", low=1)
    queue: int = setting(0, "Number of samples that can be retrieved.", low=0)


class Retrieving(Method):
    """Cross entropy that declares retrieval."""

    Settings = RetrievingSettings
    settings: RetrievingSettings
    needs = Needs(teacher=True, bank=True)

    def __init__(self, settings: RetrievingSettings) -> None:
        super().__init__(settings)
        needs = {
            "offline": Needs(teacher=True, bank=True),
            "online": Needs(peer=True),
            "teacher_free": Needs(),
        }
        self.needs = needs[settings.paradigm]

    def bank_schedule(self, epochs: int) -> BankSchedule | None:
        """Return the schedule of the students' own bank, or None for a frozen teacher."""
        if self.needs.bank:
            return None
        if self.settings.first >= epochs:
            raise SettingsError(
                f"first = {self.settings.first} leaves no epoch of {epochs} with a bank: lower it",
                "first",
            )
        return BankSchedule(
            "peers" if self.needs.peer else "own",
            "epoch",
            0.0,
            self.settings.queue,
            self.settings.first,
        )

    @property
    def num_neighbors(self) -> tuple[int, int]:
        """Return the configured numbers of positives and negatives."""
        return self.settings.positives, self.settings.negatives

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
