"""Build the navigation of the site, unlink files outside docs/, and title the fenced blocks that
name a file.
"""

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FIRST = ("index.md", "tutorial.md")
LAST = ("architecture.md", "results.md", "log.md")
SECTIONS = {"How-to guides": "how-to", "Reference": "reference"}
DECISIONS = {"Decisions": "decisions"}
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s#]+)(#[^)\s]*)?\)")
FENCE_OF_A_FILE = re.compile(r"^```(\w+) (\S+)$", re.MULTILINE)
log = logging.getLogger("mkdocs.hooks.site")  # a warning of this logger fails a strict build


def navigation(docs: Path = DOCS) -> list[Any]:
    """Return the navigation of all pages below `docs`."""

    def pages(folder: str) -> list[str]:
        return sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))

    def sections(folders: dict[str, str]) -> list[Any]:
        return [{title: pages(folder)} for title, folder in folders.items() if pages(folder)]

    top = pages(".")
    others = [page for page in top if page not in FIRST + LAST]
    last = [page for page in LAST if page in top]
    first = [page for page in FIRST if page in top]
    return [*first, *sections(SECTIONS), *others, *last[:1], *sections(DECISIONS), *last[1:]]


def unlink_outside(text: str, page: Path, root: Path = ROOT) -> tuple[str, list[str]]:
    """Replace links from a page to files outside docs/ by their text.

    Args:
        text: The Markdown of the page.
        page: Its file, below `root`/docs.
        root: The folder of the project.

    Returns:
        The text without these links, and the targets that do not exist.
    """
    missing: list[str] = []

    def replace(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        if target.is_relative_to(root / "docs"):
            return link[0]
        if not (target.is_relative_to(root) and target.exists()):
            missing.append(link[2])
        return link[1]

    return OUTSIDE.sub(replace, text), missing


def title_fences(text: str) -> str:
    """Turn the file name of a fenced block into its title, in the syntax of superfences."""
    return FENCE_OF_A_FILE.sub(r'```\1 title="\2"', text)


def on_config(config: Any) -> Any:
    """Set the navigation."""
    config["nav"] = navigation()
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the links of a page, title its fences, and warn about missing targets."""
    file = DOCS / page.file.src_uri
    text, missing = unlink_outside(markdown, file)
    for target in missing:
        log.warning("%s links to %s, which does not exist", page.file.src_uri, target)
    return title_fences(text)
