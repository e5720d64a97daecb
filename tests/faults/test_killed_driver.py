"""SIGKILL of the driver at any moment, then `sweep --resume`: the sweep ends as one that nobody killed, to the bit."""

import random
import time
from pathlib import Path

import pytest

from orchestrator.records import Sweep
from tests.faults.broken import Life, begun, check_all, reached, resumed
from tests.faults.conftest import WHOLE, Tell

KILLS = 10
STEPS = ("starting Ray", "worker groups", "bringing the teacher")


def a_moment(life: Life, seconds: float) -> None:
    """Let so much of its life pass."""
    until = time.monotonic() + seconds
    life.until(lambda: time.monotonic() >= until, "the moment")


@pytest.mark.faults
@pytest.mark.parametrize("seed", [0])
def test_a_sweep_whose_driver_is_killed_ten_times(seed: int, whole: Sweep, tmp_path: Path, tell: Tell) -> None:
    """Twice while it starts and eight times while trials train, each a random moment after an epoch was recorded."""
    draw, store = random.Random(seed), tmp_path / "store"
    total = sum(trial.epochs for trial in whole.trials.values())
    with begun(store, *WHOLE) as life:
        step = draw.choice(STEPS)
        life.until(lambda: step in life.said, step)
        a_moment(life, draw.uniform(0.0, 2.0))
        life.kill()
    for count in [0, *sorted(draw.sample(range(1, total - total // 8), KILLS - 2))]:
        with resumed(store) as life:
            life.until(reached(store, count), f"epoch {count}")
            a_moment(life, draw.uniform(0.0, 0.3 if count else 8.0))
            life.kill()
    with resumed(store) as life:
        assert life.ended() == 0, life.said
    check_all(store, whole)
    tell("SIGKILL of the driver, then `--resume`", f"{KILLS} times in one sweep", len(whole.trials))
