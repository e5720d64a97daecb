"""Test a sweep on Ray with a URI store: kept and deleted weights, figures and exports."""

import json
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.export.export import export
from orchestrator.store.checkpoint_storage import checkpoint_storage
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.preflight.preflight import prepare_run
from tests.sweep_runs import SMALL, Watch

pytestmark = [pytest.mark.ray, pytest.mark.faults]  # too slow and too stable for `make test`


def test_a_sweep_with_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (token := Path("~/.ray/auth_token").expanduser()).exists():
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = Store.open((tmp_path / "shared").as_uri())
    pairs = (
        "method.name=kd",
        "training.epochs=3",
        "search.trials=4",
        "search.keep_checkpoints=1",
        "search.scheduler=none",
        "tracking.figures=all",
    )
    configuration = load(None, [*SMALL, *pairs])
    prepared = prepare_run(store, configuration, "sweep", local_processes=0)
    sweep = Sweep.create(store.sweep("mine"), prepared.configuration, "sweep")
    run_sweep(sweep, store, prepared.data, prepared.teacher_access, Watch())
    assert sweep.state == "finished" and len(sweep.ranked()) == 4
    best = sweep.best()
    assert best is not None
    with_weights = {
        path.parts[-3]
        for path in (tmp_path / "shared/sweeps/mine/trials").glob("*/*/student.safetensors")
    }
    assert with_weights == {f"{best.number:05d}"}
    assert not list(sweep.folder.rglob("student.safetensors"))
    for number in sweep.trials:
        here = checkpoint_storage(store, sweep.trial_folder(number))
        here.download()
        assert json.loads((here.folders[0] / "progress.json").read_text())["record"]["epoch"] == 3
    drawn = list(store.artifacts.glob("**/figures/terms.png"))
    assert len(drawn) == 4
    assert (export(store, "mine").folder / "model.safetensors").exists()
