"""Test that no two purposes draw the same random numbers."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from orchestrator.data._streams import Stream, open_stream
from orchestrator.data._transforms import STREAMS
from orchestrator.data.class_balance import draw_balanced


def test_purposes_and_items_have_distinct_streams() -> None:
    shared = {name for name, stream in Stream.__members__.items() if name != stream.name}
    assert shared == {"MIXING"}
    keys = [(stream, item) for stream in Stream for item in (None, 0, 1, 2)]
    numbers = [int(open_stream(3, 5, *key).integers(2**62)) for key in keys]
    crops = int(np.random.default_rng([3, 5]).integers(2**62))
    assert len({crops, *numbers}) == len(keys) + 1
    assert len(set(STREAMS.values())) == len(STREAMS)


def test_balanced_draws_open_each_stream_once(monkeypatch: pytest.MonkeyPatch) -> None:
    states, create = Counter[str](), np.random.default_rng

    def record(seed: Any) -> np.random.Generator:
        generator = create(seed)
        states[str(generator.bit_generator.state)] += 1
        return generator

    monkeypatch.setattr(np.random, "default_rng", record)
    draw_balanced(np.arange(9) % 3, 9, epoch=1, seed=0)  # round 1 of each class
    assert len(states) == states.total() == 1 + 3
