"""Render the parts of the page as HTML: tables, figures, sections and the frame.

All text is sanitized and escaped.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.reporting.html._chart import NARROW, Chart, Style, swatch, word
from orchestrator.reporting.html._escape import text as text
from orchestrator.reporting.html._style import STYLE

NUMERIC = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?%?")
GENERATOR = "distillation-orchestrator report"
# Nothing is loaded, and no script runs
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def paragraph(given: str, classes: str = "") -> str:
    """Return a paragraph."""
    return f'<p class="{classes}">{text(given)}</p>' if classes else f"<p>{text(given)}</p>"


def preformatted(given: str) -> str:
    """Return preformatted lines."""
    return f"<pre>{text(given)}</pre>"


def step(given: str, command: str) -> str:
    """Return a possible next step with its command."""
    return f"<p>{text(given)}{f' <code>{text(command)}</code>' if command else ''}</p>"


@dataclass(frozen=True)
class Cell:
    """A value in a table; `words` marks a value that may be long."""

    value: Any
    words: bool = False

    def html(self) -> str:
        """Return the cell as HTML."""
        numeric = isinstance(self.value, int | float | str) and NUMERIC.fullmatch(str(self.value))
        kind = ' class="words"' if self.words else ' class="number"' if numeric else ""
        return f"<td{kind}>{text('' if self.value is None else word(self.value))}</td>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], best: int | None = None) -> str:
    """Return a table in a scrolling box.

    Args:
        head: The names of the columns.
        rows: The rows; a cell is a value or a `Cell`.
        best: The index of the row to highlight.
    """
    lines = []
    for place, row in enumerate(rows):
        cells = "".join((given if isinstance(given, Cell) else Cell(given)).html() for given in row)
        lines.append(f'<tr class="best">{cells}</tr>' if place == best else f"<tr>{cells}</tr>")
    heads = "".join(f'<th scope="col">{text(name).replace("/", "/<wbr>")}</th>' for name in head)
    return (
        f'<div class="scroll" '
        f'tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def details(title: str, content: str) -> str:
    """Return content that opens on demand."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def legend(entries: Sequence[tuple[str, Style]], lines: bool = True) -> str:
    """Return the names of the series with their styles."""
    items = "".join(
        f"<li>{swatch(style, lines)}<span>{text(name)}</span></li>" for name, style in entries
    )
    return f'<ul class="legend">{items}</ul>' if items else ""


def figure(chart: Chart, caption: str, legend: str = "", behind: str = "") -> str:
    """Return a chart with its title, legend, caption and the numbers `behind` it."""
    kind = ' class="broad"' if chart.width > NARROW else ""
    numbers = details("Data", behind) if behind else ""
    return (
        f'<figure{kind}><h3>{text(chart.title)}</h3><div class="scroll">{chart.svg()}</div>{legend}'
        f"<figcaption>{text(caption)}</figcaption>{numbers}</figure>"
    )


def picture(kind: str, content: bytes, title: str, caption: str, broad: bool) -> str:
    """Return an embedded image file.

    Args:
        kind: The media type, such as image/png.
        content: The bytes of the file.
        title: The title.
        caption: The caption.
        broad: Whether the image has the whole width.
    """
    data = base64.b64encode(content).decode()
    alt, kind_of = f"{title}: {caption}", ' class="broad"' if broad else ""
    return (
        f'<figure{kind_of}><h4>{text(title)}</h4><div class="scroll"><img '
        f'src="data:{kind};base64,{data}" alt="{text(alt)}"></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def charts(figures: Sequence[str]) -> str:
    """Return figures side by side where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def view(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a list of key numbers."""
    return (
        '<dl class="facts">'
        + "".join(
            f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs
        )
        + "</dl>"
    )


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its title, and its content as HTML."""

    anchor: str
    title: str
    content: str


def page(
    title: str, lead: str, banner: Sequence[str], sections: Sequence[Section], foot: str
) -> str:
    """Return the whole page.

    Args:
        title: The title.
        lead: The line below the title.
        banner: Warnings at the top.
        sections: The sections.
        foot: The footer.
    """
    links = "".join(
        f'<a href="#{section.anchor}">{text(section.title)}</a>' for section in sections
    )
    bodies = "".join(
        f'<section id="{section.anchor}"><h2>{text(section.title)}</h2>{section.content}</section>'
        for section in sections
    )
    warning = (
        f'<div class="banner" role="note">{"".join(map(paragraph, banner))}</div>' if banner else ""
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{GENERATOR}"><meta '
        f'http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta '
        'name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{STYLE}</style></head>'
        f"<body><header><h1>{text(title)}</h1>{paragraph(lead, 'muted')}{warning}"
        f"<nav>{links}</nav></header>"
        f"<main>{bodies}</main><footer>{text(foot)}</footer></body></html>\n"
    )
