"""Test that a process of the command line ends with its exit code, after its last output."""

import subprocess
import sys

import pytest

from orchestrator.core.errors import BAD_CONFIGURATION
from orchestrator.core.project import PACKAGES

PROGRAM = """
import atexit, sys
from orchestrator.cli import main as program

class Undestroyed:
    def __del__(self):
        print("destroyed")

def app():
    atexit.register(print, "registered function")
    print("output", end="")
    {end}

program.app, kept = app, Undestroyed()
program.main()
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit(0)", 0), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('a message')", 1)],
)
def test_the_process_ends_without_a_teardown_and_with_its_code(end: str, code: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (code, "outputregistered function\n")
    assert ("a message" in run.stderr) == ("message" in end)


def test_an_unexpected_error_ends_the_process_as_usual() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end="raise RuntimeError('broken')")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1 and "RuntimeError: broken" in run.stderr
    assert run.stdout.endswith("destroyed\n")


def test_a_command_ends_with_its_code() -> None:
    run = subprocess.run(
        [sys.executable, "run.py", "sweep", "--set", "no.such=1", "--dry-run"],
        cwd=PACKAGES,
        capture_output=True,
        text=True,
    )
    assert run.returncode == BAD_CONFIGURATION and "unknown key" in run.stderr
