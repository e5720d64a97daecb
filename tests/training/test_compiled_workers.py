"""Test `training.compile: step` with several workers (gloo): they train as uncompiled ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from trials_run import add_teacher, left, specification, untimed

from orchestrator.cluster._pair import Pair
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.training._trainer import train
from tests.process_group import on_every_rank

COMMON = (
    "data.limit.train=128",
    "data.limit.validation=50",
    "data.limit.test=50",
    "data.augmentation=none",
    "training.epochs=2",
    "training.batch_size=32",
    "student={name: cnn, width: 4}",
)
TRIALS = {
    "mean-over-ranks": ("method.name=akd",),
    "unlabelled": ("method.name=kd", "data.labelled=60", "training.sync_batch_norm=true"),
    "pair": ("method.name=dual_student", "peers.b.network={name: mlp, width: 6}"),
}


def trained(rank: int, world_size: int, root: str, names: list[str]) -> list[EpochRecord]:
    """Return the records of the trials that this rank reported, in order."""
    records: list[Any] = []
    compile_ = torch.compile

    def traced(function: Any, *, dynamic: bool | None = None, **_: Any) -> Any:
        return compile_(function, dynamic=dynamic, backend="eager")

    torch.compile = traced  # type: ignore[assignment]
    for name in names:
        compiled, _, trial = name.partition("-")
        spec = specification(
            Path(root), name, *COMMON, *TRIALS[trial], f"training.compile={compiled}"
        )
        context = TrialContext(rank, world_size, torch.device("cpu"), records.append, pair=Pair)
        train(spec, context)
    return records


def test_workers_with_a_compiled_step_train_as_uncompiled_ones(tmp_path: Path) -> None:
    add_teacher(specification(tmp_path, "teacher", *COMMON))
    names = [f"{compiled}-{trial}" for trial in TRIALS for compiled in ("false", "step")]
    records, others = on_every_rank(2, trained, str(tmp_path), names)
    assert not others and len(records) == 2 * len(names)
    for number, trial in enumerate(TRIALS):
        plain, fast = records[4 * number : 4 * number + 2], records[4 * number + 2 :][:2]
        for one, other in zip(fast, plain, strict=True):
            assert untimed(one.metrics) == pytest.approx(
                untimed(other.metrics), rel=1e-5, abs=1e-6, nan_ok=True
            )
        states = [
            left(specification(tmp_path, f"{compiled}-{trial}", *COMMON))
            for compiled in ("step", "false")
        ]
        assert len(states[0]) > 4
        for name, value in states[1].items():
            torch.testing.assert_close(
                states[0][name], value, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name
            )
