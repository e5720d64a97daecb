"""Draws what a trial left in its checkpoint folder: arrays in, pictures out. Knows no MLflow; the driver's writer calls it.

Figures have a canvas of their own and never touch pyplot, whose state is shared by all threads. Nothing here is imported by a
worker. With a warm font cache a trial costs 0.08 s (`terms` alone) to 0.65 s (all four) of one core, and 0.5 s once for the import.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.config import LETTERS
from orchestrator.training.checkpoint import PICTURED
from orchestrator.trial import CHECKPOINT, student_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
Drawn = TypeVar("Drawn")
AGREEMENT = "agreement"  # of all students of a trial, in what student a left
TRACE, SHOWN = (f"{name}.safetensors" for name in PICTURED)
# Okabe & Ito's palette, which colour-blind readers tell apart
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
COLOURS = {"alpha": BLACK, "cross_entropy": BLUE, "distillation": VERMILLION}
OTHERS = (GREEN, PURPLE, ORANGE, SKY, BLACK)
SPEAKERS = {"teacher": BLUE, "reweighted": ORANGE, "student": VERMILLION}
DPI = 90
FEW = 12  # classes whose numbers and bars can be read one by one
TOP = 10  # classes of a distribution over many
SAMPLES = 6
CELLS = 100  # of a heat map along an axis; more could not be told apart and would make a file of a megabyte
WIDE = 20.0  # largest over smallest value of a linear axis
log = logging.getLogger(__name__)


def of_trial(folder: Path, complete: bool, classes: Sequence[str] = (), letter: str = LETTERS[0]) -> Iterator[tuple[str, "Figure"]]:
    """Name and figure of all that can be drawn of the trial in `folder`; of one that is not complete the terms alone.

    Of the student with that letter; what is of all of them together is student a's.
    A file that is missing or damaged, or that holds something else than expected, is no figure and a line in the debug log.
    """
    trace = _read(folder, Path(student_folder(letter), TRACE))
    steps = {name.removeprefix("steps/"): values for name, values in trace.items() if name.startswith("steps/")}
    figure = _attempt(folder, "terms", lambda: terms(steps))
    if figure:
        yield "terms", figure
    if not complete:
        return
    shown = _read(folder, Path(student_folder(letter), SHOWN))
    histogram, weights = trace.get("epochs/alpha_histogram"), shown.get("class_weights")
    unsure = trace.get("epochs/uncertainty_histogram")
    agreeing = trace.get("epochs/pair/agreement")
    draws: dict[str, Callable[[], Figure | None]] = {
        AGREEMENT: lambda: None if agreeing is None or letter != LETTERS[0] else agreement(agreeing),
        "alpha_per_sample": lambda: None if histogram is None else alpha_per_sample(histogram),
        "uncertainty": lambda: None if unsure is None else uncertainty(unsure),
        "class_weights": lambda: None if weights is None else class_weights(weights, classes),
        "distributions": lambda: distributions(shown, classes),
    }
    for name, draw in draws.items():
        figure = _attempt(folder, name, draw)
        if figure:
            yield name, figure


def pictures(folder: Path, complete: bool, classes: Sequence[str] = (), letter: str = LETTERS[0]) -> dict[str, bytes]:
    """The figures of a trial as PNG files, by name; see `of_trial`."""
    made = {name: _attempt(folder, name, partial(picture, figure)) for name, figure in of_trial(folder, complete, classes, letter)}
    return {name: content for name, content in made.items() if content}


def _attempt(folder: Path, name: str, draw: Callable[[], Drawn | None]) -> Drawn | None:
    try:
        return draw()
    except Exception as error:  # whatever a file holds: a picture is worth no exception
        log.debug("%s: no figure %s: %r", folder, name, error)
        return None


def picture(figure: "Figure") -> bytes:
    """The figure as PNG of 128 colours, a quarter of the size of one with all."""
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    image = Image.fromarray(pixels[..., :3]).quantize(128, Image.Quantize.FASTOCTREE)
    colours, ground = image.getpalette() or [], int(pixels[0, 0, 0])
    corner = int(np.asarray(image)[0, 0])
    colours[3 * corner : 3 * corner + 3] = [ground] * 3  # reducing the colours makes white a light grey
    image.putpalette(colours)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def settle_cache(fallback: Path) -> None:
    """Where matplotlib keeps its list of fonts when the home folder cannot be written; else it is made anew every time."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    while not home.exists() and home != home.parent:
        home = home.parent
    if not os.access(home, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(fallback))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def terms(steps: Mapping[str, Array]) -> "Figure | None":
    """What the method minimised along the training, and alpha above it where there is one.

    `steps` has (N,) arrays: `epoch`, the position in epochs, and a term each. None without cross_entropy and distillation.
    """
    shown = ["cross_entropy", "distillation", *sorted(set(steps) - {"epoch", "loss", "alpha", "cross_entropy", "distillation"})]
    if not {"epoch", "cross_entropy", "distillation"} <= set(steps) or not len(steps["epoch"]):
        return None
    epoch = steps["epoch"]
    figure, axes = _figure(7.0, 4.8 if "alpha" in steps else 3.6, rows=2 if "alpha" in steps else 1, ratios=(2, 3))
    figure.subplots_adjust(left=0.105, right=0.975, top=0.905, bottom=0.115 if "alpha" in steps else 0.145, hspace=0.1)
    below = axes[-1]
    if "alpha" in steps:
        axes[0].plot(epoch, _finite(steps["alpha"]), color=COLOURS["alpha"], linewidth=1.6, **_dots(epoch))
        axes[0].set(ylim=(-0.02, 1.02), xlim=_limits(epoch), ylabel="alpha\n(0: labels, 1: teacher)")
        axes[0].tick_params(labelbottom=False)
    colours = iter(OTHERS * (1 + len(shown) // len(OTHERS)))
    for name in shown:
        colour = COLOURS.get(name) or next(colours)
        below.plot(epoch, _finite(steps[name]), color=colour, linewidth=1.6, label=name.replace("_", " "), **_dots(epoch))
    values = np.concatenate([_finite(steps[name]) for name in shown])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > WIDE * values.min():
        below.set_yscale("log")
    below.set(xlabel="epoch", ylabel="mean per sample, as tracked", xlim=_limits(epoch))
    below.legend(loc="upper right", frameon=False, fontsize=8, ncols=len(shown) if len(shown) < 5 else 3)
    figure.suptitle("Terms of the loss" + (", and the weight alpha between them" if "alpha" in steps else ""), fontsize=11)
    return figure


def alpha_per_sample(histogram: Array) -> "Figure | None":
    """How the samples' alphas spread, epoch by epoch: (E, bins) shares of samples per bin of [0, 1]. None without an epoch."""
    if histogram.ndim != 2 or not histogram.size:
        return None
    shares = np.nan_to_num(histogram.astype(np.float64))
    totals = shares.sum(1, keepdims=True)
    shares = np.divide(shares, totals, out=np.zeros_like(shares), where=totals > 0)
    epochs, bins = shares.shape
    middles = (np.arange(bins) + 0.5) / bins
    figure, axes = _figure(7.0, 3.8)
    figure.subplots_adjust(left=0.095, right=0.925, top=0.905, bottom=0.135)
    (axis,) = axes
    edges = (0.5, epochs + 0.5, 0.0, 1.0)
    image = axis.imshow(100 * shares.T, origin="lower", aspect="auto", extent=edges, cmap="Blues", interpolation="nearest", vmin=0)
    means = np.where(totals[:, 0] > 0, shares @ middles, np.nan)
    axis.plot(np.arange(1, epochs + 1), means, color=VERMILLION, linewidth=2, label="mean", **_dots(means))
    axis.set(xlabel="epoch", ylabel="alpha (0: labels, 1: teacher)", xlim=edges[:2], ylim=(0, 1))
    axis.locator_params(axis="x", integer=True)
    axis.legend(loc="best", fontsize=8)
    axis.set_title("Alpha of the samples in each epoch", fontsize=11)
    figure.colorbar(image, ax=axis, label="samples (%)", fraction=0.05, pad=0.02)
    return figure


def uncertainty(histogram: Array) -> "Figure | None":
    """How unsure the teacher is of the samples, H / log K, in the last epoch of (E, bins) shares per bin of [0, 1].

    None without a sample.
    """
    if histogram.ndim != 2 or not histogram.size:
        return None
    counts = np.nan_to_num(histogram[-1].astype(np.float64))
    if not counts.sum() > 0:
        return None
    shares, bins = counts / counts.sum(), len(counts)
    middles = (np.arange(bins) + 0.5) / bins
    mean = float(shares @ middles)
    figure, axes = _figure(7.0, 3.4)
    figure.subplots_adjust(left=0.095, right=0.975, top=0.895, bottom=0.15)
    (axis,) = axes
    axis.bar(middles, 100 * shares, 0.92 / bins, color=BLUE, linewidth=0)
    axis.axvline(mean, color=VERMILLION, linewidth=1.6)
    axis.set(xlim=(0, 1), xlabel="H / log K of the teacher (0: certain, 1: uniform)", ylabel="samples (%)")
    axis.set_title(f"The teacher's uncertainty in epoch {len(histogram)}: mean {mean:.3f}", fontsize=11)
    return figure


def agreement(shares: Array) -> "Figure | None":
    """The share (E,) of the validation samples of which all students say the same class, over the epochs. None without any."""
    if shares.ndim != 1 or not len(shares):
        return None
    figure, axes = _figure(7.0, 3.4)
    figure.subplots_adjust(left=0.095, right=0.975, top=0.895, bottom=0.15)
    (axis,) = axes
    axis.plot(np.arange(1, len(shares) + 1), 100 * shares, "o-", color=BLUE, markersize=4, linewidth=1.4)
    axis.set(xlabel="epoch", ylabel="validation samples (%)", ylim=(None, 101))
    axis.set_title(f"Samples on which all students agree: {shares[-1]:.1%} at the end", fontsize=11)
    return figure


def pareto_front(points: Mapping[int, Sequence[float]], front: Sequence[int], names: Sequence[str]) -> "Figure":
    """Trials by number at the first two of their values, those of the `front` labelled and, of two objectives, connected."""
    figure, axes = _figure(6.4, 4.6)
    figure.subplots_adjust(left=0.13, right=0.96, top=0.92, bottom=0.115)
    (axis,) = axes
    others = np.array([points[number][:2] for number in points if number not in front]).reshape(-1, 2)
    best = np.array(sorted(tuple(points[number][:2]) for number in front)).reshape(-1, 2)
    if len(others):
        axis.plot(*others.T, "o", color=SKY, markersize=5, label="other complete trials")
    axis.plot(*best.T, "o-" if len(names) == 2 else "o", color=VERMILLION, markersize=6, linewidth=1.4, label="Pareto front")
    for number in front:
        axis.annotate(str(number), (points[number][0], points[number][1]), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axis.set(xlabel=names[0], ylabel=names[1])
    axis.legend(loc="best", fontsize=8)
    also = f" (of {len(names)} objectives)" if len(names) > 2 else ""
    axis.set_title(f"Complete trials and their front{also}", fontsize=11)
    return figure


def class_weights(weights: Array, classes: Sequence[str] = ()) -> "Figure | None":
    """Mean weight (K, K) that class c (column) gets on samples of a true class (row); 1 is unchanged. None for another shape.

    Of more than 100 classes, a cell shows the weight farthest from 1 in a block of classes.
    """
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not weights.size:
        return None
    many = len(weights)
    side = -(-many // CELLS)
    cells = _finite(weights) if side == 1 else _strongest(_finite(weights), side)
    few = many <= FEW
    figure, axes = _figure(6.4, 5.4)
    (axis,) = axes
    apart = np.abs(cells - 1)
    reach = float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0
    limit = max(reach, 0.01)
    extent = (-0.5, many - 0.5, many - 0.5, -0.5)
    image = axis.imshow(cells, cmap="PuOr_r", vmin=1 - limit, vmax=1 + limit, extent=extent, aspect="auto", interpolation="nearest")
    if few:
        for row, column in np.ndindex(*cells.shape):
            light = not apart[row, column] > 0.6 * limit
            text = f"{cells[row, column]:.2f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color="black" if light else "white")
    ticks = np.arange(0, many, -(-many // 20))
    labels = [_named(number, classes) for number in ticks]
    slanted = max(map(len, labels)) > 3
    figure.subplots_adjust(left=0.17 if slanted else 0.11, right=0.905, top=0.93, bottom=0.18 if slanted else 0.1)
    axis.set_xticks(ticks, labels, rotation=45 if slanted else 0, ha="right" if slanted else "center", rotation_mode="anchor")
    axis.set_yticks(ticks, labels)
    axis.set(xlabel="class whose probability is weighted", ylabel="true class")
    if slanted:
        axis.xaxis.set_label_coords(0.5, -0.165)
    block = "" if side == 1 else f" (strongest of {side} x {side} classes)"
    axis.set_title(f"Weight of each class in the teacher's distribution{block}", fontsize=10 if block else 11)
    figure.colorbar(image, ax=axis, label="mean weight (1: unchanged)", fraction=0.05, pad=0.02)
    return figure


def distributions(shown: Mapping[str, Array], classes: Sequence[str] = ()) -> "Figure | None":
    """What teacher and student, and the reweighted teacher if any, say of at most six samples.

    `labels` (S,), the others (S, K). Bars up to 12 classes; lines over the ten most likely ones beyond. None without samples.
    ValueError when the shapes differ.
    """
    if not {"labels", "teacher", "student"} <= set(shown) or not len(shown["labels"]):
        return None
    labels = shown["labels"][:SAMPLES]
    said = {name: _finite(shown[name][:SAMPLES]) for name in SPEAKERS if name in shown}
    many = said["teacher"].shape[1]
    if {values.shape for values in said.values()} != {(len(labels), many)}:
        raise ValueError(f"distributions of {', '.join(f'{name} {values.shape}' for name, values in said.items())}")
    rows, columns = -(-len(labels) // 3), min(len(labels), 3)
    width, height = 2.4 * max(columns, 2) + 0.8, 1.9 * rows + 1.0
    figure, axes = _figure(width, height, rows, columns)
    slanted = many > FEW or max(len(_named(number, classes)) for number in range(many)) > 2
    below = 0.95 if slanted else 0.5
    figure.subplots_adjust(
        left=0.6 / width, right=0.985, top=1 - 0.75 / height, bottom=below / height,
        hspace=0.85 if slanted else 0.4, wspace=0.08,
    )  # fmt: skip
    top = min(1.0, 1.05 * max(np.nanmax(values) for values in said.values()))
    for place, axis in enumerate(axes):
        if place >= len(labels):
            axis.set_visible(False)
            continue
        label = int(labels[place])
        order = np.arange(many) if many <= FEW else _likeliest({name: values[place] for name, values in said.items()}, label)
        for turn, (name, values) in enumerate(said.items()):
            _one_distribution(axis, values[place][order], turn, len(said), name, bars=many <= FEW)
        names = [_named(number, classes) for number in order]
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axis.set_xticks(np.arange(len(order)), names, fontsize=7, **turned)
        axis.set_title(f"true: {_named(label, classes)}", fontsize=9)
        axis.set(ylim=(0, top))
        for tick, number in zip(axis.get_xticklabels(), order, strict=True):
            tick.set_fontweight("bold" if number == label else "normal")
        if place % columns == 0:
            axis.set_ylabel("probability")
        else:
            axis.tick_params(labelleft=False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper right", ncols=len(names), frameon=False, fontsize=8, bbox_to_anchor=(0.99, 1.0))
    beyond = "" if many <= FEW else f", {TOP} likeliest of {many} classes"
    figure.suptitle(f"Validation samples{beyond}", fontsize=10, x=0.01, ha="left")
    figure.supxlabel("class (bold: the true one)", fontsize=9, y=0.01)
    return figure


def _one_distribution(axis: "Axes", values: Array, turn: int, of: int, name: str, bars: bool) -> None:
    places = np.arange(len(values))
    if bars:
        width = 0.84 / of
        axis.bar(places - 0.42 + (turn + 0.5) * width, values, width, color=SPEAKERS[name], label=name, linewidth=0)
    else:
        marker = "osD"[turn]
        axis.plot(places, values, color=SPEAKERS[name], label=name, marker=marker, markersize=3.5, linewidth=1.3)


def _likeliest(said: Mapping[str, Array], label: int) -> Array:
    """The classes that anybody finds likely, as the teacher orders them; the true one is always among them."""
    most = np.max(np.stack([np.nan_to_num(values) for values in said.values()]), 0)
    chosen = [*np.argsort(-most, kind="stable")[:TOP]]
    if label not in chosen:
        chosen[-1] = label
    teacher = np.nan_to_num(said["teacher"])
    return np.array(sorted(chosen, key=lambda number: -teacher[number]))


def _strongest(weights: Array, side: int) -> Array:
    """Blocks of side x side classes, each by its weight farthest from 1; what is missing at the edge is 1."""
    blocks = -(-len(weights) // side)
    padded = np.ones((blocks * side, blocks * side))
    padded[: len(weights), : len(weights)] = np.nan_to_num(weights, nan=1.0)
    tiles = padded.reshape(blocks, side, blocks, side).swapaxes(1, 2).reshape(blocks, blocks, -1)
    farthest = np.abs(tiles - 1).argmax(-1)
    return np.take_along_axis(tiles, farthest[..., None], -1)[..., 0]


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, ratios: Sequence[int] = ()
) -> tuple["Figure", list["Axes"]]:
    """A figure of inches, and its axes row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    heights = ratios if len(ratios) == rows else None
    axes = list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def _named(number: "int | np.integer[Any]", classes: Sequence[str]) -> str:
    name = classes[int(number)] if 0 <= number < len(classes) else str(number)
    return name if len(name) <= 12 else f"{name[:7]}…{name[-4:]}"  # names of a kind differ at their ends


def _finite(values: Array) -> Array:
    """As float64, with a gap where a value is not finite."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _dots(values: Array) -> dict[str, Any]:
    """A single point would be no line."""
    return {"marker": "o", "markersize": 4} if len(values) == 1 else {}


def _limits(epoch: Array) -> tuple[float, float]:
    last = float(np.nanmax(epoch))
    return (0.0, last) if last > 0 else (-1.0, 1.0)


def _read(folder: Path, name: Path) -> dict[str, Array]:
    """The arrays of a file of the checkpoint, or none; `.old` is a checkpoint whose successor takes its place just now."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for home in (folder / CHECKPOINT, folder / f"{CHECKPOINT}.old"):
        try:
            return dict(load_file(home / name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            log.debug("%s cannot be drawn: %r", home / name, error)
    return {}
