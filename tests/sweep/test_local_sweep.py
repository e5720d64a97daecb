"""Sweep without Ray: the same trials as by hand, in one process or two; failures and refusals."""

import math
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.tune.schedulers import ASHAScheduler
from torch import nn
from typer.testing import CliRunner

import run as command_line
from orchestrator import api as od
from orchestrator.cluster import _local_worker
from orchestrator.cluster.local_pool import LocalPool
from orchestrator.config.loader import load
from orchestrator.config.search_space import draw
from orchestrator.config.trial import TrialSpec, apply
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError
from orchestrator.core.reports import EpochRecord, TrialFailure
from orchestrator.extensions.decorators import metric, network
from orchestrator.extensions.loading import load_code
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._study import open_study
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.runs import count_local_processes
from orchestrator.training.execute import execute
from tests.faults.broken import check_study, without_times
from tests.refusal import refused
from tests.sweep_runs import RunSweep, Watch, prepare_here
from tests.user_code import unload_all, write_code

ROOT = Path(__file__).parents[2]
FEW = ("data.limit.train=128", "data.limit.validation=60", "data.limit.test=60")
RANDOM = (
    *FEW,
    "method.name=kd",
    "search.sampler=random",
    "search.trials=4",
    "training.epochs=2",
    "teacher.training.epochs=1",
)


def outcome(trial: Trial) -> dict[str, Any]:
    """Return what must be bit-identical in every run."""
    names = ("params", "state", "value", "epochs", "history")
    values = {name: getattr(trial, name) for name in names}
    return values | {"metrics": without_times(trial.metrics)}


def outcomes(sweep: Sweep) -> dict[int, Any]:
    return {number: outcome(trial) for number, trial in sorted(sweep.trials.items())}


def resume(sweep: Sweep, local: int, watch: Watch | None = None) -> Sweep:
    """Resume a sweep and read its record."""
    store = Store.open(sweep.folder.parents[1])
    opened = Sweep.open(store, sweep.name)
    prepared = prepare_here(store, opened.configuration, "sweep", local)
    show = watch or Watch()
    run_sweep(opened, store, prepared.data, prepared.teacher_access, show, local, resume=True)
    return Sweep.open(store, sweep.name)


def interrupt_after(epochs: int) -> Watch:
    """Return a display that sends Ctrl-C after so many epochs of all trials."""
    count = iter(range(1, 1000))

    def act(trial: Trial, epoch: int) -> None:
        if next(count) == epochs:
            os.kill(os.getpid(), signal.SIGINT)

    return Watch(act)


def test_trials_equal_a_study_and_trainings_by_hand(run: RunSweep, tmp_path: Path) -> None:
    """Random draws depend on seed, trial and name alone, and a training on its settings."""
    sweep = run(*RANDOM, local=1)
    assert sweep.state == "finished" and sorted(sweep.trials) == [0, 1, 2, 3]
    check_study(sweep)
    (tmp_path / "other" / sweep.name).mkdir(parents=True)
    study = open_study(tmp_path / "other" / sweep.name, sweep.configuration, resume=False)
    params = [draw(study.ask(), sweep.configuration) for _ in sweep.trials]
    assert [trial.params for trial in sweep.trials.values()] == params
    store = Store.open(sweep.folder.parents[1])
    (teacher,) = (path.parent for path in store.teachers.glob("*/teacher.json"))
    prepared = prepare_here(store, sweep.configuration, "sweep", local=True)
    configuration = apply(sweep.configuration, params[3])
    folders = store.folders(tmp_path / "alone", prepared.data, [teacher], store.knowledge)
    records: list[Any] = []
    execute(TrialSpec.numbered(3, configuration, folders), TrialContext(report=records.append))
    metrics = [without_times(record.metrics) for record in records]
    assert metrics[-1] == without_times(sweep.trials[3].metrics) | metrics[-1]
    assert [each["validation/accuracy"] for each in metrics] == sweep.trials[3].history


def test_two_processes_train_the_same_trials_as_one(run: RunSweep) -> None:
    one = run(*RANDOM, "search.scheduler=none", name="one", local=1)
    watch = Watch()
    two = run(*RANDOM, "search.scheduler=none", name="two", local=2, watch=watch)
    assert two.state == "finished" and outcomes(one) == outcomes(two)
    assert "starting 2 processes" in watch.steps
    check_study(two)


