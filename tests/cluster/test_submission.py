"""Test the checked command line of a job, whose paths are valid on the cluster."""

import shlex
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import run
from orchestrator.cli import submit
from orchestrator.cli._submission import Submission, _check_store_location, create_submission
from orchestrator.cluster.package import collect
from tests.refusal import ANY, refused
from tests.user_code import unload_all, write_code

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 2, 3, 4, 5)
GROUP = typer.main.get_command(run.app)


def made(*words: str, name: str | None = None) -> Submission:
    return create_submission(GROUP, words, name, ROOT, NOW)


def test_the_command_line_of_a_sweep() -> None:
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
    assert job.extra_files == {"configs/digits.yaml": ROOT / "configs/digits.yaml"}
    # the written command line has the given options
    again = made(*shlex.split(job.entrypoint)[2:])
    assert again.entrypoint == job.entrypoint


def test_a_run_is_named_before_submission() -> None:
    job = made("train", "--store", "/s", "--dry-run")
    run_name = job.labels["run"]
    assert (
        job.name == run_name
        and run_name.startswith("kd-")
        and f"--name {run_name}" in job.entrypoint
    )
    assert "--dry-run" in job.entrypoint
    assert made("train", "--store", "/s", name="first-try").name == "first-try"


def test_a_teacher_and_a_resume_get_no_new_name() -> None:
    teacher = made("teacher", "--store", "/s", "--precompute")
    assert teacher.entrypoint == "python run.py teacher --store /s --precompute"
    assert teacher.name == "teacher-20260102-030405" and teacher.labels == {
        "command": "teacher",
        "store": "/s",
    }
    resumed = made("sweep", "--resume", "mine", "--store", "/s", "--trials", "9")
    assert resumed.entrypoint == "python run.py sweep --store /s --trials 9 --resume mine"
    assert (
        resumed.name == "mine-20260102-030405"
        and resumed.labels["run"] == "mine"
        and resumed.extra_files == {}
    )


def test_the_command_line_of_a_comparison() -> None:
    words = ["--methods", "cross_entropy,kd", "--studies", "3", "--margin", "0.5", "--store", "/s"]
    job = made("compare", *words, "--trials", "5")
    run_name = job.labels["run"]
    assert job.name == run_name and run_name.startswith("compare-")
    assert job.labels == {"command": "compare", "store": "/s", "run": run_name}
    given = shlex.split(job.entrypoint)
    assert given[:3] == ["python", "run.py", "compare"]
    pairs = dict(zip(given[3::2], given[4::2], strict=True))
    assert pairs == {
        **dict(zip(words[::2], words[1::2], strict=True)),
        "--trials": "5",
        "--name": run_name,
    }
    resumed = made("compare", "--resume", "mine", "--store", "/s", "--json")
    assert resumed.entrypoint == "python run.py compare --store /s --resume mine --json"
    resumed = made("compare", "--resume", "mine", "--store", "/s", "--format", "latex")
    assert resumed.entrypoint.endswith("--resume mine --format latex")
    every = made("compare", "--methods", "all", "--store", "/s")
    assert "--methods all" in every.entrypoint


def test_a_configuration_outside_the_project_is_packaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("search: {trials: 3}")
    monkeypatch.chdir(tmp_path)
    job = made("sweep", "--store", "/s", "--config", "mine.yaml")
    assert "--config submitted/mine.yaml" in job.entrypoint
    assert job.extra_files == {"submitted/mine.yaml": tmp_path / "mine.yaml"}
    monkeypatch.chdir(ROOT / "configs")
    job = made("sweep", "--store", "/s", "--config", "digits_dual.yaml")
    assert "--config configs/digits_dual.yaml" in job.entrypoint
    resumed = made("sweep", "--resume", "mine", "--store", "/s", "--config", "digits_dual.yaml")
    assert (
        resumed.extra_files == job.extra_files
        and "--config configs/digits_dual.yaml" in resumed.entrypoint
    )
    assert job.extra_files == {"configs/digits_dual.yaml": ROOT / "configs/digits_dual.yaml"}


SHARED = "an absolute path that all nodes share"
COMMANDS = ("sweep", "compare", "train", "teacher")


