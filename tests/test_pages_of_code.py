"""Apply the code of the documentation pages to a copy of the project, and run their commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.pages import apply_diff, blocks, commands

ROOT = Path(__file__).parents[1]
COPIED_FOLDERS = (
    "methods",
    "search_spaces",
    "orchestrator",
    "configs",
    "tests/methods",
    "tests/models",
    "tests/search_spaces",
    "tests/training",
)
FULL, SMALL = "data: {name: digits}", "data: {name: digits, limit: {train: 320}}"
RUN_ALL = """
import json, runpy, sys
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""  # one interpreter for several commands, because importing torch takes most of the time


def copy_project(folder: Path) -> Path:
    """Copy the parts of the project that the pages change, with fewer images; return the copy."""
    for name in COPIED_FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "run.py",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/families.py",
        "tests/process_group.py",
        "tests/refusal.py",
        "tests/writer_thread.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    experiment = folder / "configs" / "digits.yaml"  # that of a command without `--config`
    text = experiment.read_text()
    assert FULL in text
    experiment.write_text(text.replace(FULL, SMALL))
    return folder


def run_commands(lines: list[list[str]], folder: Path) -> str:
    """Run these commands, which must succeed, and return their output."""
    assert all(words[0] == "python" for words in lines)
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN_ALL, json.dumps([words[1:] for words in lines])]
    completed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, f"{completed.stdout[-3000:]}\n{completed.stderr[-3000:]}"
    return completed.stdout


def apply_page(page: str, folder: Path) -> str:
    """Write the page's code, run its commands, and return their output."""
    lines: list[list[str]] = []
    for block in blocks(page):
        file = folder / block.file
        if block.language == "python":
            assert not file.exists(), "a page may not replace an existing file"
            file.write_text(block.text)
        elif block.language == "diff":
            file.write_text(apply_diff(file.read_text(), block.text))
        else:
            lines += [line + ["--dry-run"] * (line[2] == "sweep") for line in commands(block)]
    return run_commands(lines, folder)


def test_method_of_the_page_is_checked_and_trained(tmp_path: Path) -> None:
    output = apply_page("how-to/method.md", copy_project(tmp_path / "project"))
    assert " passed" in output and "best student: trial 0" in output


def test_capability_of_the_page_is_served(tmp_path: Path) -> None:
    assert " passed" in apply_page("how-to/capability.md", copy_project(tmp_path / "project"))


def test_network_of_the_page_is_trained(tmp_path: Path) -> None:
    output = apply_page("how-to/network.md", copy_project(tmp_path / "project"))
    assert " passed" in output and ["student", "tiny", "(width=4)"] in map(
        str.split, output.splitlines()
    )
