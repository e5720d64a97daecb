"""Draw charts of the best student's predictions: confusions, calibration and classes."""

import numpy as np

from orchestrator.reporting.html import page
from orchestrator.reporting.html._chart import BROAD, NARROW, Chart, Names, Scale, short
from orchestrator.reporting.html._predictions import Predictions
from orchestrator.training.metrics import BINS

MATRIX = 25  # largest number of classes in a readable matrix
COUNTED = 12  # largest number of classes with numbers in the cells
WORST = 20  # confusions, and classes, that are shown if there are more


def confusion(found: Predictions) -> str:
    """Return the confusion matrix. With many classes, return the most frequent confusions."""
    counts = found.confusion
    names = found.classes
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts > 0) if i != j]
    wrong.sort(key=lambda each: (-each[0], each[1], each[2]))
    rows = [
        [names[i], names[j], count, f"{count / counts[i].sum():.1%}"]
        for count, i, j in wrong[:WORST]
    ]
    listed = (
        page.table(["true class", "predicted class", "samples", "share of the class"], rows)
        if rows
        else page.paragraph("No sample is misclassified.")
    )
    if len(names) > MATRIX:
        note = page.paragraph(
            f"With {len(names)} classes a matrix is not readable; the table lists the most "
            f"frequent confusions.",
            "muted",
        )
        return f"<figure><h3>Confusions</h3>{note}{listed}</figure>"
    chart = _matrix(found)
    caption = (
        f"Rows: true classes; columns: predicted classes; colour: share of the row. "
        f"{_sample_note(found)}"
    )
    return page.figure(chart, caption, behind=listed)


def _matrix(found: Predictions) -> Chart:
    counts, names = found.confusion, tuple(found.classes)
    side = NARROW if len(names) <= COUNTED else BROAD
    left = 40 + 6.2 * max(len(short(name, 12)) for name in names)
    chart = Chart(f"confusion-{found.letter}", "Confusion matrix", side, side, (8, 8, left, left))
    shown = tuple(short(f"{name}", 12) for name in names)
    distinct = (
        shown
        if len(set(shown)) == len(shown)
        else tuple(f"{place} {name}" for place, name in enumerate(shown))
    )
    x, y = Names(distinct, chart.left, chart.right), Names(distinct, chart.top, chart.bottom)
    chart.x_axis(x, "predicted class", grid=False)
    chart.y_axis(y, "true class", grid=False)
    for row, column in np.ndindex(counts.shape):
        count, whole = int(counts[row, column]), int(counts[row].sum())
        share = count / whole if whole else 0.0
        across, up = chart.left + column * x.band, chart.top + row * y.band
        tooltip = f"{names[row]} predicted as {names[column]}: {count} of {whole}" if count else ""
        if count:
            chart.box(
                across, up, x.band - 1, y.band - 1, "f0", tooltip, opacity=0.12 + 0.85 * share
            )
        if count and len(names) <= COUNTED:
            kind = "inverse" if share > 0.5 else "tick"
            chart.text(across + x.band / 2, up + y.band / 2 + 4, str(count), "middle", kind)
    return chart


def reliability(found: Predictions) -> str:
    """Return the reliability diagram: accuracy by confidence, with the number of samples below."""
    chart = Chart(
        f"reliability-{found.letter}", "Reliability diagram", height=400, margins=(14, 16, 110, 60)
    )
    x, y = Scale(0.0, 1.0, chart.left, chart.right), Scale(0.0, 1.0, chart.bottom, chart.top)
    width = (chart.right - chart.left) / BINS
    chart.y_axis(y, "accuracy")
    for position, label in x.ticks:
        chart.text(position, chart.bottom + 16, label, "middle")
    most = max(each.samples for each in found.bins)
    floor = chart.height - 24
    for each in found.bins:
        tooltip = (
            f"{each.samples} samples, mean confidence {each.confidence:.3f}, "
            f"accuracy {each.accuracy:.3f}"
        )
        chart.box(
            x(each.low) + 1,
            y(each.accuracy),
            width - 2,
            y(0) - y(each.accuracy),
            "f0",
            tooltip,
            opacity=0.75,
        )
        chart.mark(x(each.confidence), y(each.accuracy), "diamond", "f1 s1", tooltip)
        chart.box(
            x(each.low) + 1,
            floor,
            width - 2,
            -50 * each.samples / most,
            "f2",
            tooltip,
            opacity=0.75,
        )
    chart.line([(x(0), y(0)), (x(1), y(1))], "s6 thin", "5 4", "perfect calibration")
    chart.text(
        (chart.left + chart.right) / 2,
        chart.height - 6,
        "confidence (bars at the bottom: number of samples)",
        "middle",
        "label",
    )
    rows = [
        [
            f"{each.low:.3f} to {each.low + 1 / BINS:.3f}",
            each.samples,
            f"{each.confidence:.4f}",
            f"{each.accuracy:.4f}",
        ]
        for each in found.bins
    ]
    caption = (
        "Bars: accuracy of the predictions in each confidence bin; diamonds: the accuracy at the "
        "mean confidence of the bin; dashed line: perfect calibration. "
        f"Expected calibration error {found.calibration_error:.4f} "
        f"({BINS} bins). {_sample_note(found)}"
    )
    return page.figure(
        chart,
        caption,
        behind=page.table(["confidence", "samples", "mean confidence", "accuracy"], rows),
    )


def per_class(found: Predictions) -> str:
    """Return a chart of the accuracy in each class, the worst first.

    With many classes it shows the worst and the best.
    """
    counts = found.confusion
    totals = counts.sum(axis=1)
    known = [place for place in range(len(found.classes)) if totals[place]]
    order = sorted(known, key=lambda place: (counts[place, place] / totals[place], place))
    drawn = order if len(order) <= 30 else [*order[:WORST], *order[-5:]]
    chart = Chart(
        f"classes-{found.letter}",
        "Accuracy of each class",
        height=64 + 20.0 * len(drawn),
        margins=(8, 52, 44, 118),
    )
    x = Scale(0.0, 1.0, chart.left, chart.right)
    chart.x_axis(x, "accuracy")
    for row, place in enumerate(drawn):
        share, y = counts[place, place] / totals[place], chart.top + 20 * row
        tooltip = f"{found.classes[place]}: {counts[place, place]} of {totals[place]}"
        chart.text(chart.left - 8, y + 14, short(found.classes[place], 17), "end")
        chart.box(x(0), y + 3, x(share) - x(0), 14, "f1" if row == 0 else "f0", tooltip)
        chart.text(x(share) + 5, y + 14, f"{share:.1%}")
    rows = [
        [
            found.classes[place],
            int(totals[place]),
            int(counts[place, place]),
            f"{counts[place, place] / totals[place]:.1%}",
        ]
        for place in order
    ]
    left_out = (
        f" Only the {WORST} worst and the 5 best of {len(order)} classes are drawn."
        if len(drawn) < len(order)
        else ""
    )
    caption = f"The worst class is highlighted.{left_out} {_sample_note(found)}"
    return page.figure(
        chart, caption, behind=page.table(["class", "samples", "correct", "accuracy"], rows)
    )


def _sample_note(found: Predictions) -> str:
    subset = "" if len(found.labels) == found.whole else f", evenly spaced among {found.whole}"
    return f"Data: {len(found.labels)} samples of the {found.part} part{subset}."
