"""Continue a sweep that began without Ray with Ray, and the other way round."""

from pathlib import Path

import pytest

from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.driver import run_sweep
from tests.faults.broken import check_study, compare
from tests.sweep.test_local_sweep import RANDOM, interrupt_after
from tests.sweep_runs import prepare_here, run_small

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SETTINGS = (
    *RANDOM,
    "training.epochs=6",
    "search.scheduler=none",
    "resources.groups=1",
    "search.keep_checkpoints=1",
)


def test_a_sweep_changes_between_ray_and_local_processes(tmp_path: Path, own_ray: None) -> None:
    whole = run_small(tmp_path / "whole", *SETTINGS, local=1)
    sweep = run_small(tmp_path / "parts", *SETTINGS, local=1, watch=interrupt_after(8))
    for local, epochs in ((0, 8), (1, 1000)):
        assert sweep.state == "interrupted"
        store = Store.open(tmp_path / "parts")
        opened = Sweep.open(store, sweep.name)
        prepared = prepare_here(store, opened.configuration, "sweep", local)
        run_sweep(
            opened,
            store,
            prepared.data,
            prepared.teacher_access,
            interrupt_after(epochs),
            local,
            resume=True,
        )
        sweep = Sweep.open(store, sweep.name)
    compare(sweep, whole)
    check_study(sweep)
