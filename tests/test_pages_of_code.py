"""Apply the code of the documentation pages to a copy of the project, and run their commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.pages import blocks, commands, patched

ROOT = Path(__file__).parents[1]
COPIED = (
    "methods",
    "search_spaces",
    "orchestrator",
    "configs",
    "tests/methods",
    "tests/models",
    "tests/search_spaces",
)
ALL_IN_ONE = """
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


def copied(folder: Path) -> Path:
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "run.py",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/process_group.py",
        "tests/refusal.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    return folder


def ran(lines: list[list[str]], folder: Path) -> str:
    """Run these commands, which must succeed, and return their output."""
    assert all(words[0] == "python" for words in lines)
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ALL_IN_ONE, json.dumps([words[1:] for words in lines])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def followed(page: str, folder: Path) -> str:
    """Write the page's code, run its commands, and return their output."""
    lines: list[list[str]] = []
    for block in blocks(page):
        file = folder / block.file
        if block.language == "python":
            assert not file.exists(), "a page adds files, and changes lines"
            file.write_text(block.text)
        elif block.language == "diff":
            file.write_text(patched(file.read_text(), block.text))
        else:
            lines += [line + ["--dry-run"] * (line[2] == "sweep") for line in commands(block)]
    return ran(lines, folder)


def test_the_method_of_the_page_is_checked_and_trained(tmp_path: Path) -> None:
    said = followed("how-to/method.md", copied(tmp_path / "project"))
    assert " passed" in said and "best student: trial 0" in said


def test_the_network_of_the_page_is_taken(tmp_path: Path) -> None:
    said = followed("how-to/network.md", copied(tmp_path / "project"))
    assert " passed" in said and ["student", "tiny", "(width=4)"] in map(
        str.split, said.splitlines()
    )
