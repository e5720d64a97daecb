"""Run a sweep of two objectives over several networks on Ray; its front is that of its records."""

import pytest

from orchestrator.sweep._study import open_study
from tests.sweep.conftest import Conduct

pytestmark = pytest.mark.ray


def test_a_sweep_of_two_objectives_over_the_width_of_the_student(run: Conduct) -> None:
    objectives = (
        "search.objectives=[validation/accuracy, validation/nll]",
        "search.scheduler=none",
    )
    chosen = (
        "search.extra_space={student.width: [4, 16], training.batch_size: [64, 128]}",
        "search.sampler=random",
    )
    sweep = run("method.name=kd", "search.trials=5", "training.epochs=3", *objectives, *chosen)
    assert sweep.state == "finished" and {trial.state for trial in sweep.trials.values()} == {
        "complete"
    }
    for trial in sweep.trials.values():
        assert trial.values == [
            trial.metrics["validation/accuracy"],
            trial.metrics["validation/nll"],
        ]
        assert trial.params["student.width"] in (4, 16) and len(trial.history) == 3
    study = open_study(sweep.folder, sweep.configuration, resume=True)
    assert {trial.number for trial in study.best_trials} == {
        trial.number for trial in sweep.front()
    }