@pytest.mark.parametrize(
    ("words", "field", "value", "allowed", "hint"),
    [
        (["swep", "--store", "/s"], "command", "swep", COMMANDS, "did you mean 'sweep'"),
        (["export", "mine"], "command", "export", COMMANDS, ""),
        (["compare", "--store", "/s"], "--methods", None, "two or more methods", ""),
        (
            ["compare", "--methods", "kd,ttm", "--studies", "0", "--store", "/s"],
            *("--studies", 0, (1, 100), ""),
        ),
        (
            ["compare", "--resume", "mine", "--trials", "3", "--store", "/s"],
            *("--resume", "mine", "without --trials", ""),
        ),
        (
            ["compare", "--methods", "kd,ttm", "--format", "tex", "--store", "/s"],
            *("--format", "tex", ANY, ""),
        ),
        (
            [
                *("compare", "--methods", "all", "--trials", "5", "--store", "/s"),
                *("--config", "cifar100/vgg13-vgg8"),
            ],
            *("--trials", 5, "left out", ""),
        ),
        (["sweep"], "--store", None, f"{SHARED}, or a URI", ""),
        (["sweep", "--store", "runs"], "--store", "runs", f"{SHARED}, or a URI", ""),
        (["sweep", "--store", "~/runs"], "--store", "~/runs", f"{SHARED}, or a URI", ""),
        (["sweep", "--store", "/s", "--trails", "3"], "--trails", ANY, ANY, "sweep --help"),
        (["sweep", "--store", "/s", "--trials", "three"], "--trials", ANY, ANY, "sweep --help"),
        (["sweep", "--store", "/s", "--trials", "0"], "search.trials", 0, (1, 100_000), ""),
        (["sweep", "--store", "/s", "--time-budget", "soon"], "--time-budget", "soon", ANY, ""),
        (
            ["sweep", "--store", "/s", "--scheduler", "fastest"],
            "search.scheduler",
            "fastest",
            ANY,
            "",
        ),
        (
            ["sweep", "--store", "/s", "--set", "method.name=kdd"],
            "method.name",
            "kdd",
            ANY,
            "did you mean 'kd'",
        ),
        (
            ["train", "--store", "/s", "--set", "trainning.epochs=1"],
            "trainning",
            ANY,
            ANY,
            "did you mean 'training'",
        ),
        (
            ["train", "--store", "/s", "--set", "student.name=resnet21"],
            "student.name",
            "resnet21",
            ANY,
            "resnet20",
        ),
        (
            ["train", "--store", "/s", "--set", "data.name=digit"],
            "data.name",
            "digit",
            ANY,
            "did you mean 'digits'",
        ),
        (["sweep", "--store", "/s", "--config", "none.yaml"], "--config", "none.yaml", ANY, ""),
        (["sweep", "--store", "/s", "--name", "../out"], "--name", "../out", ANY, ""),
        (["sweep", "--store", "/s", "--resume", "../out"], "--resume", "../out", ANY, ""),
        (
            ["sweep", "--store", "/s", "--resume", "mine", "--seed", "1"],
            "--resume",
            "mine",
            "without --seed",
            "",
        ),
        (
            ["sweep", "--store", "/s", "--resume", "mine", "--set", "seed=1"],
            "--set",
            "seed",
            ("data.path", "teacher.cache", "*.weights"),
            "",
        ),
        (
            ["sweep", "--store", "/s", "--resume", "mine", "--set", "data.path=d.npz"],
            "data.path",
            "d.npz",
            SHARED,
            "",
        ),
        (["train", "--store", "/s", "--local"], "--local", True, "left out", ""),
        (
            ["sweep", "--store", "/s", "--set", "resources.address=127.0.0.1:6379"],
            "resources.address",
            "127.0.0.1:6379",
            (None, "auto"),
            "",
        ),
        (
            [
                "sweep",
                "--store",
                "/s",
                "--set",
                "data.name=npz",
                "--set",
                "data.path=data/mine.npz",
            ],
            "data.path",
            "data/mine.npz",
            SHARED,
            "",
        ),
        (
            ["sweep", "--store", "/s", "--set", "teacher.cache=cache"],
            "teacher.cache",
            "cache",
            SHARED,
            "",
        ),
        (
            ["sweep", "--store", "/s", "--set", "teacher.network.weights=mine.safetensors"],
            "teacher.network.weights",
            "mine.safetensors",
            SHARED,
            "",
        ),
        (
            ["teacher", "--store", "/s", "--set", "teacher=null"],
            "teacher",
            None,
            "teacher.network.name",
            "",
        ),
        (
            ["sweep", "--store", "/s", "--set", "project=password=hunter22"],
            "command line",
            "sweep",
            "a command without a secret",
            "",
        ),
    ],
)
def test_an_invalid_command_line_is_refused_before_submission(
    words: list[str], field: str, value: object, allowed: object, hint: str
) -> None:
    with refused(field, value, allowed) as refusal:
        made(*words)
    error = refusal.value
    assert hint in str(error) and "\n" not in str(error)
    assert "hunter22" not in f"{error} {error.value}"


