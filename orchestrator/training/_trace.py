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
        self.steps: list[dict[str, Tensor]] = []  # the terms of each step of the epoch

    def step(self, terms: dict[str, Tensor]) -> None:
        """Add the detached scalars of a step."""
        self.steps.append(terms)

    def values(self) -> dict[str, Tensor]:
        """Return each term on the steps of the epoch that have it, (steps,) float32."""
        names = dict.fromkeys(name for terms in self.steps for name in terms)
        return {
            name: torch.stack([terms[name] for terms in self.steps if name in terms]).float()
            for name in names
        }

    def sums(self) -> dict[str, Tensor]:
        """Return the sum of each term over the steps of the epoch, float32."""
        return {name: values.sum() for name, values in self.values().items()}

    def end_epoch(self, epoch: int, arrays: State) -> None:
        """Close an epoch, counted from 0: thin its steps, and store a row of each of `arrays`."""
        points = min(POINTS, len(self.steps))
        for name, values in self.values().items():
            chunks = min(points, len(values))
            self._append(f"steps/{name}", _chunk_means(values.cpu(), chunks))
        if points:
            self._append("steps/epoch", epoch + (torch.arange(points) + 0.5) / points)
        for name, row in arrays.items():
            self._append(f"epochs/{name}", row.detach().float().cpu().clone()[None])
        self.steps = []

    def _append(self, name: str, values: Tensor) -> None:
        self.state[name] = torch.cat([self.state[name], values]) if name in self.state else values


def _chunk_means(values: Tensor, chunks: int) -> Tensor:
    """Return the means (chunks,) of consecutive chunks of (n,), the first ones one value longer."""
    size, longer = divmod(len(values), chunks)
    first, last = values.tensor_split([longer * (size + 1)])
    return torch.cat([first.view(longer, size + 1).mean(dim=1), last.view(-1, size).mean(dim=1)])
