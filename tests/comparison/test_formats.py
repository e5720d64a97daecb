"""Test the formats of a comparison against cells written by hand, and its forest plots."""

import csv
import io
import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from orchestrator.reporting.html.forest import Interval, draw_forest, save_chart
from orchestrator.reporting.statistics import mean
from orchestrator.sweep.comparison import formats, page
from orchestrator.sweep.comparison._published_table import list_published
from orchestrator.sweep.comparison.result import Cost, Result, Row, differences
from tests.refusal import refused

# two seeds: kd is 0.03 and 0.01 above cross_entropy
VALUES = {"cross_entropy": {1: 0.50, 2: 0.54}, "kd": {1: 0.53, 2: 0.55}}
BEST = {"cross_entropy": [0.51, 0.55], "kd": [0.54, 0.56]}
NOTHING = Cost(0, None, None)


def made() -> Result:
    against = differences(VALUES)
    rows = tuple(
        Row(
            name,
            {},
            "",
            {
                "accuracy": mean(list(values.values())),
                "best_accuracy": mean(BEST[name]),
                "nll": mean([1.25, 1.25]),
            },
            against[name],
            None,
            NOTHING,
            NOTHING,
            2,
        )
        for name, values in VALUES.items()
    )
    published = next(one for one in list_published() if one.student == "vgg8")
    return Result(
        name="mine",
        data="CIFAR100",
        sizes={"train": 100, "test": 50},
        teacher="vgg13",
        teacher_accuracy=0.6,
        student="vgg8",
        epochs=4,
        seeds=(1, 2),
        trials=2,
        rows=rows,
        published=replace(
            published, accuracies={name: published.accuracies[name] for name in VALUES}
        ),
        remarks=("50 % of the data & more",),
    )


def table_cells(text: str, number: int = 0) -> list[list[str]]:
    """Return the cells of a Markdown table without the line below its titles."""
    tables = [part for part in text.split("\n\n") if part.startswith("| ")]
    lines = [line.strip("|").split(" | ") for line in tables[number].splitlines()]
    return [[cell.strip() for cell in line] for line in (lines[0], *lines[2:])]


def test_markdown_has_last_and_best_epoch_side_by_side() -> None:
    titles, *rows = table_cells(formats.FORMATS["markdown"](made()))
    assert titles[:3] == ["method", "accuracy, last epoch, %", "accuracy, best epoch, %"]
    # means of 0.50, 0.54 and of 0.53, 0.55; the standard error of two values is half their distance
    assert rows[0][:3] == ["cross_entropy", "52.00 ± 2.00", "53.00 ± 2.00"]
    assert rows[1][:3] == ["kd", "54.00 ± 1.00", "55.00 ± 1.00"]
    assert (rows[0][-1], rows[1][-1]) == ("70.36", "72.98 ± 0.19")
    assert rows[1][titles.index("NLL")] == "1.250 ± 0.000"


def test_markdown_has_the_protocol_next_to_every_published_number() -> None:
    titles, *rows = table_cells(formats.FORMATS["markdown"](made()), 1)
    assert titles[:5] == ["method", "published, %", "epochs", "views", "epoch"]
    assert rows[1][:5] == [
        *("kd", "72.98 ± 0.19", "240", "1 per epoch: crop and flip", "last epoch")
    ]
    assert all(len(row) == len(titles) for row in rows)


def test_csv_has_all_numbers_in_full() -> None:
    lines = list(csv.DictReader(io.StringIO(formats.FORMATS["csv"](made()))))
    assert [line["method"] for line in lines] == ["cross_entropy", "kd"]
    kd = lines[1]
    assert float(kd["accuracy"]) == pytest.approx(0.54) and kd["seeds"] == "2"
    assert float(kd["accuracy_error"]) == pytest.approx(0.01)
    assert float(kd["over_cross_entropy"]) == pytest.approx(0.02)
    # t = 12.706 for one degree of freedom, and a standard error of 0.01
    assert float(kd["over_cross_entropy_low"]) == pytest.approx(0.02 - 0.12706, abs=1e-5)
    assert float(kd["over_cross_entropy_high"]) == pytest.approx(0.02 + 0.12706, abs=1e-5)
    assert kd["over_kd"] == "" and kd["ece"] == ""
    assert (kd["published_accuracy"], kd["published_deviation"]) == ("72.98", "0.19")
    assert (kd["published_chosen"], kd["published_verified"]) == ("last epoch", "True")


