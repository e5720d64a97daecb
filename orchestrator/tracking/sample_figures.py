"""Pictures of single training samples: which did most harm, and which most good. Arrays in, figures out; knows no files."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from orchestrator.tracking.canvas import BLACK, VERMILLION, Array, blank, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = ("harmful", "helpful")
SAMPLES = 8  # of a side
LINE = 16  # letters above an image
BELOW = (
    "Above an image: its label as given, and the true one where it differs. "
    "Below: its score (above 0: harm) and # its place in the training part."
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
    grey = sample.image.shape[-1] == 1
    axis.imshow(sample.image[..., 0] if grey else sample.image, cmap="gray" if grey else None, vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    differs = sample.label != sample.truth
    label = "unlabelled" if sample.label < 0 else named(sample.label, classes)
    truth = f"(is {named(sample.truth, classes)})" if differs else ""
    apart = "\n" if len(label) + len(truth) >= LINE else " "
    axis.set_title(f"{label}{apart}{truth}".rstrip(), fontsize=8, color=VERMILLION if differs and sample.label >= 0 else BLACK)
    axis.set_xlabel(f"{sample.score:+.3g}\n#{sample.place}", fontsize=8)
