"""Sweep with user code on a group of two workers, whose influence actor needs the code too."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import run
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from tests.user_code import unload_all, write_code

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]
SETTINGS = (
    "data.limit={train: 160, validation: 40, test: 40}",
    "data.augmentation=my/negative",
    "data.views=2",
    "teacher.network={name: my/tiny, width: 24}",
    "teacher.training.epochs=2",
    "student={name: my/tiny, width: 6}",
    "search.methods=[my/labels, kd_aif]",
    "search.scheduler=none",
    "search.objective=validation/my/top2",
    "training={epochs: 2, batch_size: 32}",
    "resources={workers: 2, groups: 1, cpus_per_worker: 0.5, influence_cpus: 0.5}",
)


def call(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(run.app, list(words))
    return result.exit_code, result.output


def test_workers_and_influence_actors_have_the_code(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    files = write_code(tmp_path / "code")
    code = [word for file in files for word in ("--code", str(file))]
    settings = [word for pair in SETTINGS for word in ("--set", pair)]
    command = ["sweep", "--store", store, "--name", "mine", "--trials", "3", *settings]
    try:
        exit_code, output = call(*command, *code)
        assert exit_code == 0, output
        sweep = Sweep.open(Store(Path(store)), "mine")
        assert [trial.state for trial in sweep.trials.values()] == ["complete"] * 3
        methods = {trial.params["method.name"] for trial in sweep.trials.values()}
        assert methods == {"my/labels", "kd_aif"}
        weighed = next(t for t in sweep.trials.values() if t.params["method.name"] == "kd_aif")
        assert weighed.metrics["influence/weighed"] > 0, weighed.notes
        assert not [note for note in weighed.notes if "actor" in note], weighed.notes
        for trial in sweep.trials.values():
            expected = pytest.approx(trial.metrics["validation/accuracy"])
            assert trial.metrics["validation/my/accuracy"] == expected, "of both workers' logits"
            assert trial.value == trial.metrics["validation/my/top2"]
        again = ["sweep", "--resume", "mine", "--store", store]
        unload_all()
        exit_code, output = call(*again)
        assert exit_code == 2 and "needs --code networks.py" in output
        exit_code, output = call(*again, *code)
        assert exit_code == 0, output
    finally:
        unload_all()
