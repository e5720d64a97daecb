"""Seed the random numbers of a training per purpose and epoch, separately for each student."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_NOTHING = contextlib.nullcontext()


def seed_everything(*parts: int) -> None:
    """Seed torch from several numbers: the CPU, and the GPUs if this process uses any."""
    seed = int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
    torch.default_generator.manual_seed(seed)
    # without it, `torch.manual_seed` would format the stack at each call
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


class Draws:
    """The random state of one student.

    `is_separate` states that other students of the process draw in between.
    """

    def __init__(self, device: torch.device, is_separate: bool) -> None:
        self.device, self.is_separate = device, is_separate
        self.state = self._current_state()

    def seed(self, *parts: int) -> None:
        """Seed the random numbers of this student."""
        seed_everything(*parts)
        self.state = self._current_state()

    def continue_sequence(self) -> contextlib.AbstractContextManager[None]:
        """Continue this student's random sequence within the block."""
        return self._switch_state() if self.is_separate else _NOTHING

    @contextlib.contextmanager
    def _switch_state(self) -> Iterator[None]:
        torch.set_rng_state(self.state[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.state[1], self.device)
        yield
        self.state = self._current_state()

    @contextlib.contextmanager
    def preserve_state(self) -> Iterator[None]:
        """Draw within the block, and restore the random state afterwards."""
        with (
            self.continue_sequence(),
            torch.random.fork_rng([self.device] if self.device.type == "cuda" else []),
        ):
            yield

    def _current_state(self) -> list[Tensor]:
        if not self.is_separate:
            return []
        return [
            torch.get_rng_state(),
            *([torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []),
        ]
