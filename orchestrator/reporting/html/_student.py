"""Draw charts of the best student's predictions: confusions, calibration and classes."""

import numpy as np

from orchestrator.reporting.html._chart import (
    BROAD,
    COLOURS,
    MUTED,
    NARROW,
    PAPER,
    Chart,
    category_scale,
    label_bars,
)
from orchestrator.reporting.html._predictions import Predictions
from orchestrator.reporting.html.page import Figure, Table
from orchestrator.training.metrics import BINS

MATRIX = 25  # largest number of classes in a readable matrix
COUNTED = 12  # largest number of classes with numbers in the cells
WORST = 20  # confusions, and classes, that are shown if there are more


def confusion(found: Predictions) -> Figure:
    """Return the confusion matrix. With many classes, return the most frequent confusions."""
    counts = found.confusion
    names = found.classes
    wrong = [(int(counts[i, j]), i, j) for i, j in np.argwhere(counts > 0) if i != j]
    wrong.sort(key=lambda each: (-each[0], each[1], each[2]))
    table = Table(
        ["true class", "predicted class", "samples", "share of the class"],
        [
            [names[i], names[j], count, f"{count / counts[i].sum():.1%}"]
            for count, i, j in wrong[:WORST]
        ],
        empty="No sample is misclassified.",
    )
    if len(names) > MATRIX:
        note = (
            f"With {len(names)} classes a matrix is not readable; the table lists the most "
            f"frequent confusions."
        )
        return Figure(None, note, table, "Confusions")
    caption = (
        f"Rows: true classes; columns: predicted classes; colour: share of the row. "
        f"{_sample_note(found)}"
    )
    return Figure(_matrix(found), caption, table)


def _matrix(found: Predictions) -> Chart:
    counts, names = found.confusion, found.classes
    side = NARROW if len(names) <= COUNTED else BROAD
    chart = Chart(f"confusion-{found.letter}", "Confusion matrix", side, side)
    axes = chart.axes
    axes.grid(visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        category_scale(axis, names, 12)
    axes.invert_yaxis()
    chart.label("predicted class", "true class")
    for row, column in np.argwhere(counts):
        count, whole = int(counts[row, column]), int(counts[row].sum())
        share = count / whole
        (cell,) = axes.bar(column, 0.97, 0.97, row - 0.485, color=(COLOURS[0], 0.12 + 0.85 * share))
        cell.set_url(f"{names[row]} predicted as {names[column]}: {count} of {whole}")
        if len(names) <= COUNTED:
            colour = PAPER if share > 0.5 else MUTED
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=11)
    return chart


def reliability(found: Predictions) -> Figure:
    """Return the reliability diagram: accuracy by confidence, with the number of samples below."""
    bins = found.bins
    name = f"reliability-{found.letter}"
    chart = Chart(name, "Reliability diagram", height=400, ratios=(5, 1))
    centres, width = [each.low + 0.5 / BINS for each in bins], 0.92 / BINS
    tooltips = [
        f"{each.samples} samples, mean confidence {each.confidence:.3f}, "
        f"accuracy {each.accuracy:.3f}"
        for each in bins
    ]
    accuracies, samples = [each.accuracy for each in bins], [float(each.samples) for each in bins]
    above, below = chart.rows
    for axes, values, colour in ((above, accuracies, COLOURS[0]), (below, samples, COLOURS[2])):
        bars = axes.bar(centres, values, width, color=(colour, 0.75))
        for bar, tooltip in zip(bars, tooltips, strict=True):
            bar.set_url(tooltip)
        axes.set_xlim(0, 1)
    above.plot(
        (0, 1),
        (0, 1),
        color=COLOURS[-1],
        linestyle="--",
        linewidth=1,
        alpha=0.55,
        url="perfect calibration",
    )
    above.scatter(
        [each.confidence for each in bins],
        accuracies,
        36,
        color=COLOURS[1],
        marker="D",
        urls=tooltips,
        zorder=3,
    )
    above.set_ylim(0, 1)
    above.tick_params(labelbottom=False)
    below.set_yticks([])
    chart.label("confidence (bars at the bottom: number of samples)", "accuracy")
    rows = [
        [
            f"{each.low:.3f} to {each.low + 1 / BINS:.3f}",
            each.samples,
            f"{each.confidence:.4f}",
            f"{each.accuracy:.4f}",
        ]
        for each in bins
    ]
    caption = (
        "Bars: accuracy of the predictions in each confidence bin; diamonds: the accuracy at the "
        "mean confidence of the bin; dashed line: perfect calibration. Expected calibration "
        f"error {found.calibration_error:.4f} ({BINS} bins). {_sample_note(found)}"
    )
    return Figure(
        chart, caption, Table(["confidence", "samples", "mean confidence", "accuracy"], rows)
    )


def per_class(found: Predictions) -> Figure:
    """Return a chart of the accuracy in each class, the worst first.

    With many classes it shows the worst and the best.
    """
    counts = found.confusion
    totals = counts.sum(axis=1)
    known = [place for place in range(len(found.classes)) if totals[place]]
    order = sorted(known, key=lambda place: (counts[place, place] / totals[place], place))
    drawn = order if len(order) <= 30 else [*order[:WORST], *order[-5:]]
    chart = Chart(
        f"classes-{found.letter}", "Accuracy of each class", height=64 + 20.0 * len(drawn)
    )
    shares = [counts[place, place] / totals[place] for place in drawn]
    colours = [COLOURS[1], *[COLOURS[0]] * (len(drawn) - 1)]
    bars = chart.axes.barh(range(len(drawn)), shares, 0.7, color=colours)
    for bar, place in zip(bars, drawn, strict=True):
        bar.set_url(f"{found.classes[place]}: {counts[place, place]} of {totals[place]}")
    label_bars(chart, bars, [f"{share:.1%}" for share in shares])
    category_scale(chart.axes.yaxis, [found.classes[place] for place in drawn], 17)
    chart.axes.invert_yaxis()
    chart.label("accuracy")
    rows = [
        [
            found.classes[place],
            int(totals[place]),
            int(counts[place, place]),
            f"{counts[place, place] / totals[place]:.1%}",
        ]
        for place in order
    ]
    if len(drawn) < len(order):
        left_out = f" Only the {WORST} worst and the 5 best of {len(order)} classes are drawn."
    else:
        left_out = ""
    caption = f"The worst class is highlighted.{left_out} {_sample_note(found)}"
    return Figure(chart, caption, Table(["class", "samples", "correct", "accuracy"], rows))


def _sample_note(found: Predictions) -> str:
    subset = "" if len(found.labels) == found.whole else f", evenly spaced among {found.whole}"
    return f"Data: {len(found.labels)} samples of the {found.part} part{subset}."
