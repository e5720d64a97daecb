"""Make the tables of trials: the best ones, and the failed ones with reasons."""

from dataclasses import dataclass
from typing import Any

from orchestrator.reporting.html._sweep_view import SweepView, measure
from orchestrator.reporting.html.page import Cell, Table
from orchestrator.store.records import Trial

BEST = 20  # trials in the table
FAILED = 20  # failed trials whose message is shown
TESTED = ("accuracy", "nll", "ece")  # on the test part, with the weights best on validation
COSTS = ("seconds/epoch", "parameters")


@dataclass(frozen=True)
class Trials:
    """Tables of the best and of the failed trials; None without such trials.

    `failures` is the number of all failed trials, and `waiting` that of trials that have not ended.
    """

    best: Table | None
    note: str
    failed: Table | None
    failures: int
    waiting: int


def trials(view: SweepView) -> Trials:
    """Return both tables, and the number of trials that have not ended."""
    ranked = {trial.number for trial in view.sweep.ranked()}
    unranked = [trial for trial in view.trials if trial.number not in ranked]
    failed = [trial for trial in unranked if trial.state == "failed"]
    shown = view.shown(BEST)
    if len(shown) < len(ranked):
        which = f"The best {BEST} and the best of every method, of {len(ranked)} ranked trials"
    else:
        which = "All ranked trials"
    note = (
        f"{which}, complete trials first. Test metrics use the weights that were best on "
        f"validation."
    )
    waiting = len(unranked) - len(failed)
    return Trials(_best(view, shown), note, _failed(view, failed), len(failed), waiting)


def _best(view: SweepView, shown: list[Trial]) -> Table | None:
    head = [
        "trial",
        "method",
        "state",
        view.objective,
        "epochs",
        *(f"test {name}" for name in TESTED),
        *COSTS,
        "settings",
    ]
    best = view.sweep.best()
    place = next((place for place, trial in enumerate(shown) if trial is best), None)
    return Table(head, [_row(view, trial) for trial in shown], place) if shown else None


def _row(view: SweepView, trial: Trial) -> list[Any]:
    tested = [measure(trial, f"test/best/{name}") for name in TESTED]
    words = "; ".join(part for part in (view.settings(trial), trial.remarks) if part)
    return [
        trial.number,
        view.method(trial),
        trial.state.replace("_", " "),
        "" if trial.value is None else f"{trial.value:.4f}",
        trial.epochs,
        *("" if value is None else f"{value:.4f}" for value in tested),
        *(measure(trial, name) for name in COSTS),
        Cell(words, words=True),
    ]


def _failed(view: SweepView, failed: list[Trial]) -> Table | None:
    rows = [
        [
            trial.number,
            view.method(trial),
            trial.epochs,
            Cell(trial.remarks, words=True),
            Cell(view.settings(trial), words=True),
        ]
        for trial in failed[:FAILED]
    ]
    return Table(["trial", "method", "epochs", "reason", "settings"], rows) if rows else None
