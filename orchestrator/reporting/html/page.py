"""The parts of the page as HTML: tables, figures, sections, the frame. Everything that is said is made safe."""

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
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # nothing is loaded, and no script runs


def paragraph(given: str, classes: str = "") -> str:
    """A paragraph."""
    return f'<p class="{classes}">{text(given)}</p>' if classes else f"<p>{text(given)}</p>"


def preformatted(given: str) -> str:
    """Lines as they are."""
    return f"<pre>{text(given)}</pre>"


def step(given: str, command: str) -> str:
    """What may be done, and how."""
    return f"<p>{text(given)}{f' <code>{text(command)}</code>' if command else ''}</p>"


@dataclass(frozen=True)
class Cell:
    """A value in a table; `words` for what may be long."""

    value: Any
    words: bool = False

    def html(self) -> str:
        """The cell."""
        numeric = isinstance(self.value, int | float | str) and NUMERIC.fullmatch(str(self.value))
        kind = ' class="words"' if self.words else ' class="number"' if numeric else ""
        return f"<td{kind}>{text('' if self.value is None else word(self.value))}</td>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], best: int | None = None) -> str:
    """A table in a box of its own that scrolls; row `best` stands out. A cell is a value or a `Cell`."""
    lines = []
    for place, row in enumerate(rows):
        cells = "".join((given if isinstance(given, Cell) else Cell(given)).html() for given in row)
        lines.append(f'<tr class="best">{cells}</tr>' if place == best else f"<tr>{cells}</tr>")
    heads = "".join(f'<th scope="col">{text(name).replace("/", "/<wbr>")}</th>' for name in head)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def details(title: str, content: str) -> str:
    """Something that opens on demand."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def legend(entries: Sequence[tuple[str, Style]], lines: bool = True) -> str:
    """What each series is."""
    items = "".join(f"<li>{swatch(style, lines)}<span>{text(name)}</span></li>" for name, style in entries)
    return f'<ul class="legend">{items}</ul>' if items else ""


def figure(chart: Chart, caption: str, legend: str = "", behind: str = "") -> str:
    """A chart with its title, legend, caption and the numbers `behind` it."""
    kind = ' class="broad"' if chart.width > NARROW else ""
    numbers = details("the numbers", behind) if behind else ""
    return (
        f'<figure{kind}><h3>{text(chart.title)}</h3><div class="scroll">{chart.svg()}</div>{legend}'
        f"<figcaption>{text(caption)}</figcaption>{numbers}</figure>"
    )


def picture(kind: str, content: bytes, title: str, caption: str, broad: bool) -> str:
    """An image file of a `kind` such as image/png, in the page; a `broad` one has the whole width."""
    data = base64.b64encode(content).decode()
    alt, kind_of = f"{title}: {caption}", ' class="broad"' if broad else ""
    return (
        f'<figure{kind_of}><h4>{text(title)}</h4><div class="scroll"><img src="data:{kind};base64,{data}" alt="{text(alt)}"></div>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def charts(figures: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A few numbers at a glance."""
    return (
        '<dl class="facts">' + "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs) + "</dl>"
    )


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its title, and its content as HTML."""

    anchor: str
    title: str
    content: str


def page(title: str, lead: str, banner: Sequence[str], sections: Sequence[Section], foot: str) -> str:
    """The whole page; `banner` is what must not be overlooked."""
    links = "".join(f'<a href="#{section.anchor}">{text(section.title)}</a>' for section in sections)
    bodies = "".join(
        f'<section id="{section.anchor}"><h2>{text(section.title)}</h2>{section.content}</section>' for section in sections
    )
    warning = f'<div class="banner" role="note">{"".join(map(paragraph, banner))}</div>' if banner else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{GENERATOR}"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{STYLE}</style></head>'
        f"<body><header><h1>{text(title)}</h1>{paragraph(lead, 'muted')}{warning}<nav>{links}</nav></header>"
        f"<main>{bodies}</main><footer>{text(foot)}</footer></body></html>\n"
    )
