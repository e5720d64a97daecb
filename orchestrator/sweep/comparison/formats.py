"""Write a comparison as Markdown, LaTeX, CSV, JSON or an HTML page, and draw its differences."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.reporting.html.forest import CHART_KINDS, Interval, draw_forest, save_chart
from orchestrator.reporting.html.page import Figure, Table, render
from orchestrator.reporting.statistics import LEVEL
from orchestrator.sweep.comparison import page
from orchestrator.sweep.comparison.result import MEANS, Result, Row

LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
}
MINUS = re.compile(r"(?<![\w.])-(?=\d)")
POINTS = 100.0  # points of accuracy in a share of 1


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is, in one line; a minus sign before a number is one."""
    escaped = "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
    return MINUS.sub("$-$", escaped)


def latex(result: Result) -> str:
    """Return the tables for LaTeX with the package booktabs: test part, then published numbers."""
    methods = ", ".join(row.method for row in result.rows)
    captions = {
        f"{result.data}, {result.teacher} to {result.student}: test part, for {methods}": (
            page.quality(result)
        ),
        f"{result.data}, {result.teacher} to {result.student}: published": page.published(result),
    }
    tables = [
        _latex_table(caption, titles, rows) for caption, (titles, rows) in captions.items() if rows
    ]
    sentences = [*page.list_conclusions(result), *page.conditions(result)]
    notes = "\n".join(f"\\item {escape_latex(line)}" for line in sentences)
    return "\n\n".join(
        [
            "% needs \\usepackage{booktabs}",
            *tables,
            f"\\begin{{itemize}}\n{notes}\n\\end{{itemize}}",
        ]
    )


def _latex_table(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape_latex(caption)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
        r"\toprule",
        f"{' & '.join(map(escape_latex, titles))} \\\\",
        r"\midrule",
        *(f"{' & '.join(map(escape_latex, row))} \\\\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def comma_separated(result: Result) -> str:
    """Return a line per method with all numbers in full, as CSV.

    Accuracies and their differences are shares; published accuracies are in per cent.
    """
    lines = [_plain_row(result, row) for row in result.rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _plain_row(result: Result, row: Row) -> dict[str, Any]:
    values: dict[str, Any] = {"method": row.method}
    for name in MEANS:
        mean = row.means.get(name)
        values[name] = mean and mean.value
        values[f"{name}_error"] = mean and mean.error
    accuracy = row.means.get("accuracy")
    values["seeds"] = accuracy.count if accuracy else 0
    for reference in result.references:
        against = row.against.get(reference)
        for key in ("mean", "low", "high"):
            suffix = "" if key == "mean" else f"_{key}"
            values[f"over_{reference}{suffix}"] = against and getattr(against.difference, key)
        values[f"over_{reference}_p"] = against and against.corrected
    one = result.published.accuracies.get(row.method) if result.published else None
    for key in ("accuracy", "deviation", "epochs", "views", "chosen", "protocol", "source"):
        values[f"published_{key}"] = one and getattr(one, key)
    values["published_verified"] = one and one.verified
    values["published_comparable"] = one and one.comparable
    return values


def json_text(result: Result) -> str:
    """Return all values as JSON."""
    return json.dumps(result.plain(), indent=1)


def html(result: Result) -> str:
    """Return one self-contained page with the tables and the forest plots."""
    tables = {
        "Test part": page.quality(result),
        "Published": page.published(result),
        "Cost": page.costs(result),
    }
    return render(
        "comparison.html",
        name=result.name,
        summary=f"{', '.join(row.method for row in result.rows)} on {result.data}",
        conclusions=page.list_conclusions(result),
        conditions=page.conditions(result),
        figures=[_forest_figure(result, reference) for reference in list_forests(result)],
        tables={name: Table(titles, rows) for name, (titles, rows) in tables.items() if rows},
    )


def list_forests(result: Result) -> dict[str, list[Interval]]:
    """Return the rows of a forest plot by reference, in points, without references of no row."""
    forests = {
        reference: [
            Interval(
                row.method,
                POINTS * paired.mean,
                None if paired.low is None else POINTS * paired.low,
                None if paired.high is None else POINTS * paired.high,
            )
            for row in result.rows
            if reference in row.against and (paired := row.against[reference].difference)
        ]
        for reference in result.references
    }
    return {reference: rows for reference, rows in forests.items() if rows}


def _forest_figure(result: Result, reference: str) -> Figure:
    rows = list_forests(result)[reference]
    data = Table(["method", "points"], [[row.label, row.text] for row in rows])
    return Figure(draw_reference(result, reference), describe_intervals(), data)


def describe_intervals() -> str:
    """Return the caption of a forest plot."""
    return f"mean difference over paired seeds, with its {LEVEL:.0%} t interval, not corrected"


def draw_reference(result: Result, reference: str) -> Any:
    """Return the forest plot of the differences to a reference."""
    return draw_forest(
        f"forest-{reference}",
        f"Test accuracy over {reference}",
        f"points over {reference}",
        list_forests(result)[reference],
    )


FORMATS: dict[str, Callable[[Result], str]] = {
    "markdown": page.markdown,
    "latex": latex,
    "csv": comma_separated,
    "json": json_text,
    "html": html,
}


def list_files(result: Result) -> dict[str, bytes]:
    """Return the files of a comparison by name: its tables, its page and its forest plots."""
    texts = {
        "comparison.md": page.markdown(result),
        "comparison.tex": latex(result),
        "comparison.csv": comma_separated(result),
        "comparison.html": html(result),
        "result.json": json_text(result),
    }
    files = {name: text.encode() for name, text in texts.items()}
    for reference in list_forests(result):
        for kind in CHART_KINDS:
            name = f"forest-{reference}.{kind}"
            files[name] = save_chart(draw_reference(result, reference), kind)
    return files


def require_format(name: str) -> str:
    """Return the name of a format; raise ConfigurationError if there is no such format."""
    if name not in FORMATS:
        raise ConfigurationError(
            f"--format {name!r} is not a format: {suggest_name(name, FORMATS)}"
        ).with_details("--format", name, tuple(FORMATS))
    return name
