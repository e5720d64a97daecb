"""Test what is imported, and when: in a fresh process, before anything asks for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = "torch._dynamo,torch._inductor,sympy,networkx"
PICTURES = "matplotlib,torchvision"
TABLES = "sklearn,scipy,pandas,pyarrow"
ENGINES = "ray,mlflow,optuna"

FIRST_LINE = """
import contextlib, sys
from orchestrator.cli import _run
from orchestrator.cli.sweep import sweep
from orchestrator.config.examples import DEFAULT

def create_run(*_):
    print(",".join(name for name in sys.argv[2].split(",") if name in sys.modules))
    sys.exit()

_run.create_run, _run.ray_in_background = create_run, lambda *_: contextlib.nullcontext()
sweep(DEFAULT, [], sys.argv[1], "first", None, False, None, None, None)
"""
FIRST_LINE_OF_RESUME = """
import sys
from orchestrator.cli import _run
from orchestrator.config.examples import DEFAULT
from orchestrator.config.loader import load
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store

def prepare_resume(*_):
    print(",".join(name for name in sys.argv[2].split(",") if name in sys.modules))
    sys.exit()

store = Store.open(sys.argv[1])
Sweep.create(store.sweep("first"), load(DEFAULT, []), "sweep")
_run.prepare_resume = prepare_resume
_run.resume_run(store, "first", None, None, None, local_processes=1)
"""
CHECKED = """
import sys
from orchestrator.config.examples import DEFAULT
from orchestrator.config.loader import load
from orchestrator.store.store import Store
from orchestrator.sweep.runs import create_run, resolve_run

store = Store.open(sys.argv[1])
configuration, folder = resolve_run(store, load(DEFAULT, [], {}), "sweep", "checked", True)
sweep, prepared = create_run(store, configuration, folder, "sweep", True, print)
assert prepared.data.is_dir() and "torch" in sys.modules
print(",".join(name for name in sys.argv[2].split(",") if name in sys.modules))
"""
WHOLE_SWEEP = """
import sys
from orchestrator.cli.app import app

settings = ["data.limit.train=64", "data.limit.validation=60", "data.limit.test=60"]
settings += ["method.name=kd", "teacher.training.epochs=1", "training.epochs=1", "search.trials=1"]
words = [word for setting in settings for word in ("--set", setting)]
try:
    app(["sweep", "--local", "--store", sys.argv[1], "--name", "first", *words])
except SystemExit as end:
    assert not end.code
print(",".join(name for name in sys.argv[2].split(",") if name in sys.modules))
"""
WORKER = """
import sys
from orchestrator.training.execute import execute

assert callable(execute) and "torch" in sys.modules
print(",".join(name for name in sys.argv[2].split(",") if name in sys.modules))
"""
DRIVER = """
import json, sys
if sys.argv[2] == "here":
    import torch
from orchestrator.config.examples import DEFAULT
from orchestrator.config.loader import load
from orchestrator.config.trial import apply
from orchestrator.store.store import Store
from orchestrator.sweep.runs import create_run, resolve_run

pairs = [
    "search.trials=9",
    "search.space={temperature: {low: 2, high: 3}, training.weight_decay: {low: 0.1, high: 0.2}, "
    "student.width: {low: 4, high: 8}}",
    "search.extra_space={training.momentum: [0.8, 0.9]}",
    "search.points=[{method.name: kd, temperature: 2.5}]",
    "resources.address=local",
]
store = Store.open(sys.argv[1])
configuration, folder = resolve_run(store, load(DEFAULT, pairs), "sweep", "driver", 0)
notes = []
sweep, prepared = create_run(store, configuration, folder, "sweep", 0, notes.append)

import orchestrator.cluster.groups, orchestrator.reporting.terminal.progress
import orchestrator.sweep._tune_runner, orchestrator.sweep.driver, orchestrator.tracking.tracker
from orchestrator.sweep._study import open_study
from orchestrator.sweep._reconcile import create_trial
from orchestrator.teacher import fit

study, drawn = open_study(folder, sweep.configuration, resume=False), []
for number in range(9):
    trial = create_trial(study, sweep.configuration)
    drawn.append(apply(sweep.configuration, trial.params).plain())
    study.tell(trial.number, number / 10)
(teacher,) = prepared.facts.teachers
assert not fit.card(teacher)
facts = [prepared.facts.influence_actors, prepared.facts.uses_teacher]
facts += [teacher.name, prepared.teacher_access.words.split(",")[1:]]
print(json.dumps(["torch" in sys.modules, drawn, facts, sweep.described, notes]))
"""


@pytest.mark.parametrize(
    ("program", "late"),
    [
        pytest.param(
            FIRST_LINE,
            f"torch,numpy,{COMPILER},{PICTURES},{TABLES},{ENGINES}",
            id="before the first line",
        ),
        pytest.param(
            FIRST_LINE_OF_RESUME,
            f"torch,numpy,{COMPILER},{PICTURES},{TABLES},{ENGINES}",
            id="before the first line of a resume",
        ),
        pytest.param(
            CHECKED, f"{COMPILER},{PICTURES},{TABLES},{ENGINES}", id="after the checks of a sweep"
        ),
        pytest.param(
            WHOLE_SWEEP,
            "mlflow,sqlalchemy,alembic,matplotlib,ray",
            id="in the driver of a sweep, to its end",
        ),
        pytest.param(WORKER, f"{COMPILER},{PICTURES},{TABLES},{ENGINES}", id="in a worker"),
    ],
)
def test_a_library_is_imported_when_it_is_used(program: str, late: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), late],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    assert lines[-1] == ""
    if program in (FIRST_LINE, FIRST_LINE_OF_RESUME):
        assert lines[:-1] == ["checking first: cross_entropy, kd, akd on digits"]


def test_the_driver_of_a_sweep_draws_the_same_trials_without_torch(tmp_path: Path) -> None:
    """A child process checks the sweep, unless the driver has torch already."""
    found = {}
    for mode in ("here", "child"):
        run = subprocess.run(
            [sys.executable, "-c", DRIVER, str(tmp_path / mode), mode],
            capture_output=True,
            text=True,
            check=True,
        )
        has_torch, *found[mode] = json.loads(run.stdout)
        assert has_torch == (mode == "here")
    assert found["child"] == found["here"]
