"""The methods as a person reads them: provenance, settings with defaults and documentation, and what is searched."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from methods import METHODS, allowed
from search_spaces import SPACES


def print_methods(console: Console) -> None:
    """Every method with its settings and its search space."""
    for name, method in METHODS.items():
        console.print(f"[bold]{name}[/bold]  {method.provenance}", highlight=False, soft_wrap=True)
        for item in dataclasses.fields(method.Settings):
            line = f"  {item.name} = {item.default} ({allowed(item)}): {item.metadata['doc']}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        searched = "; ".join(_questions(name)) or "nothing"
        console.print(f"  searched: {searched}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"  first tried: {'; '.join(map(_point, SPACES[name].points))}\n", markup=False, highlight=False, soft_wrap=True
        )


def _point(point: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in point.items())


def _questions(name: str) -> list[str]:
    """Every question of a space once; one that comes only after certain answers says after which."""
    runs: list[_Listing] = []
    ahead: list[dict[str, Any]] = [{}]
    while ahead:
        runs.append(_Listing(ahead.pop()))
        SPACES[name].suggest(runs[-1])
        ahead += runs[-1].others
    questions = dict.fromkeys(question for run in runs for question in run.questions)
    return [f"{question}{_condition(question, runs)}" for question in questions]


def _condition(question: str, runs: "list[_Listing]") -> str:
    """` if cam = True`: the answers without which the question does not come."""
    where = [run.answers for run in runs if question in run.questions]
    needed: list[str] = []
    for name in where[0]:
        given = {answers[name]: None for answers in where if name in answers}
        everywhere = {run.answers[name] for run in runs if name in run.answers}
        if len(given) < len(everywhere) and all(name in answers for answers in where):
            needed.append(f"{name} = {' or '.join(map(str, given))}")
    return f" if {' and '.join(needed)}" if needed else ""


class _Listing:
    """A trial that notes what it is asked; it gives the `answers` that it holds, else the first choice, and notes the others."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = dict(answers)
        self.others: list[dict[str, Any]] = []
        self.questions: list[str] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        """Note a range."""
        self.questions.append(f"{name} in [{low:g}, {high:g}]{' on a log scale' if log else ''}")
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        """Note a range."""
        return int(self.suggest_float(name, low, high, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Note the choices, where there is one to make."""
        if len(choices) == 1:
            return choices[0]
        self.questions.append(f"{name} one of {', '.join(map(str, choices))}")
        if name not in self.answers:
            self.others += [{**self.answers, name: choice} for choice in choices[1:]]
            self.answers[name] = choices[0]
        return self.answers[name]
