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
    listing = _Listing()
    SPACES[name].suggest(listing)
    return listing.questions


class _Listing:
    """A trial that notes what it is asked."""

    def __init__(self) -> None:
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
        if len(choices) > 1:
            self.questions.append(f"{name} one of {', '.join(map(str, choices))}")
        return choices[0]
