"""The command line that a job runs: checked here, with paths that mean the same there."""

import shlex
from datetime import datetime
from pathlib import Path

import pytest
import typer

import run
from orchestrator.cli._submission import Submission, _lasting, submission
from orchestrator.core.errors import ConfigurationError
from tests.refusal import refused

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 2, 3, 4, 5)
GROUP = typer.main.get_command(run.app)


def made(*words: str, name: str | None = None) -> Submission:
    return submission(GROUP, words, name, ROOT, NOW)


def test_a_sweep_as_it_runs_there() -> None:
    job = made(
        "sweep",
        "--store",
        "/shared/my runs",
        "--set",
        "search.methods=[kd, wttm]",
        "--set",
        "seed=3",
        "--trials=7",
        "--name",
        "mine",
    )
    assert shlex.split(job.entrypoint) == [
        *("python", "run.py", "sweep", "--set", "search.methods=[kd, wttm]", "--set", "seed=3"),
        *("--store", "/shared/my runs", "--name", "mine", "--trials", "7"),
    ]
    assert job.name == "mine-20260102-030405"
    assert job.labels == {"command": "sweep", "store": "/shared/my runs", "run": "mine"}
    assert job.beside == {"configs/digits.yaml": ROOT / "configs/digits.yaml"}
    # what was written means the same as what was given
    again = made(*shlex.split(job.entrypoint)[2:])
    assert again.entrypoint == job.entrypoint


def test_a_run_has_a_name_before_it_is_sent() -> None:
    job = made("train", "--store", "/s", "--dry-run")
    run_name = job.labels["run"]
    assert job.name == run_name and run_name.startswith("kd-") and f"--name {run_name}" in job.entrypoint
    assert "--dry-run" in job.entrypoint
    assert made("train", "--store", "/s", name="first-try").name == "first-try"


def test_a_teacher_and_a_resume_have_no_new_name() -> None:
    teacher = made("teacher", "--store", "/s", "--precompute")
    assert teacher.entrypoint == "python run.py teacher --store /s --precompute"
    assert teacher.name == "teacher-20260102-030405" and teacher.labels == {"command": "teacher", "store": "/s"}
    resumed = made("sweep", "--resume", "mine", "--store", "/s", "--trials", "9")
    assert resumed.entrypoint == "python run.py sweep --store /s --trials 9 --resume mine"
    assert resumed.name == "mine-20260102-030405" and resumed.labels["run"] == "mine" and resumed.beside == {}


def test_a_configuration_from_elsewhere_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("search: {trials: 3}")
    monkeypatch.chdir(tmp_path)
    job = made("sweep", "--store", "/s", "--config", "mine.yaml")
    assert "--config submitted/mine.yaml" in job.entrypoint
    assert job.beside == {"submitted/mine.yaml": tmp_path / "mine.yaml"}
    monkeypatch.chdir(ROOT / "configs")
    job = made("sweep", "--store", "/s", "--config", "digits_dual.yaml")
    assert "--config configs/digits_dual.yaml" in job.entrypoint
    resumed = made("sweep", "--resume", "mine", "--store", "/s", "--config", "digits_dual.yaml")
    assert resumed.beside == job.beside and "--config configs/digits_dual.yaml" in resumed.entrypoint
    assert job.beside == {"configs/digits_dual.yaml": ROOT / "configs/digits_dual.yaml"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["swep", "--store", "/s"], "'swep' is not for a cluster: did you mean 'sweep'"),
        (["export", "mine"], "'export' is not for a cluster: known: sweep, teacher, train"),
        (["sweep"], "--store is missing: it would lie in the job's own folder"),
        (["sweep", "--store", "runs"], "--store 'runs' is relative"),
        (["sweep", "--store", "~/runs"], "--store '~/runs' is relative"),
        (["sweep", "--store", "/s", "--trails", "3"], "--trails"),
        (["sweep", "--store", "/s", "--trials", "three"], "'--trials'"),
        (["sweep", "--store", "/s", "--trials", "0"], "search.trials = 0"),
        (["sweep", "--store", "/s", "--time-budget", "soon"], "'soon' is not a time"),
        (["sweep", "--store", "/s", "--scheduler", "fastest"], "search.scheduler = 'fastest'"),
        (["sweep", "--store", "/s", "--set", "method.name=kdd"], "did you mean 'kd'"),
        (["train", "--store", "/s", "--set", "trainning.epochs=1"], "did you mean 'training'"),
        (["train", "--store", "/s", "--set", "student.name=resnet21"], "resnet20"),
        (["train", "--store", "/s", "--set", "data.name=digit"], "did you mean 'digits'"),
        (["sweep", "--store", "/s", "--config", "none.yaml"], "--config none.yaml is not a file"),
        (["sweep", "--store", "/s", "--name", "../out"], "--name '../out' is not allowed"),
        (["sweep", "--store", "/s", "--resume", "../out"], "--resume '../out' is not allowed"),
        (["sweep", "--store", "/s", "--resume", "mine", "--seed", "1"], "leave out --seed"),
        (
            ["sweep", "--store", "/s", "--resume", "mine", "--set", "seed=1"],
            "--set seed: --resume goes on as the sweep was configured",
        ),
        (["sweep", "--store", "/s", "--resume", "mine", "--set", "data.path=d.npz"], "would be looked for in the job's own folder"),
        (["train", "--store", "/s", "--local"], "--local trains in one process of this machine"),
        (["sweep", "--store", "/s", "--set", "resources.address=127.0.0.1:6379"], "a job uses the cluster that it is submitted to"),
        (
            ["sweep", "--store", "/s", "--set", "data.name=npz", "--set", "data.path=data/mine.npz"],
            "data.path = 'data/mine.npz' would",
        ),
        (["sweep", "--store", "/s", "--set", "teacher.cache=cache"], "teacher.cache = 'cache' would be looked for"),
        (["sweep", "--store", "/s", "--set", "teacher.network.weights=mine.safetensors"], "teacher.network.weights = 'mine"),
        (["teacher", "--store", "/s", "--set", "teacher=null"], "teacher is null"),
        (["sweep", "--store", "/s", "--set", "project=password=hunter22"], "the command line holds a secret"),
    ],
)
def test_what_would_fail_there_fails_here(words: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        made(*words)
    assert said in str(told.value) and "\n" not in str(told.value)
    assert "hunter22" not in str(told.value)


def test_a_store_may_be_an_address() -> None:
    assert _lasting("s3://bucket/runs") == "s3://bucket/runs"


def test_a_job_with_a_name_that_is_none() -> None:
    with refused("--name", "a/b"):
        made("train", "--store", "/s", name="a/b")