def test_latex_is_a_booktabs_table_with_equally_many_cells() -> None:
    text = formats.FORMATS["latex"](made())
    for name in ("table", "tabular", "itemize"):
        assert text.count(f"\\begin{{{name}}}") == text.count(f"\\end{{{name}}}") > 0
    for part in text.split("\\begin{tabular}{")[1:]:
        columns, _, body = part.partition("}\n")
        body = body.partition("\\end{tabular}")[0]
        rules = [line for line in body.splitlines() if "rule" in line]
        assert rules == ["\\toprule", "\\midrule", "\\bottomrule"]
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert len(rows) == 3 and {row.count(" & ") for row in rows} == {len(columns) - 1}
    assert "cross\\_entropy & 52.00 $\\pm$ 2.00 & 53.00 $\\pm$ 2.00 & 0 & " in text
    assert "+2.00 [$-$10.71, +14.71]" in text and "72.98 $\\pm$ 0.19" in text
    assert "\\item 50 \\% of the data \\& more\n" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5% #1 {x} $2", "a\\_b \\& 5\\% \\#1 \\{x\\} \\$2"),
        ("\\input{/etc/passwd}", "\\textbackslash{}input\\{/etc/passwd\\}"),
        (
            "~ ^ < > |",
            "\\textasciitilde{} \\textasciicircum{} \\textless{} \\textgreater{} \\textbar{}",
        ),
        ("-1.5 ± 0.2, wrn-16-2, 5e-4, –", "$-$1.5 $\\pm$ 0.2, wrn-16-2, 5e-4, --"),
        ("a\n\nb", "a b"),
    ],
)
def test_latex_prints_text_as_it_is(text: str, expected: str) -> None:
    assert formats.escape_latex(text) == expected


def test_json_and_the_page_hold_the_same_result() -> None:
    found = made()
    assert json.loads(formats.FORMATS["json"](found)) == json.loads(json.dumps(found.plain()))
    text = formats.FORMATS["html"](found)
    for expected in ("52.00 ± 2.00", "72.98 ± 0.19", "50 % of the data &amp; more", "<svg"):
        assert expected in text
    assert "<script" not in text and "src=" not in text
    hostile = replace(found, remarks=("<script>alert(1)</script>",), name="<b>")
    assert "<script" not in formats.FORMATS["html"](hostile)


def test_a_forest_plot_has_the_differences_in_points() -> None:
    found = made()
    forests = formats.list_forests(found)
    assert list(forests) == ["cross_entropy", "kd"]
    (row,) = forests["cross_entropy"]
    assert (row.label, row.text) == ("kd", "+2.00 [-10.71, +14.71]")
    one_seed = replace(
        found,
        rows=tuple(
            replace(row, against=differences({k: {1: v[1]} for k, v in VALUES.items()})[row.method])
            for row in found.rows
        ),
    )
    assert formats.list_forests(one_seed)["kd"][0].text == "-3.00"
    svg = ElementTree.fromstring(formats.draw_reference(found, "kd").svg)
    tooltips = [element.text for element in svg.iter("title")]
    assert "cross_entropy: -2.00 [-14.71, +10.71]" in tooltips


def test_an_interval_is_drawn_from_its_low_to_its_high_end() -> None:
    rows = [Interval("one", 1.0, -2.0, 4.0), Interval("two", 3.0, None, None)]
    chart = draw_forest("name", "title", "points", rows)
    drawn: Any = chart.axes.collections[0]
    (line,) = drawn.get_segments()
    assert [list(point) for point in line] == [[-2.0, 2.0], [4.0, 2.0]]
    marks = np.asarray(chart.axes.collections[-1].get_offsets())
    assert marks.tolist() == [[1.0, 2.0], [3.0, 1.0]]
    assert [label.get_text() for label in chart.axes.get_yticklabels()] == ["one", "two"]
    assert save_chart(chart, "pdf").startswith(b"%PDF-")
    assert save_chart(chart, "png").startswith(b"\x89PNG")


def test_the_files_of_a_comparison() -> None:
    files = formats.list_files(made())
    assert set(files) == {
        *("comparison.md", "comparison.tex", "comparison.csv", "comparison.html", "result.json"),
        *(f"forest-{name}.{kind}" for name in ("kd", "cross_entropy") for kind in ("pdf", "png")),
    }
    assert files["comparison.md"].decode() == page.markdown(made())


def test_another_format_is_refused() -> None:
    assert formats.require_format("latex") == "latex"
    with refused("--format", "tex", ("markdown", "latex", "csv", "json", "html")):
        formats.require_format("tex")
