"""Test the package for a cluster: only the program, a size limit, reproducible bytes."""

import zipfile
from pathlib import Path

import pytest

from orchestrator.cluster.package import MIB, collect, format_bytes
from orchestrator.core.errors import ConfigurationError
from tests.refusal import refused

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder like a checkout in use."""
    root = tmp_path / "project"
    for name in (
        "run.py",
        "pyproject.toml",
        "orchestrator/config/plan.py",
        "orchestrator/__pycache__/plan.cpython-311.pyc",
        "orchestrator/.secret",
        "methods/kd.py",
        "search_spaces/kd.py",
        "configs/digits.yaml",
        "configs/private.yaml",
        ".git/config",
        ".env",
        ".venv/bin/python",
        "runs/mlflow.db",
        "data/train.npz",
        "tests/test_plan.py",
        "docs/log.md",
        "benchmarks/cache.py",
        "project.egg-info/PKG-INFO",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("/configs/private.yaml\n/runs/\n")
    return root


def test_only_the_program_is_packaged(project: Path) -> None:
    assert sorted(collect(project).files) == [
        "configs/digits.yaml",
        "methods/kd.py",
        "orchestrator/config/plan.py",
        "pyproject.toml",
        "run.py",
        "search_spaces/kd.py",
    ]


def test_excluded_files_are_left_out_and_extra_files_are_packaged(
    project: Path, tmp_path: Path
) -> None:
    extra_file = tmp_path / "mine.yaml"
    extra_file.write_text("seed: 1")
    packed = collect(
        project,
        ["*.toml", "/configs"],
        {"submitted/mine.yaml": extra_file, "configs/digits.yaml": project / "configs/digits.yaml"},
    )
    assert sorted(packed.files) == [
        "configs/digits.yaml",  # the extra file
        "methods/kd.py",
        "orchestrator/config/plan.py",
        "run.py",
        "search_spaces/kd.py",
        "submitted/mine.yaml",
    ]
    with refused("--exclude", "run.py"):
        collect(project, ["run.py"])


def test_the_package_contains_all_imported_sources() -> None:
    packed = set(collect(ROOT).files)
    for package in ("orchestrator", "methods", "search_spaces"):
        sources = {file.relative_to(ROOT).as_posix() for file in (ROOT / package).rglob("*.py")}
        assert sources and sources <= packed
    assert {"run.py", "configs/digits.yaml"} <= packed
    assert not [name for name in packed if name.startswith(("tests", "docs", "benchmarks", "."))]


@pytest.mark.parametrize("target", ["file", "folder", "root of the project"])
def test_a_link_out_of_the_project_is_refused(project: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "key").write_text("secret")
    places = {
        "file": tmp_path / "outside" / "key",
        "folder": tmp_path / "outside",
        "root of the project": project,
    }
    (project / "methods" / "link").symlink_to(places[target])
    with refused("methods/link", str(places[target]), "a copy in the project"):
        collect(project)
    assert "methods/link" not in collect(project, ["methods/link"]).files


def test_a_link_within_the_project_is_packaged_as_a_file(project: Path, tmp_path: Path) -> None:
    (project / "methods" / "link.py").symlink_to(project / "methods" / "kd.py")
    archive = tmp_path / "archive.zip"
    collect(project).write(archive)
    with zipfile.ZipFile(archive) as written:
        assert written.read("methods/link.py") == b"methods/kd.py"
        # a link in the archive
        assert not any(entry.external_attr >> 28 == 0xA for entry in written.infolist())


def test_the_limit_names_the_largest_files(project: Path) -> None:
    (project / "configs" / "large.yaml").write_bytes(bytes(3 * MIB))
    (project / "methods" / "larger.py").write_bytes(bytes(4 * MIB))
    packed = collect(project)
    packed.require_at_most(7.1)
    with pytest.raises(ConfigurationError) as refusal:
        packed.require_at_most(7)
    message = str(refusal.value)
    assert message.startswith("--limit-mib 7: the project's 8 files take 7.0 MiB")
    assert (
        message.index("methods/larger.py (4.0 MiB)")
        < message.index("configs/large.yaml (3.0 MiB)")
        < message.index("--exclude")
    )


def test_equal_files_make_equal_archives(project: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    size = collect(project).write(first)
    assert size == first.stat().st_size
    (project / "run.py").touch()
    collect(project).write(second)
    assert first.read_bytes() == second.read_bytes()
    (project / "run.py").write_text("other")
    collect(project).write(second)
    assert first.read_bytes() != second.read_bytes()
    with zipfile.ZipFile(second) as written:
        assert written.read("run.py") == b"other" and set(written.namelist()) == set(
            collect(project).files
        )


def test_bytes_in_words() -> None:
    assert (format_bytes(2**10 * 3), format_bytes(MIB), format_bytes(MIB * 5 // 2)) == (
        "3 KiB",
        "1.0 MiB",
        "2.5 MiB",
    )


def test_an_installed_project_is_packaged_as_a_checkout(project: Path, tmp_path: Path) -> None:
    expected = collect(project).files
    packages = tmp_path / "site-packages"
    packages.mkdir()
    for name in ("orchestrator", "methods", "search_spaces"):
        (project / name).rename(packages / name)
    (packages / "other").mkdir()
    (packages / "other" / "module.py").touch()
    bundle = packages / "orchestrator" / "project"
    bundle.mkdir()
    for name in ("run.py", "pyproject.toml", "configs/digits.yaml"):
        (bundle / name).parent.mkdir(exist_ok=True)
        (project / name).rename(bundle / name)
    packed = collect(bundle, packages=packages)
    assert packed.files.keys() == expected.keys()
    assert packed.files["methods/kd.py"] == packages / "methods" / "kd.py"
    assert packed.files["run.py"] == bundle / "run.py"
