"""The blocks of a Markdown page that a test runs: what is fenced, with its language and the file it names. Knows no page."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
FENCED = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the file that it is or changes (empty: none), its text."""

    language: str
    file: str
    text: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page of `docs/`, in order; each of them is of a kind that is run."""
    found = [Block(*match) for match in FENCED.findall((DOCS / page).read_text())]
    assert found and {block.language for block in found} <= {"sh", "python", "diff"}, page
    return found


def commands(block: Block) -> list[list[str]]:
    """The command lines of a block, as words; one may go on after a backslash."""
    return [shlex.split(line, comments=True) for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]


def patched(text: str, diff: str) -> str:
    """The text with every `+` line put behind the line before it in the diff, which occurs once."""
    after = ""
    for line in diff.splitlines():
        if line.startswith("+"):
            text = text.replace(f"{after}\n", f"{after}\n{line[1:]}\n")
            after = line[1:]
        else:
            after = line[1:]
            assert text.count(f"{after}\n") == 1, f"{after!r} does not occur once"
    return text
