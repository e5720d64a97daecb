"""Draw figures of classes: predicted distributions, weights and accuracies, from arrays."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.reporting.figures._figure import (
    BLACK,
    BLUE,
    ORANGE,
    SKY,
    VERMILLION,
    Array,
    create_figure,
    dots,
    epochs_along,
    finite,
    named,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SOURCES = {"teacher": BLUE, "reweighted": ORANGE, "student": VERMILLION}
FEW = 12  # largest number of classes with readable numbers and bars
TOP = 10  # classes that are shown of a distribution over many
SAMPLES = 6
BARS = 20  # largest number of classes in a list of names
NAMED = 3  # classes that are named at each end if there are more than BARS
# Cells of a heat map along an axis; more would be indistinguishable, in a file of a megabyte
CELLS = 100


def class_weights(weights: Array, classes: Sequence[str] = ()) -> "Figure | None":
    """Draw the mean weight that each class gets on samples of each true class.

    With more than 100 classes, a cell shows the weight farthest from 1 in a block of classes.

    Args:
        weights: (K, K) mean weight of class c (column) on samples of a true class (row); 1 is
        unchanged.
        classes: The names of the classes.

    Returns:
        The figure, or None for another shape.
    """
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not weights.size:
        return None
    many = len(weights)
    side = -(-many // CELLS)
    cells = finite(weights) if side == 1 else _strongest(finite(weights), side)
    few = many <= FEW
    figure, axes = create_figure(6.4, 5.4)
    (axis,) = axes
    apart = np.abs(cells - 1)
    reach = float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0
    limit = max(reach, 0.01)
    extent = (-0.5, many - 0.5, many - 0.5, -0.5)
    image = axis.imshow(
        cells,
        cmap="PuOr_r",
        vmin=1 - limit,
        vmax=1 + limit,
        extent=extent,
        aspect="auto",
        interpolation="nearest",
    )
    if few:
        for row, column in np.ndindex(*cells.shape):
            light = not apart[row, column] > 0.6 * limit
            text = f"{cells[row, column]:.2f}"
            axis.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color="black" if light else "white",
            )
    ticks = np.arange(0, many, -(-many // 20))
    labels = [named(number, classes) for number in ticks]
    slanted = max(map(len, labels)) > 3
    figure.subplots_adjust(
        left=0.17 if slanted else 0.11, right=0.905, top=0.93, bottom=0.18 if slanted else 0.1
    )
    axis.set_xticks(
        ticks,
        labels,
        rotation=45 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axis.set_yticks(ticks, labels)
    axis.set(xlabel="class whose probability is weighted", ylabel="true class")
    if slanted:
        axis.xaxis.set_label_coords(0.5, -0.165)
    block = "" if side == 1 else f" (strongest of {side} x {side} classes)"
    axis.set_title(
        f"Weight of each class in the teacher's distribution{block}", fontsize=10 if block else 11
    )
    figure.colorbar(image, ax=axis, label="mean weight (1: unchanged)", fraction=0.05, pad=0.02)
    return figure


def distributions(shown: Mapping[str, Array], classes: Sequence[str] = ()) -> "Figure | None":
    """Draw the class distributions of teacher and student for at most six samples.

    The reweighted teacher is included if there is one. Up to 12 classes are drawn as bars. With
    more, lines show the ten most likely ones.

    Args:
        shown: `labels` (S,), and `teacher`, `student` and optionally `reweighted` (S, K)
        probabilities.
        classes: The names of the classes.

    Returns:
        The figure, or None without samples.

    Raises:
        ValueError: The shapes differ.
    """
    if not {"labels", "teacher", "student"} <= set(shown) or not len(shown["labels"]):
        return None
    labels = shown["labels"][:SAMPLES]
    probabilities = {name: finite(shown[name][:SAMPLES]) for name in SOURCES if name in shown}
    many = probabilities["teacher"].shape[1]
    if {values.shape for values in probabilities.values()} != {(len(labels), many)}:
        raise ValueError(
            f"distributions of "
            f"{', '.join(f'{name} {values.shape}' for name, values in probabilities.items())}"
        )
    rows, columns = -(-len(labels) // 3), min(len(labels), 3)
    width, height = 2.4 * max(columns, 2) + 0.8, 1.9 * rows + 1.0
    figure, axes = create_figure(width, height, rows, columns)
    slanted = many > FEW or max(len(named(number, classes)) for number in range(many)) > 2
    below = 0.95 if slanted else 0.5
    figure.subplots_adjust(
        left=0.6 / width,
        right=0.985,
        top=1 - 0.75 / height,
        bottom=below / height,
        hspace=0.85 if slanted else 0.4,
        wspace=0.08,
    )
    top = min(1.0, 1.05 * max(np.nanmax(values) for values in probabilities.values()))
    for place, axis in enumerate(axes):
        if place >= len(labels):
            axis.set_visible(False)
            continue
        label = int(labels[place])
        order = (
            np.arange(many)
            if many <= FEW
            else _likeliest({name: values[place] for name, values in probabilities.items()}, label)
        )
        for turn, (name, values) in enumerate(probabilities.items()):
            _draw_distribution(
                axis, values[place][order], turn, len(probabilities), name, bars=many <= FEW
            )
        names = [named(number, classes) for number in order]
        turned: dict[str, Any] = (
            {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        )
        axis.set_xticks(np.arange(len(order)), names, fontsize=7, **turned)
        axis.set_title(f"true: {named(label, classes)}", fontsize=9)
        axis.set(ylim=(0, top))
        for tick, number in zip(axis.get_xticklabels(), order, strict=True):
            tick.set_fontweight("bold" if number == label else "normal")
        if place % columns == 0:
            axis.set_ylabel("probability")
        else:
            axis.tick_params(labelleft=False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="upper right",
        ncols=len(names),
        frameon=False,
        fontsize=8,
        bbox_to_anchor=(0.99, 1.0),
    )
    beyond = "" if many <= FEW else f", {TOP} likeliest of {many} classes"
    figure.suptitle(f"Validation samples{beyond}", fontsize=10, x=0.01, ha="left")
    figure.supxlabel("class (bold: the true one)", fontsize=9, y=0.01)
    return figure


def _draw_distribution(
    axis: "Axes", values: Array, turn: int, count: int, name: str, bars: bool
) -> None:
    places = np.arange(len(values))
    if bars:  # one artist instead of a rectangle per class, which costs 0.5 ms each
        sides = np.array([turn, turn + 1]) * 0.84 / count - 0.42
        heights = np.insert(values, np.arange(1, len(values)), np.nan)  # NaN is a gap
        edges = (places[:, None] + sides).ravel()
        axis.stairs(heights, edges, fill=True, color=SOURCES[name], label=name, linewidth=0)
    else:
        marker = "osD"[turn]
        axis.plot(
            places,
            values,
            color=SOURCES[name],
            label=name,
            marker=marker,
            markersize=3.5,
            linewidth=1.3,
        )


def _likeliest(probabilities: Mapping[str, Array], label: int) -> Array:
    """Return the most likely classes of all distributions, in the teacher's order.

    The true class is always among them.
    """
    most = np.max(np.stack([np.nan_to_num(values) for values in probabilities.values()]), 0)
    chosen = [*np.argsort(-most, kind="stable")[:TOP]]
    if label not in chosen:
        chosen[-1] = label
    teacher = np.nan_to_num(probabilities["teacher"])
    return np.array(sorted(chosen, key=lambda number: -teacher[number]))


def _strongest(weights: Array, side: int) -> Array:
    """Return blocks of side x side classes, each by its weight farthest from 1.

    Missing cells at the edge count as 1.
    """
    blocks = -(-len(weights) // side)
    padded = np.ones((blocks * side, blocks * side))
    padded[: len(weights), : len(weights)] = np.nan_to_num(weights, nan=1.0)
    tiles = padded.reshape(blocks, side, blocks, side).swapaxes(1, 2).reshape(blocks, blocks, -1)
    farthest = np.abs(tiles - 1).argmax(-1)
    return np.take_along_axis(tiles, farthest[..., None], -1)[..., 0]


def class_accuracy(accuracy: Array, classes: Sequence[str] = ()) -> "Figure | None":
    """Draw the validation accuracy of each class.

    One panel shows it sorted after the last evaluated epoch. The other shows the worst, mean and
    best over the epochs.

    Args:
        accuracy: (E, K) shares; NaN is a class without a sample, or an epoch without an evaluation.
        classes: The names of the classes.

    Returns:
        The figure, or None without a finite value.
    """
    if accuracy.ndim != 2 or not np.isfinite(accuracy).any():
        return None
    known = 100 * finite(accuracy)
    evaluated = np.flatnonzero(np.isfinite(known).any(1))
    last = known[evaluated[-1]]
    order = np.array(
        [number for number in np.argsort(last, kind="stable") if np.isfinite(last[number])]
    )
    many = len(order)
    figure, axes = create_figure(
        11.0, max(3.8, 1.2 + 0.2 * many) if many <= BARS else 4.2, columns=2
    )
    names = [named(number, classes) for number in order]
    left = 0.035 + 0.0075 * max(map(len, names)) if many <= BARS else 0.065
    figure.subplots_adjust(left=left, right=0.985, top=0.87, bottom=0.14 if many <= BARS else 0.24)
    draw = _sorted_bars if many <= BARS else _sorted_curve
    draw(axes[0], last[order], names)
    _over_epochs(axes[1], evaluated + 1, known[evaluated])
    epochs_along(axes[1], len(known))
    low, high = last[order[0]], last[order[-1]]
    after = f"Validation accuracy of the classes after epoch {evaluated[-1] + 1}"
    figure.suptitle(
        f"{after}: worst {names[0]} ({low:.1f} %), best {names[-1]} ({high:.1f} %), gap "
        f"{high - low:.1f} points",
        fontsize=11,
    )
    return figure


def _sorted_bars(axis: "Axes", values: Array, names: Sequence[str]) -> None:
    places = np.arange(len(values))
    colours = [VERMILLION, *[SKY] * (len(values) - 2), BLUE][: len(values)]
    bars = axis.barh(places, values, 0.8, color=colours, linewidth=0)
    axis.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=8)
    axis.set_yticks(places, names)
    axis.set(xlim=(0, 110), xlabel="accuracy (%)", xticks=range(0, 101, 20))


def _sorted_curve(axis: "Axes", values: Array, names: Sequence[str]) -> None:
    axis.plot(np.arange(1, len(values) + 1), values, color=BLACK, linewidth=1.6)
    axis.fill_between(np.arange(1, len(values) + 1), values, color=SKY, alpha=0.4, linewidth=0)
    ends = {"worst": range(NAMED), "best": range(len(values) - 1, len(values) - 1 - NAMED, -1)}
    labels = [
        f"{end}: " + ", ".join(f"{names[place]} {values[place]:.1f} %" for place in places)
        for end, places in ends.items()
    ]
    axis.set(xlim=(1, len(values)), ylim=(0, 101), ylabel="accuracy (%)")
    axis.set_xlabel(
        "\n".join([f"the {len(values)} classes, from the worst to the best", *labels]), fontsize=9
    )


def _over_epochs(axis: "Axes", epochs: Array, values: Array) -> None:
    """Draw the worst, mean and best of the values (E, K) in each epoch."""
    ends = np.nanmin(values, 1), np.nanmax(values, 1)
    axis.fill_between(epochs, *ends, color=SKY, alpha=0.25, linewidth=0)
    drawn = (
        ("best class", ends[1], BLUE, "-."),
        ("mean of the classes", np.nanmean(values, 1), BLACK, "-"),
    )
    for name, line, colour, style in (*drawn, ("worst class", ends[0], VERMILLION, "--")):
        axis.plot(
            epochs, line, color=colour, linestyle=style, linewidth=1.6, label=name, **dots(epochs)
        )
    axis.set(ylim=(0, 101), xlabel="epoch", ylabel="accuracy (%)")
    axis.legend(loc="best", fontsize=8)
