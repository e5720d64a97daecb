"""Render the tables of trials: the best ones, and the failed ones with reasons."""

from typing import Any

from orchestrator.reporting.html import page
from orchestrator.reporting.html._sweep_view import SweepView, measure
from orchestrator.reporting.html.page import Cell
from orchestrator.store.records import Trial

BEST = 20  # trials in the table
FAILED = 20  # failed trials whose message is shown
TESTED = ("accuracy", "nll", "ece")  # on the test part, with the weights best on validation
COSTS = ("seconds/epoch", "parameters")


def trials(view: SweepView) -> str:
    """Return both tables, and the number of trials that have not ended."""
    ranked = {trial.number for trial in view.sweep.ranked()}
    unranked = [trial for trial in view.trials if trial.number not in ranked]
    failed = [trial for trial in unranked if trial.state == "failed"]
    waiting = len(unranked) - len(failed)
    note = page.paragraph(f"{waiting} trials have not ended.") if waiting else ""
    return _best(view, len(ranked)) + _failed(view, failed) + note or page.paragraph(
        "There are no trials yet."
    )


def _best(view: SweepView, ranked: int) -> str:
    shown, best = view.shown(BEST), view.sweep.best()
    if not shown:
        return ""
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
    shown_trials = (
        f"The best {BEST} and the best of every method, of {ranked} ranked trials"
        if len(shown) < ranked
        else "All ranked trials"
    )
    note = (
        f"{shown_trials}, complete trials first. Test metrics use the weights that were best on "
        f"validation."
    )
    place = next((place for place, trial in enumerate(shown) if trial is best), None)
    return page.table(head, [_row(view, trial) for trial in shown], place) + page.paragraph(
        note, "muted"
    )


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


def _failed(view: SweepView, failed: list[Trial]) -> str:
    if not failed:
        return ""
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
    first = f" (the first {FAILED})" if len(failed) > FAILED else ""
    return f"<h3>{len(failed)} failed trials{first}</h3>" + page.table(
        ["trial", "method", "epochs", "reason", "settings"], rows
    )