def test_a_store_may_be_a_uri() -> None:
    assert _check_store_location("s3://bucket/runs") == "s3://bucket/runs"


def test_an_invalid_job_name_is_refused() -> None:
    with refused("--name", "a/b"):
        made("train", "--store", "/s", name="a/b")


def test_an_extended_configuration_is_packed_next_to_the_other(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 4\n")
    own = tmp_path / "own.yaml"
    own.write_text("extends: base.yaml\n")
    job = made("train", "--store", "/s", "--config", str(own))
    folders = {Path(name).parent: file.name for name, file in job.extra_files.items()}
    assert len(folders) == 1 and {Path(name).name for name in job.extra_files} == {
        "own.yaml",
        "base.yaml",
    }
    own.write_text("extends: digits\n")  # the package has the examples
    assert list(made("train", "--store", "/s", "--config", str(own)).extra_files.values()) == [own]


def test_files_of_code_are_packed(tmp_path: Path) -> None:
    files = write_code(tmp_path / "code")
    words = [word for file in files for word in ("--code", str(file))]
    try:
        job = made(
            *("train", "--store", "/s", "--name", "mine", "--set", "method.name=my/labels"),
            *("--set", "student.name=my/tiny", *words),
        )
        packed = ["submitted/networks.py", "submitted/others.py"]
        assert [job.extra_files[name] for name in packed] == files
        line = shlex.split(job.entrypoint)
        assert [line[place + 1] for place, word in enumerate(line) if word == "--code"] == packed
        package = collect(ROOT, (), job.extra_files)
        archive = tmp_path / "project.zip"
        package.write(archive)
        with zipfile.ZipFile(archive) as opened:
            assert [opened.read(name).decode() for name in packed] == [
                file.read_text() for file in files
            ]
        resumed = made("sweep", "--store", "/s", "--resume", "mine", *words)
        assert set(packed) <= set(resumed.extra_files) and "--code" in resumed.entrypoint
    finally:
        unload_all()
    with refused("method.name", "my/labels") as caught:
        made("train", "--store", "/s", "--set", "method.name=my/labels")
    assert "--code" in str(caught.value)


def test_a_link_to_a_file_of_code_keeps_its_name(tmp_path: Path) -> None:
    target, link = tmp_path / "version3.py", tmp_path / "mine.py"
    target.write_text("")
    link.symlink_to(target)
    try:
        job = made("train", "--store", "/s", "--code", str(link))
    finally:
        unload_all()
    assert job.extra_files["submitted/mine.py"] == target


def test_code_before_the_command_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []

    def record(words: list[str], **options: Any) -> int:
        received.append(words)
        return 0

    monkeypatch.setattr(submit, "submit", record)
    code = ["--code", "a.py", "--code", "b.py", "--plugin", "mine"]
    for words in ([*code, "--", "sweep", "--trials", "3"], ["--", "sweep", *code, "--trials", "3"]):
        result = CliRunner().invoke(run.app, ["submit", *words])
        assert result.exit_code == 0, result.output
    assert received == [["sweep", *code, "--trials", "3"]] * 2
