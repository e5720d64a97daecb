"""Test the wheel: installed into a fresh environment, and used from another folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.package import collect

ROOT = Path(__file__).parents[1]
PACKAGES = ("methods", "orchestrator", "search_spaces")
BAD_CONFIGURATION = 2
SOURCES = (
    *PACKAGES,
    *("configs", "constraints.txt", "pyproject.toml", "run.py"),
    *("LICENSE", "MANIFEST.in", "README.md", "setup.py"),
)
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
# one interpreter for several commands, because importing torch takes most of the time
RUN_ALL = """
import contextlib, io, json, os, runpy, sys
program, lines = sys.argv[1], json.loads(sys.argv[2])
outputs = []
for words in lines:
    sys.argv = [program, *words]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            outputs.append((end.code or 0, output.getvalue()))
print(json.dumps(outputs), flush=True)
os._exit(0)  # else with the exit code of the last command
"""
INSPECT = """
import json, pathlib
import orchestrator
from orchestrator.cluster.package import collect
from orchestrator.core import project, provenance
package = collect(project.ROOT, packages=project.PACKAGES)
package.write(pathlib.Path("project.zip"))
print(json.dumps([orchestrator.__file__, sorted(package.files), provenance.describe()]))
"""


class Installation:
    """The program in a fresh environment."""

    def __init__(self, folder: Path, source: Path, wheel: Path) -> None:
        self.folder, self.source, self.wheel = folder, source, wheel
        self.program = folder / "bin" / "distil"
        self.version = wheel.name.split("-")[1]
        environment = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
        self.environment = environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def call(self, *command: str | Path, cwd: Path) -> str:
        """Return the standard output of a command, which must succeed."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def run_code(self, code: str, *arguments: str | Path, cwd: Path) -> Any:
        """Return the JSON that a program of this environment prints in its last line."""
        output = self.call(self.folder / "bin" / "python", "-c", code, *arguments, cwd=cwd)
        return json.loads(output.splitlines()[-1])

    def run_commands(self, *lines: list[str], cwd: Path) -> list[tuple[int, str]]:
        """Return exit code and output of several command lines of the program."""
        outputs = self.run_code(RUN_ALL, self.program, json.dumps(lines), cwd=cwd)
        return [(code, output) for code, output in outputs]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Build the wheel from a copy of the project, and install it without its dependencies.

    The environment finds the dependencies in that of this process. pip must not see them when it
    installs, because they include an installation of the project.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source, environment = folder / "source", folder / "environment"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    build = ("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    subprocess.run([*PIP, *build, source], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    install = ("--python", python, "install", "--no-deps", "--no-index", "--no-compile", wheel)
    subprocess.run([*PIP, *install], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    dependencies = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(dependencies))
    return Installation(environment, source, wheel)


def test_the_wheel_contains_every_source_file_and_example(installation: Installation) -> None:
    names = set(zipfile.ZipFile(installation.wheel).namelist())
    files = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", "*.typed", "*.jinja", "*.css", "*.js")
        for file in (ROOT / package).rglob(pattern)
    }
    bundled = {
        f"orchestrator/project/{file.relative_to(ROOT).as_posix()}"
        for file in [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / name for name in SOURCES[4:7])]
    }
    assert files <= names and bundled <= names and len(bundled) > 10
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)


def test_light_commands_name_the_program(installation: Installation, tmp_path: Path) -> None:
    version = installation.call(installation.program, "--version", cwd=tmp_path)
    assert version == f"{installation.version}\n"  # without a commit
    example = installation.call(installation.program, "configs", "digits_dual", cwd=tmp_path)
    assert example.startswith("# distil sweep --config configs/digits_dual.yaml\n")
    assert "Usage: distil [OPTIONS]" in installation.call(
        installation.program, "--help", cwd=tmp_path
    )


def test_commands_in_another_folder(installation: Installation, tmp_path: Path) -> None:
    wrong = ("--set", "data.name=digit")
    (code, methods), example, missing = installation.run_commands(
        ["methods"],
        ["sweep", "--config", "digits_dual", *wrong],
        ["sweep", "--config", "none.yaml"],
        cwd=tmp_path,
    )
    assert code == 0 and "Hinton" in methods
    assert example[0] == missing[0] == BAD_CONFIGURATION
    assert "note: --config digits_dual" in example[1] and "did you mean 'digits'" in example[1]
    assert "`distil configs`" in missing[1] and missing[1].count("\n") == 1


def test_a_submitted_package_is_that_of_a_checkout(
    installation: Installation, tmp_path: Path
) -> None:
    subprocess.run(
        ["git", "init", "--quiet", installation.folder], check=True
    )  # of another project
    location, packed, tags = installation.run_code(INSPECT, cwd=tmp_path)
    assert Path(location).is_relative_to(installation.folder)
    assert packed == sorted(collect(installation.source).files)
    assert tags["git.commit"] == "unknown" and "mlflow.source.git.commit" not in tags
    assert tags["version.distillation-orchestrator"] == installation.version
    with zipfile.ZipFile(tmp_path / "project.zip") as archive:
        archive.extractall(tmp_path / "job")
    job = installation.call(sys.executable, "run.py", "configs", "digits", cwd=tmp_path / "job")
    assert job == (ROOT / "configs" / "digits.yaml").read_text()


@pytest.mark.slow
def test_a_training_in_another_folder(installation: Installation, tmp_path: Path) -> None:
    small = ("data.limit.train=64", "training.epochs=1", "teacher.training.epochs=1")
    options = [word for pair in small for word in ("--set", pair)]
    outputs = installation.run_commands(
        ["train", "--local", "--name", "mine", *options],
        ["train", "--local", "--dry-run", "--config", "configs/digits_ic_kd.yaml"],
        ["sweep", "--dry-run", "--config", "digits_dual"],
        ["export", "mine"],
        ["report", "mine"],
        ["train", "--name", "mine"],
        cwd=tmp_path,
    )
    codes = [code for code, _ in outputs]
    training, example, planned, _, _, repeated = (text for _, text in outputs)
    assert codes == [0, 0, 0, 0, 0, BAD_CONFIGURATION], outputs
    assert "best student: trial 0" in training and "open MLflow: distil ui" in training
    assert "note: --config configs/digits_ic_kd.yaml" in example and "dual_student" in planned
    assert "`distil sweep --resume mine`" in repeated
    assert not [text for _, text in outputs if "run.py" in text]
    store = tmp_path / "runs"
    assert (store / "mlflow.db").is_file()
    pages = list(store.rglob("*.html"))
    assert pages and not [page for page in pages if "run.py" in page.read_text()]


@pytest.mark.slow
def test_doctor_compares_the_versions(installation: Installation, tmp_path: Path) -> None:
    code = "import json; from orchestrator.cli import _checks; "
    code += "print(json.dumps(_checks.check_packages(None)))"
    fitness, message = installation.run_code(code, cwd=tmp_path)
    assert fitness == "ok" and "packages satisfy pyproject.toml" in message
