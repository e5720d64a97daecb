"""List all branches of a conditional search space, given the frozen values."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.trial import Parameters
from search_spaces import SPACES, Trial

Domain = Sequence[Any] | None
"""The values that a parameter may have; None for a continuum."""


@dataclass
class SpaceBranch:
    """Branch of a space, recorded as a trial.

    `chosen` are the values of its choices; the other parameters are recorded as suggested.
    `domains` are the values of each parameter in this branch. `values` are those of a trial of this
    branch at the low end of all its ranges, including the frozen values. `recorded` are the names
    of parameters that are recorded even if they have a single choice.
    """

    frozen: Mapping[str, Any]
    chosen: Parameters = field(default_factory=dict)
    choices: dict[str, Sequence[Any]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float, bool]] = field(default_factory=dict)
    continuous: list[str] = field(default_factory=list)
    domains: dict[str, Domain] = field(default_factory=dict)
    values: Parameters = field(default_factory=dict)
    alternatives: list[Parameters] = field(default_factory=list)
    steps: dict[str, float] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """Record a continuous parameter."""
        if name not in self.frozen:
            self.continuous.append(name)
            self.steps |= {name: step} if step else {}
            steps = math.floor((high - low) / step + 1e-9) if step else 0
            self.domains[name] = (
                None
                if step is None and low < high
                else [low + index * (step or 0) for index in range(steps + 1)]
            )
        return float(self._low(name, low, high, log))

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        """Record an integer parameter."""
        if name not in self.frozen:
            self.domains[name] = range(low, high + 1, step)
            self.steps |= {name: step} if step > 1 else {}
        return int(self._low(name, low, high, log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Record a choice of two or more values.

        Each other value becomes a branch of its own.
        """
        if name not in self.frozen and (len(choices) > 1 or name in self.recorded):
            self.choices[name] = choices
            if name not in self.chosen:
                self.alternatives += [{**self.chosen, name: choice} for choice in choices[1:]]
                self.chosen[name] = choices[0]
            self.domains[name] = (self.chosen[name],)
        self.values[name] = self.frozen.get(name, self.chosen.get(name, choices[0]))
        return self.values[name]

    def _low(self, name: str, low: float, high: float, log: bool) -> float:
        if name not in self.frozen:
            self.ranges[name] = (low, high, log)
        self.values[name] = self.frozen.get(name, low)
        return float(self.values[name])


def list_branches(
    method: str,
    frozen: Mapping[str, Any],
    suggest: Callable[[Trial], None] | None = None,
    recorded: frozenset[str] = frozenset(),
) -> list[SpaceBranch]:
    """Return all branches of the space of a method.

    Args:
        method: The name of the method.
        frozen: The frozen values.
        suggest: The function that draws from the space; None for that of the method.
        recorded: The names of parameters that are recorded even with a single choice.
    """
    return list(iterate_branches(suggest or SPACES[method].suggest, frozen, recorded))


def iterate_branches(
    suggest: Callable[[Trial], None], frozen: Mapping[str, Any], recorded: frozenset[str]
) -> Iterator[SpaceBranch]:
    """Yield all branches of a space, with the arguments of `list_branches`."""
    pending: list[Parameters] = [{}]
    while pending:
        branch = SpaceBranch(frozen, pending.pop(0), recorded=recorded)
        suggest(branch)
        pending += branch.alternatives
        yield branch
