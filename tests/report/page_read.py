"""Parse the page of a sweep: its tags, attributes and words."""

from html.parser import HTMLParser
from typing import Any

from orchestrator.reporting.html.report import report
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store

SECTIONS = [
    "summary",
    "trials",
    "curves",
    "stopped",
    "settings",
    "cost",
    "student",
    "pictures",
    "configuration",
    "environment",
]
SECTIONS += ["reproduce"]
VOID = {"meta", "link", "img", "br", "wbr"}


class Page(HTMLParser):
    """Parser that records a page's content, and asserts that its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.titled: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, name: str) -> list[str]:
        """Return all values of an attribute."""
        return [str(given[name]) for _, given in self.tags if name in given]

    @property
    def text(self) -> str:
        """Return all readable text."""
        return " ".join(self.words)


def page_of(sweep: Sweep) -> Page:
    """Return the page of a sweep in its store."""
    store = Store(sweep.folder.parents[1])
    return Page(report(store, Sweep.open(store, sweep.name)).html)


def change(sweep: Sweep, number: int, **values: Any) -> None:
    """Change values of a trial."""
    sweep.save_trial(Trial(**vars(sweep.trials[number]) | values))
