"""Draw figures of single training samples, by influence or as retrieved neighbours, from arrays."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from orchestrator.reporting.figures._figure import BLACK, VERMILLION, Array, create_figure, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = ("harmful", "helpful")
SAMPLES = 8  # per side
LINE = 16  # letters in a line above an image
# Retrieved samples: a cell in inches. In cells: the longer side of an image, the height of its
# caption, and the gap between two groups.
INCHES, IMAGE, CAPTION, GAP = 1.1, 0.84, 0.5, 0.3
NARROWEST = 6.5  # smallest width in cells, for the text below
BELOW = (
    "Above an image: its label, and the true class if it differs. "
    "Below: its score (above 0: harmful) and # its index in the training part."
)
RETRIEVED_BELOW = (
    "Above an image: its label, and the true class if it differs. Positives have the label of "
    "the query, negatives another.\nBelow: cosine similarity to the query, # its index in the "
    "training part, T: the class that the teacher predicts (red: not the label)."
)


class _Sample(NamedTuple):
    place: int
    image: Array
    score: float
    label: int
    truth: int


def influence(shown: Mapping[str, Array], classes: Sequence[str] = ()) -> "Figure | None":
    """Draw the most harmful training samples (above) and the most helpful ones (below).

    At most eight of each are drawn, in the given order. A sample without a finite score is left
    out.

    Args:
        shown: Arrays of each side; those of `harmful` are listed, `helpful` has the same.
        `harmful` (S,) places in the training part, `harmful_images` (S, H, W, C) uint8 with one
        channel or three, `harmful_scores` (S,) above 0 for harm, `harmful_labels` (S,) as given,
        -1 for none, `harmful_truths` (S,) before any noise.
        classes: The names of the classes.

    Returns:
        The figure, or None without samples.

    Raises:
        ValueError: The lengths of a side differ.
    """
    sides = {side: samples for side in SIDES if (samples := _samples(shown, side))}
    if not sides:
        return None
    columns = max(len(samples) for samples in sides.values())
    width, height = 1.32 * max(columns, 6) + 0.45, 2.0 * len(sides) + 0.6
    figure, axes = create_figure(width, height, len(sides), columns)
    figure.subplots_adjust(
        left=0.4 / width,
        right=0.99,
        top=1 - 0.75 / height,
        bottom=0.7 / height,
        wspace=0.1,
        hspace=0.7,
    )
    for row, (side, samples) in enumerate(sides.items()):
        row_axes = axes[row * columns : (row + 1) * columns]
        row_axes[0].set_ylabel(f"most {side}", fontsize=10)
        for axis, sample in zip(row_axes, samples, strict=False):
            _draw(axis, sample, classes)
        for axis in row_axes[len(samples) :]:
            axis.set_visible(False)
    figure.suptitle("The most harmful and the most helpful training samples", fontsize=11)
    figure.supxlabel(BELOW, fontsize=7.5, y=0.01)
    return figure


def _samples(shown: Mapping[str, Array], side: str) -> list[_Sample]:
    names = (side, *(f"{side}_{part}" for part in ("images", "scores", "labels", "truths")))
    if not set(names) <= set(shown):
        return []
    all_samples = [
        _Sample(*values) for values in zip(*(shown[name] for name in names), strict=True)
    ]
    return [sample for sample in all_samples if np.isfinite(sample.score)][:SAMPLES]


def _draw(axis: "Axes", sample: _Sample, classes: Sequence[str]) -> None:
    _picture(axis, sample.image)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    caption, colour = _caption(sample.label, sample.truth, classes)
    axis.set_title(caption, fontsize=8, color=colour, va="bottom")
    axis.set_xlabel(f"{sample.score:+.3g}\n#{sample.place}", fontsize=8)


def _picture(
    axis: "Axes", image: Array, extent: tuple[float, float, float, float] | None = None
) -> None:
    """Draw an image (H, W, C) of one channel or three, optionally at (left, right, bottom, top)."""
    grey = image.shape[-1] == 1
    axis.imshow(
        image[..., 0] if grey else image,
        cmap="gray" if grey else None,
        vmin=0,
        vmax=255,
        extent=extent,
    )


def _caption(label: int, truth: int, classes: Sequence[str]) -> tuple[str, str]:
    """Return the caption of a sample and its colour.

    The caption is the given label, and the true one if it differs. Long captions have two lines.
    """
    differs = label != truth
    label_name = "unlabelled" if label < 0 else named(label, classes)
    true = f"(is {named(truth, classes)})" if differs else ""
    apart = "\n" if len(label_name) + len(true) >= LINE else " "
    return f"{label_name}{apart}{true}".rstrip(), VERMILLION if differs and label >= 0 else BLACK


def retrieved(shown: Mapping[str, Array], classes: Sequence[str] = ()) -> "Figure | None":
    """Draw a few training samples, one per row, with their retrieved neighbours.

    Positives have the class of the query, negatives have other classes.

    Args:
        shown: `queries` (Q,), `positives` (Q, P) and `negatives` (Q, N) are places in the training
        part, most similar first, -1 for none. `positive_similarity` and `negative_similarity`
        have the shapes of these. `retrieved` (S,) has each of these places once.
        `retrieved_images` (S, H, W, C) are uint8 of one channel or three. `retrieved_labels`
        (S,) are as given, -1 for none, `retrieved_truths` (S,) are before any noise.
        `retrieved_classes` (S,) are the teacher's predictions, if there is one.
        classes: The names of the classes.

    Returns:
        The figure, or None without queries.

    Raises:
        ValueError: A place is not in `retrieved`.
    """
    if not len(shown.get("queries", ())):
        return None
    groups = {"query": (shown["queries"][:, None], None)} | {
        f"{side}s": (shown[f"{side}s"], shown[f"{side}_similarity"])
        for side in ("positive", "negative")
        if shown[f"{side}s"].shape[1]
    }
    across = max(sum(places.shape[1] + GAP for places, _ in groups.values()) - GAP, NARROWEST)
    down = len(shown["queries"]) * (1 + CAPTION)
    width, height = INCHES * across + 0.3, INCHES * down + 1.0
    figure, (axis,) = create_figure(width, height)
    figure.subplots_adjust(
        left=0.15 / width, right=1 - 0.15 / width, top=1 - 0.6 / height, bottom=0.4 / height
    )
    left = 0.0
    for title, (places, similarity) in groups.items():
        axis.text(left + places.shape[1] / 2, 0.0, title, fontsize=9.5, ha="center", va="bottom")
        for row, column in np.argwhere(places >= 0):
            middle = left + column + 0.5, -(row + 0.5) * (1 + CAPTION)
            likeness = "" if similarity is None else f"{similarity[row, column]:.2f}  "
            _draw_retrieved(axis, shown, places[row, column], likeness, middle, classes)
        left += places.shape[1] + GAP
    axis.set(xlim=(0, across), ylim=(-down, 0), xticks=[], yticks=[], aspect="auto")
    axis.spines[:].set_visible(False)
    figure.suptitle(
        "Retrieved neighbours of a few training samples", fontsize=11, y=1 - 0.08 / height
    )
    figure.supxlabel(RETRIEVED_BELOW, fontsize=7.5, y=0.08 / height)
    return figure


def _draw_retrieved(
    axis: "Axes",
    shown: Mapping[str, Array],
    place: int,
    likeness: str,
    middle: tuple[float, float],
    classes: Sequence[str],
) -> None:
    """Draw one of the `retrieved` samples around the center (x, y) of its cell of width 1."""
    (index,) = np.flatnonzero(shown["retrieved"] == place)
    image, label, truth = (
        shown[f"retrieved_{part}"][index] for part in ("images", "labels", "truths")
    )
    high, wide = IMAGE * np.array(image.shape[:2]) / max(image.shape[:2])
    x, y = middle
    _picture(axis, image, (x - wide / 2, x + wide / 2, y - high / 2, y + high / 2))
    caption, colour = _caption(label, truth, classes)
    axis.text(x, y + high / 2 + 0.03, caption, fontsize=7.5, color=colour, ha="center", va="bottom")
    below = y - high / 2 - 0.03
    axis.text(x, below, f"{likeness}#{place}", fontsize=7.5, ha="center", va="top")
    if "retrieved_classes" in shown:
        teacher_class = shown["retrieved_classes"][index]
        red = VERMILLION if teacher_class != label and label >= 0 else BLACK
        axis.text(
            x,
            below - 0.14,
            f"T: {named(teacher_class, classes)}",
            fontsize=7.5,
            color=red,
            ha="center",
            va="top",
        )
