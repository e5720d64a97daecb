"""Record the terms and arrays of a method during training, for the figures of the trial.

A trace is plain tensors: `steps/epoch` (N,) and `steps/<term>` (N,), with at most `POINTS` means
per epoch; `epochs/<name>` (E, ...).
"""

import torch
from torch import Tensor

State = dict[str, Tensor]
POINTS = 32  # per epoch: enough for a figure, and the checkpoint stays small


class Trace:
    """The terms of every step, collected without waiting for the device.

    Once per epoch they are thinned and moved to the CPU.
    """

    def __init__(self, state: State | None = None) -> None:
        self.state: State = dict(state or {})
        self.terms: dict[str, list[Tensor]] = {}

    def step(self, terms: dict[str, Tensor]) -> None:
        """Add the detached scalars of a step."""
        for name, value in terms.items():
            self.terms.setdefault(name, []).append(value)

    def sums(self) -> dict[str, Tensor]:
        """Return the sum of each term over the steps of the epoch, float32."""
        return {name: torch.stack(values).float().sum() for name, values in self.terms.items()}

    def end_epoch(self, epoch: int, arrays: State) -> None:
        """Close an epoch, counted from 0: thin its steps, and store a row of each of `arrays`."""
        for name, values in self.terms.items():
            points = torch.stack(values).float().cpu()
            if len(values) > POINTS:
                points = torch.stack([chunk.mean() for chunk in points.tensor_split(POINTS)])
            self._append(f"steps/{name}", points)
        if self.terms:
            count = min(POINTS, len(next(iter(self.terms.values()))))
            self._append("steps/epoch", epoch + (torch.arange(count) + 0.5) / count)
        for name, row in arrays.items():
            self._append(f"epochs/{name}", row.detach().float().cpu()[None])
        self.terms = {}

    def _append(self, name: str, values: Tensor) -> None:
        self.state[name] = torch.cat([self.state[name], values]) if name in self.state else values
