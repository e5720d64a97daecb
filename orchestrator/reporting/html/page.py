"""Render the page from Jinja templates. All text is redacted and escaped."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.reporting.html._chart import PALETTE, Chart
from orchestrator.reporting.html._format import redacted, word

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).with_name("templates")
NUMERIC = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?%?")
GENERATOR = "distillation-orchestrator report"
# Nothing is loaded, and no script runs
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Cell:
    """A value in a table; `words` marks a value that may be long."""

    value: Any
    words: bool = False

    @property
    def kind(self) -> str:
        """Return the CSS class of the cell."""
        numeric = isinstance(self.value, int | float | str) and NUMERIC.fullmatch(str(self.value))
        return "words" if self.words else "number" if numeric else ""

    @property
    def text(self) -> str:
        """Return the text of the cell."""
        return "" if self.value is None else word(self.value)


@dataclass(frozen=True)
class Table:
    """Names of columns, and rows of values or cells.

    `best` is the index of the row to highlight; `empty` is shown instead of a table without rows.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    best: int | None = None
    empty: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """Return the cells of all rows."""
        return [
            [value if isinstance(value, Cell) else Cell(value) for value in row]
            for row in self.rows
        ]


@dataclass(frozen=True)
class Figure:
    """A chart with its caption and its data; without a chart, the data alone with a `heading`."""

    chart: Chart | None
    caption: str
    data: Table | None = None
    heading: str = ""


@dataclass(frozen=True)
class Picture:
    """An image file with its media type; a `broad` one has the whole width."""

    kind: str
    content: bytes
    title: str
    caption: str
    broad: bool

    @property
    def source(self) -> str:
        """Return the file as a data URI."""
        return f"data:{self.kind};base64,{base64.b64encode(self.content).decode()}"


def render(template: str = "page.html", **content: Any) -> str:
    """Return the page for the content that a template shows."""
    return (
        _environment()
        .get_template(template)
        .render(content, generator=GENERATOR, policy=POLICY, palette=PALETTE)
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["redacted"] = redacted
    return environment


def _finalize(value: Any) -> Any:
    """Return a value as redacted text; HTML stays as it is."""
    return value if hasattr(value, "__html__") else redacted(str(value))
