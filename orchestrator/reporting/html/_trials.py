"""Render the tables of trials: the best ones, and the failed ones with reasons."""

from typing import Any

from orchestrator.reporting.html import page
from orchestrator.reporting.html._sweep_view import Facts, measure
from orchestrator.reporting.html.page import Cell
from orchestrator.store.records import Trial

BEST = 20  # trials in the table
FAILED = 20  # failed trials whose message is shown
TESTED = ("accuracy", "nll", "ece")  # on the test part, with the weights best on validation
COSTS = ("seconds/epoch", "parameters")


def trials(facts: Facts) -> str:
    """Return both tables, and the number of trials that have not ended."""
    ranked = {trial.number for trial in facts.sweep.ranked()}
    others = [trial for trial in facts.trials if trial.number not in ranked]
    failed = [trial for trial in others if trial.state == "failed"]
    waiting = len(others) - len(failed)
    said = page.paragraph(f"{waiting} have not ended.") if waiting else ""
    return _best(facts, len(ranked)) + _failed(facts, failed) + said or page.paragraph(
        "There is no trial yet."
    )


def _best(facts: Facts, ranked: int) -> str:
    shown, best = facts.shown(BEST), facts.sweep.best()
    if not shown:
        return ""
    head = [
        "trial",
        "method",
        "state",
        facts.objective,
        "epochs",
        *(f"test {name}" for name in TESTED),
        *COSTS,
        "settings",
    ]
    which = (
        f"The best {BEST} and the best of every method, of {ranked}"
        if len(shown) < ranked
        else "All"
    )
    said = (
        f"{which} that can be ranked, complete trials first. Test numbers are of the "
        f"weights that were best on validation."
    )
    place = next((place for place, trial in enumerate(shown) if trial is best), None)
    return page.table(head, [_row(facts, trial) for trial in shown], place) + page.paragraph(
        said, "muted"
    )


def _row(facts: Facts, trial: Trial) -> list[Any]:
    tested = [measure(trial, f"test/best/{name}") for name in TESTED]
    words = "; ".join(part for part in (facts.settings(trial), trial.remarks) if part)
    return [
        trial.number,
        facts.method(trial),
        trial.state.replace("_", " "),
        "" if trial.value is None else f"{trial.value:.4f}",
        trial.epochs,
        *("" if value is None else f"{value:.4f}" for value in tested),
        *(measure(trial, name) for name in COSTS),
        Cell(words, words=True),
    ]


def _failed(facts: Facts, failed: list[Trial]) -> str:
    if not failed:
        return ""
    rows = [
        [
            trial.number,
            facts.method(trial),
            trial.epochs,
            Cell(trial.remarks, words=True),
            Cell(facts.settings(trial), words=True),
        ]
        for trial in failed[:FAILED]
    ]
    first = f", the first {FAILED}" if len(failed) > FAILED else ""
    return f"<h3>{len(failed)} failed{first}</h3>" + page.table(
        ["trial", "method", "epochs", "why", "settings"], rows
    )
