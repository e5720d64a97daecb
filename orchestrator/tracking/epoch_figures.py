"""Pictures of how a training went, over its epochs: arrays in, figures out. Knows neither files nor MLflow."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.tracking.canvas import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, Array, blank, dots, finite, limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"alpha": BLACK, "cross_entropy": BLUE, "distillation": VERMILLION}
OTHERS = (GREEN, PURPLE, ORANGE, SKY, BLACK)
WIDE = 20.0  # largest over smallest value of a linear axis


def terms(steps: Mapping[str, Array]) -> "Figure | None":
    """What the method minimised along the training, and alpha above it where there is one.

    `steps` has (N,) arrays: `epoch`, the position in epochs, and a term each. None without cross_entropy and distillation.
    """
    shown = ["cross_entropy", "distillation", *sorted(set(steps) - {"epoch", "loss", "alpha", "cross_entropy", "distillation"})]
    if not {"epoch", "cross_entropy", "distillation"} <= set(steps) or not len(steps["epoch"]):
        return None
    epoch = steps["epoch"]
    figure, axes = blank(7.0, 4.8 if "alpha" in steps else 3.6, rows=2 if "alpha" in steps else 1, ratios=(2, 3))
    figure.subplots_adjust(left=0.105, right=0.975, top=0.905, bottom=0.115 if "alpha" in steps else 0.145, hspace=0.1)
    below = axes[-1]
    if "alpha" in steps:
        axes[0].plot(epoch, finite(steps["alpha"]), color=COLOURS["alpha"], linewidth=1.6, **dots(epoch))
        axes[0].set(ylim=(-0.02, 1.02), xlim=limits(epoch), ylabel="alpha\n(0: labels, 1: teacher)")
        axes[0].tick_params(labelbottom=False)
    colours = iter(OTHERS * (1 + len(shown) // len(OTHERS)))
    for name in shown:
        colour = COLOURS.get(name) or next(colours)
        below.plot(epoch, finite(steps[name]), color=colour, linewidth=1.6, label=name.replace("_", " "), **dots(epoch))
    values = np.concatenate([finite(steps[name]) for name in shown])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > WIDE * values.min():
        below.set_yscale("log")
    below.set(xlabel="epoch", ylabel="mean per sample, as tracked", xlim=limits(epoch))
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
    figure, axes = blank(7.0, 3.8)
    figure.subplots_adjust(left=0.095, right=0.925, top=0.905, bottom=0.135)
    (axis,) = axes
    edges = (0.5, epochs + 0.5, 0.0, 1.0)
    image = axis.imshow(100 * shares.T, origin="lower", aspect="auto", extent=edges, cmap="Blues", interpolation="nearest", vmin=0)
    means = np.where(totals[:, 0] > 0, shares @ middles, np.nan)
    axis.plot(np.arange(1, epochs + 1), means, color=VERMILLION, linewidth=2, label="mean", **dots(means))
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
    figure, axes = blank(7.0, 3.4)
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
    figure, axes = blank(7.0, 3.4)
    figure.subplots_adjust(left=0.095, right=0.975, top=0.895, bottom=0.15)
    (axis,) = axes
    axis.plot(np.arange(1, len(shares) + 1), 100 * shares, "o-", color=BLUE, markersize=4, linewidth=1.4)
    axis.set(xlabel="epoch", ylabel="validation samples (%)", ylim=(None, 101))
    axis.set_title(f"Samples on which all students agree: {shares[-1]:.1%} at the end", fontsize=11)
    return figure