def test_asha_stops_the_trials_that_rays_scheduler_stops(run: RunSweep) -> None:
    settings = ("search.trials=8", "training.epochs=9", "search.reduction_factor=2")
    sweep = run(*RANDOM, *settings, "search.protect_initial_trials=false", local=1)
    assert {"stopped_early", "complete"} <= {trial.state for trial in sweep.trials.values()}
    name = "validation/accuracy"
    rays = ASHAScheduler("epoch", name, "max", max_t=9, grace_period=1, reduction_factor=2)
    for number, trial in sorted(sweep.trials.items()):
        ray_trial: Any = SimpleNamespace(trial_id=str(number))
        rays.on_trial_add(None, ray_trial)
        decisions = [
            rays.on_trial_result(None, ray_trial, {"epoch": epoch, name: value})
            for epoch, value in trial.known
        ]
        assert decisions.index("STOP") == trial.epochs - 1, "it stops there, or at its last epoch"
        assert (trial.state == "complete") == (trial.epochs == 9)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_sweep_is_resumed_with_the_same_trials(
    processes: int, run: RunSweep
) -> None:
    settings = (*RANDOM, "search.scheduler=none", "training.epochs=6", "search.keep_checkpoints=1")
    whole = run(*settings, name="whole", local=1)
    interrupted = run(*settings, name="parts", local=processes, watch=interrupt_after(8))
    assert interrupted.state == "interrupted"
    assert {trial.state for trial in interrupted.trials.values()} >= {"waiting"}
    watch = Watch()
    resumed = resume(interrupted, processes, watch)
    assert resumed.state == "finished" and outcomes(resumed) == outcomes(whole)
    ended = {number for number, trial in interrupted.trials.items() if trial.ended}
    assert set(watch.started) == {0, 1, 2, 3} - ended
    check_study(resumed)


def test_a_spent_time_budget_stops_the_trials_that_have_trained(run: RunSweep) -> None:
    watch = Watch(lambda trial, epoch: sweeps.append(trial.number))
    sweeps: list[int] = []
    sweep = run(
        *RANDOM,
        "training.epochs=100000",
        "search.time_budget=1",
        "search.scheduler=none",
        local=1,
        watch=watch,
    )
    assert sweep.state == "finished" and set(sweeps) == {0}
    assert [trial.state for trial in sweep.trials.values()] == ["stopped_early"]
    check_study(sweep)


def test_failures_in_a_row_end_the_sweep(run: RunSweep) -> None:
    failing = ("training.learning_rate=1e12", "search.freeze=[training.learning_rate]")
    watch = Watch()
    settings = ("method.name=cross_entropy", "teacher=null", *failing, "search.max_failed_trials=2")
    sweep = run(*FEW, *settings, "search.trials=6", "training.epochs=2", local=1, watch=watch)
    assert sweep.state == "failed" and [state for _, state in watch.ended] == ["failed"] * 2
    assert any("search.max_failed_trials = 2" in note for note in watch.notes)


def test_user_code_trains_in_other_processes(run: RunSweep, tmp_path: Path) -> None:
    """Files travel as text, and objects of the program by value."""
    load_code(write_code(tmp_path / "code"), ())
    try:

        @metric("zero", direction="minimize")
        def zero(logits: Any, labels: Any) -> Any:
            return logits.sum() * 0

        settings = (
            "student={name: my/tiny, width: 4}",
            "search.objective=validation/my/zero",
            "search.direction=minimize",
        )
        sweep = run(*RANDOM, *settings, "search.trials=2", local=2)
    finally:
        unload_all()
    assert [trial.state for trial in sweep.trials.values()] == ["complete"] * 2
    assert all(trial.value == 0 for trial in sweep.trials.values())


def test_an_object_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    opened = open(tmp_path / "file", "w")  # noqa: SIM115

    try:

        @metric("open", direction="minimize")
        def uses_file(logits: Any, labels: Any) -> Any:
            return logits.sum() * opened.fileno()

        with refused("processes", allowed=(1, 1)):
            LocalPool(2, load(None, []).resources)
    finally:
        unload_all()
        opened.close()


class Pool:
    """A pool of one process, which is ended at the end of the block, and its notes."""

    def __init__(self, **resources: Any) -> None:
        self.notes: list[str] = []
        changed = load(None, []).resources.model_copy(update=resources)
        self.pool = LocalPool(1, changed, self.notes.append)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close(60)
        assert all(process.process.returncode is not None for process in self.pool.processes)

    def kill(self) -> None:
        self.pool.processes[0].process.kill()

    def epochs(self, trial: str, last: int) -> list[int]:
        """Return the epochs that are reported, until the epoch `last`."""
        found: list[int] = []
        while not found or found[-1] < last:
            report = self.pool.next_report(trial, 120)
            assert isinstance(report, EpochRecord), report
            found.append(report.epoch)
        return found


SPEC = (*FEW, "teacher=null", "method.name=cross_entropy", "training.epochs=100000")


def test_a_trial_of_a_dead_process_continues_from_its_checkpoint(specify: Any) -> None:
    spec: TrialSpec = specify(*SPEC).model_copy(update={"known": 0})
    with Pool(max_failures=1) as own:
        own.pool.submit(spec)
        own.epochs("trial", 3)
        own.kill()
        known = own.epochs("trial", 6)
        assert known == sorted(set(known)), "no epoch is reported twice"
        assert len(own.notes) == 1 and "exit code -9" in own.notes[0]
        own.kill()
        while isinstance(report := own.pool.next_report("trial", 120), EpochRecord):
            pass
        assert isinstance(report, TrialFailure) and "resources.max_failures = 1" in report.message
        own.pool.stop("trial")
        own.pool.submit(spec.model_copy(update={"name": "next", "folder": spec.folder / "next"}))
        own.epochs("next", 1)
        own.pool.stop("next")
        assert own.pool.next_event(120, until=0) is None, "reports of a stopped trial are dropped"


