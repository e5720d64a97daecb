"""Pictures of single training samples: which did most harm or good, which were retrieved. Arrays in, figures out, no files."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from orchestrator.reporting.figures._figure import BLACK, VERMILLION, Array, blank, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = ("harmful", "helpful")
SAMPLES = 8  # of a side
LINE = 16  # letters above an image
# Of what was retrieved: a cell in inches, and in cells the longer side of an image, the room for its words, and between two groups.
INCHES, IMAGE, CAPTION, GAP = 1.1, 0.84, 0.5, 0.3
NARROWEST = 6.5  # cells across: room for what stands below
BELOW = (
    "Above an image: its label as given, and the true one where it differs. "
    "Below: its score (above 0: harm) and # its place in the training part."
)
RETRIEVED_BELOW = (
    "Above an image: its label as given, and the true one where it differs. Positives have the query's label, negatives another.\n"
    "Below: cosine similarity to the query, # its place in the training part, after T the teacher's class (red: not the label)."
)


class _Sample(NamedTuple):
    place: int
    image: Array
    score: float
    label: int
    truth: int


def influence(shown: Mapping[str, Array], classes: Sequence[str] = ()) -> "Figure | None":
    """The training samples that did most harm (above) and most good (below), at most eight of each, as they come.

    Of each side: `harmful` (S,) places in the training part, `harmful_images` (S, H, W, C) uint8 of one channel or three,
    `harmful_scores` (S,), above 0 for harm, `harmful_labels` (S,) as given, -1 for none, `harmful_truths` (S,) before any noise.
    A sample without a finite score is left out. None without samples; ValueError where the lengths of a side differ.
    """
    sides = {side: samples for side in SIDES if (samples := _samples(shown, side))}
    if not sides:
        return None
    columns = max(len(samples) for samples in sides.values())
    width, height = 1.32 * max(columns, 6) + 0.45, 2.0 * len(sides) + 0.6
    figure, axes = blank(width, height, len(sides), columns)
    figure.subplots_adjust(left=0.4 / width, right=0.99, top=1 - 0.75 / height, bottom=0.7 / height, wspace=0.1, hspace=0.7)
    for row, (side, samples) in enumerate(sides.items()):
        own = axes[row * columns : (row + 1) * columns]
        own[0].set_ylabel(f"most {side}", fontsize=10)
        for axis, sample in zip(own, samples, strict=False):
            _draw(axis, sample, classes)
        for axis in own[len(samples) :]:
            axis.set_visible(False)
    figure.suptitle("The training samples that did most harm and most good", fontsize=11)
    figure.supxlabel(BELOW, fontsize=7.5, y=0.01)
    return figure


def _samples(shown: Mapping[str, Array], side: str) -> list[_Sample]:
    names = (side, *(f"{side}_{part}" for part in ("images", "scores", "labels", "truths")))
    if not set(names) <= set(shown):
        return []
    found = [_Sample(*values) for values in zip(*(shown[name] for name in names), strict=True)]
    return [sample for sample in found if np.isfinite(sample.score)][:SAMPLES]


def _draw(axis: "Axes", sample: _Sample, classes: Sequence[str]) -> None:
    _picture(axis, sample.image)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    caption, colour = _caption(sample.label, sample.truth, classes)
    axis.set_title(caption, fontsize=8, color=colour)
    axis.set_xlabel(f"{sample.score:+.3g}\n#{sample.place}", fontsize=8)


def _picture(axis: "Axes", image: Array, extent: tuple[float, float, float, float] | None = None) -> None:
    """An image (H, W, C) of one channel or three; at an extent (left, right, bottom, top) among others."""
    grey = image.shape[-1] == 1
    axis.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255, extent=extent)


def _caption(label: int, truth: int, classes: Sequence[str]) -> tuple[str, str]:
    """The label as given, and the true one where it differs: the words, in two lines where they are long, and their colour."""
    differs = label != truth
    given = "unlabelled" if label < 0 else named(label, classes)
    true = f"(is {named(truth, classes)})" if differs else ""
    apart = "\n" if len(given) + len(true) >= LINE else " "
    return f"{given}{apart}{true}".rstrip(), VERMILLION if differs and label >= 0 else BLACK


def retrieved(shown: Mapping[str, Array], classes: Sequence[str] = ()) -> "Figure | None":
    """A few training samples, a row each, beside those of their class that were retrieved for them, and those of other classes.

    `queries` (Q,), `positives` (Q, P) and `negatives` (Q, N) are places in the training part, most similar first, -1 = none;
    `positive_similarity` and `negative_similarity` go with them. `retrieved` (S,) has each of these places once, with
    `retrieved_images` (S, H, W, C) uint8 of one channel or three, `retrieved_labels` (S,) as given, -1 for none,
    `retrieved_truths` (S,) before any noise, and `retrieved_classes` (S,) that the teacher gives, if there is one. None without
    queries; ValueError where a place is not among them.
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
    figure, (axis,) = blank(width, height)
    figure.subplots_adjust(left=0.15 / width, right=1 - 0.15 / width, top=1 - 0.6 / height, bottom=0.4 / height)
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
    figure.suptitle("What was retrieved for a few training samples", fontsize=11, y=1 - 0.08 / height)
    figure.supxlabel(RETRIEVED_BELOW, fontsize=7.5, y=0.08 / height)
    return figure


def _draw_retrieved(
    axis: "Axes", shown: Mapping[str, Array], place: int, likeness: str, middle: tuple[float, float], classes: Sequence[str]
) -> None:
    """One of the `retrieved` samples around the middle (x, y) of its cell, which is as wide as 1."""
    (index,) = np.flatnonzero(shown["retrieved"] == place)
    image, label, truth = (shown[f"retrieved_{part}"][index] for part in ("images", "labels", "truths"))
    high, wide = IMAGE * np.array(image.shape[:2]) / max(image.shape[:2])
    x, y = middle
    _picture(axis, image, (x - wide / 2, x + wide / 2, y - high / 2, y + high / 2))
    caption, colour = _caption(label, truth, classes)
    axis.text(x, y + high / 2 + 0.03, caption, fontsize=7.5, color=colour, ha="center", va="bottom")
    below = y - high / 2 - 0.03
    axis.text(x, below, f"{likeness}#{place}", fontsize=7.5, ha="center", va="top")
    if "retrieved_classes" in shown:
        said = shown["retrieved_classes"][index]
        red = VERMILLION if said != label and label >= 0 else BLACK
        axis.text(x, below - 0.14, f"T: {named(said, classes)}", fontsize=7.5, color=red, ha="center", va="top")
