"""Extract the fenced blocks, commands and table options of a Markdown page, for tests that run
them.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
FENCED = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the file that it defines or changes (empty: none), its text."""

    language: str
    file: str
    text: str


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page of `docs/` in order.

    Each has a language that a test runs.
    """
    parsed = [Block(*match) for match in FENCED.findall((DOCS / page).read_text())]
    assert parsed and {block.language for block in parsed} <= {*("sh", "python", "yaml", "diff")}, (
        page
    )
    return parsed


def commands(block: Block) -> list[list[str]]:
    """Return the command lines of a block as words; a backslash continues a line."""
    return [
        shlex.split(line, comments=True)
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip()
    ]


def variations(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the row label and the options of each table row whose second cell is `--set ...`."""
    for label, options in re.findall(
        r"^\| ([^|]+) \| `(--[^`]+)` \|$", (DOCS / page).read_text(), re.MULTILINE
    ):
        yield label, shlex.split(options)


def printed_commands(text: str) -> Iterator[list[str]]:
    """Yield the words after `python run.py` or `distil` of a page's commands.

    The commands are fenced, indented or inline.
    """
    text = text.replace("\\\n", " ")
    program = r"(?:python run\.py|distil)"
    for line in re.findall(
        rf"^(?:\s{{4}}|){program} (.+)$|`{program} ([^`\n]+)`", text, re.MULTILINE
    ):
        words = shlex.split(line[0] or line[1], comments=True)
        yield words[: words.index(">")] if ">" in words else words


def apply_diff(text: str, diff: str) -> str:
    """Return the text with each `+` line inserted after the preceding line of the diff.

    The preceding line must occur exactly once.
    """
    after = ""
    for line in diff.splitlines():
        if line.startswith("+"):
            text = text.replace(f"{after}\n", f"{after}\n{line[1:]}\n")
            after = line[1:]
        else:
            after = line[1:]
            assert text.count(f"{after}\n") == 1, f"{after!r} does not occur once"
    return text