def test_a_stopped_process_is_replaced_after_the_heartbeat_timeout(specify: Any) -> None:
    with Pool(heartbeat_warning_s=0.2) as own:
        own.pool.submit(specify(*SPEC))
        own.epochs("trial", 2)
        own.pool.processes[0].process.send_signal(signal.SIGSTOP)
        while not any("continues from its checkpoint" in note for note in own.notes):
            own.pool.next_event(1.0, until=time.monotonic() + 1)
        assert "no heartbeat" in own.notes[0] and "heartbeat_timeout_s" in own.notes[-1]
        own.epochs("trial", 4)


def test_a_process_that_cannot_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cluster import local_pool

    monkeypatch.setattr(local_pool, "WORKER", "orchestrator.no_such_module")
    with Pool() as own, refused("processes", error=PreflightError):
        own.pool.next_event(120)


def test_a_process_whose_run_has_died_ends_without_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_end, other_end = Pipe()
    other_end.close()
    with own_end:
        arguments = ["worker", str(os.dup(own_end.fileno())), "0"]
        monkeypatch.setattr(sys, "argv", arguments)
        for name in ("signal.signal", "keep_private", "_Worker"):
            monkeypatch.setattr(f"{_local_worker.__name__}.{name}", lambda *_: None)
        _local_worker.main()


def test_a_debugger_in_another_process_fails_the_trial(specify: Any) -> None:
    class Debugged(nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                breakpoint()
            return super().forward(images.flatten(1))

    try:
        network("debugged")(lambda classes, shape: Debugged(math.prod(shape), classes))
        with Pool() as own:
            own.pool.submit(specify(*SPEC, "student.name=my/debugged"))
            report = own.pool.next_report("trial", 120)
    finally:
        unload_all()
    assert isinstance(report, TrialFailure) and "run in one process" in report.message
    assert not own.notes, "it is not retried"


@pytest.mark.parametrize(
    ("local", "processes", "allowed"), [(False, 2, "with --local"), (True, 0, (1, None))]
)
def test_a_number_of_processes_is_refused(local: bool, processes: int, allowed: Any) -> None:
    with refused("--processes", processes, allowed):
        count_local_processes(local, processes, "--processes", "--local")
    with refused("processes", processes):
        od.sweep("mlp", None, "digits", "cross_entropy", local=local, processes=processes)


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (("--processes", "2"), "--processes=2 has an effect only without Ray"),
        (("--local", "--processes", "0"), "--processes=0 is not allowed"),
        (("--local", "--address", "auto"), "--address and --local exclude each other"),
        (("--local", "--scheduler", "pbt"), "search.scheduler = 'pbt' pauses trials"),
        (("--local", "--scheduler", "hyperband"), "search.scheduler = 'hyperband' pauses trials"),
        (("--local", "--set", "resources.workers=2"), "resources.workers = 2"),
    ],
)
def test_a_command_is_refused(options: tuple[str, ...], refusal: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    result = CliRunner().invoke(command_line.app, ["sweep", "--store", str(store), *options])
    assert result.exit_code == 2 and refusal in result.output.replace("\n", " ")
    assert not store.exists() or not Store(store).sweeps()


def test_a_plan_has_at_most_one_process_for_each_trial(tmp_path: Path) -> None:
    options = ("--local", "--processes", "100000", "--trials", "3", "--dry-run")
    store = str(tmp_path / "store")
    result = CliRunner().invoke(command_line.app, ["sweep", "--store", store, *options])
    assert result.exit_code == 0 and "training runs in 3 processes" in result.output


FIRST_REPORT = """
import os, sys
from orchestrator.sweep.events import Events

def report(self, trial, record):
    print("loaded:", [name for name in ("ray", "mlflow", "matplotlib") if name in sys.modules])
    sys.stdout.flush()
    os._exit(0)

Events.report = report
{start}
"""
COMMAND = """
sys.argv[1:] = ["sweep", "--local", "--store", "store", "--set", "teacher.training.epochs=1"]
from orchestrator.cli.app import app
app()
"""
PYTHON = """
import orchestrator as od
teacher = od.teacher("mlp", epochs=1)
od.sweep("mlp", teacher, "digits", local=True, store="store", progress=False)
"""


@pytest.mark.parametrize("start", [COMMAND, PYTHON])
def test_nothing_heavy_is_imported_before_the_first_report(start: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FIRST_REPORT.format(start=start)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "loaded: []" in result.stdout, result.stdout + result.stderr
