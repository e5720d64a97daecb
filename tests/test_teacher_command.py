"""Test `run.py teacher --precompute` without Ray: computed views, then cache hits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import run

ROOT = Path(__file__).parent.parent
SMALL = (
    "data.limit.train=300",
    "data.limit.validation=50",
    "data.limit.test=50",
    "data.augmentation=crop",
    "data.views=2",
    "training.epochs=3",
    "teacher.network.width=8",
    "teacher.training.epochs=1",
)


def precompute_arguments(store: Path, *pairs: str) -> list[str]:
    return [
        "teacher",
        "--precompute",
        "--local",
        "--store",
        str(store),
        *(part for pair in (*SMALL, *pairs) for part in ("--set", pair)),
    ]


def run_precompute(store: Path) -> subprocess.CompletedProcess[str]:
    """Run `run.py teacher --precompute --local` in its own process."""
    command = [sys.executable, "run.py", *precompute_arguments(store)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        command, cwd=ROOT, env=environment | {"COLUMNS": "200"}, capture_output=True, text=True
    )


def test_cache_is_filled_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_precompute(tmp_path)
    assert first.returncode == 0 and not first.stderr, first.stderr
    lines = first.stdout.splitlines()
    assert any(line.startswith("epoch 1: validation accuracy") for line in lines)
    assert f"precomputing 3 views in {tmp_path / 'knowledge'}" in lines
    views = [
        "the clean view computed (1 of 3)",
        "view 0 computed (2 of 3)",
        "view 1 computed (3 of 3)",
    ]
    assert [line for line in lines if " of 3)" in line] == views
    assert "cache: 3 views computed, 0 were cached" in lines
    files = {file.name: file for file in (tmp_path / "knowledge").glob("*/*.npy")}
    assert set(files) == {"clean.npy", "view-00000.npy", "view-00001.npy"}
    assert all(np.load(file).shape == (300, 10) for file in files.values())
    contents = {name: file.read_bytes() for name, file in files.items()}

    # in this process, because another one takes seconds to start
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    second = CliRunner().invoke(run.app, precompute_arguments(tmp_path))
    assert second.exit_code == 0, second.output
    lines = second.output.splitlines()
    assert [line for line in lines if " of 3)" in line] == [
        view.replace("computed", "cached") for view in views
    ]
    assert "cache: 0 views computed, 3 were cached" in lines and not any(
        line.startswith("epoch") for line in lines
    )
    assert {name: file.read_bytes() for name, file in files.items()} == contents


@pytest.mark.parametrize(
    ("pair", "reason", "advice"),
    [
        ("teacher.mode=online", "(teacher.mode = online)", ": set teacher.mode=cached"),
        (
            "teacher.cache_gib=1e-6",
            "teacher.cache_gib = 1e-06",
            ": raise teacher.cache_gib, lower data.views, or name another folder with "
            "teacher.cache",
        ),
    ],
)
def test_precompute_without_a_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: str, reason: str, advice: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # in this process, because another one takes 3 s to start
    result = CliRunner().invoke(run.app, precompute_arguments(tmp_path, pair))
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert result.output.startswith("error: --precompute: the teacher is ")
    assert reason in result.output and result.output.rstrip().endswith(advice)
    assert not (tmp_path / "teachers").exists(), "no teacher may be trained"
