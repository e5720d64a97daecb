"""Draw figures of a training over its epochs, from arrays."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.reporting.figures._figure import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    Array,
    create_axis,
    create_figure,
    dots,
    epochs_along,
    finite,
    heat_map,
    limits,
    set_log_scale,
)
from orchestrator.training.metric_names import WEIGHT_RANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"alpha": BLACK, "cross_entropy": BLUE, "distillation": VERMILLION}
OTHERS = (GREEN, PURPLE, ORANGE, SKY, BLACK)
LABELS = {"wrong": (VERMILLION, "s"), "right": (BLUE, "o")}
WIDE = 20.0  # largest ratio of values on a linear axis


def terms(steps: Mapping[str, Array]) -> "Figure | None":
    """Draw the loss terms of the method over the training, and alpha above them if there is one.

    Args:
        steps: (N,) arrays: `epoch`, the position in epochs, and one array per term.

    Returns:
        The figure, or None without `cross_entropy` and `distillation`.
    """
    shown = [
        "cross_entropy",
        "distillation",
        *sorted(set(steps) - {"epoch", "loss", "alpha", "cross_entropy", "distillation"}),
    ]
    if not {"epoch", "cross_entropy", "distillation"} <= set(steps) or not len(steps["epoch"]):
        return None
    epoch = steps["epoch"]
    figure, axes = create_figure(
        7.0, 4.8 if "alpha" in steps else 3.6, rows=2 if "alpha" in steps else 1, ratios=(2, 3)
    )
    figure.subplots_adjust(
        left=0.105, right=0.975, top=0.905, bottom=0.115 if "alpha" in steps else 0.145, hspace=0.1
    )
    below = axes[-1]
    if "alpha" in steps:
        axes[0].plot(
            epoch, finite(steps["alpha"]), color=COLOURS["alpha"], linewidth=1.6, **dots(epoch)
        )
        axes[0].set(ylim=(-0.02, 1.02), xlim=limits(epoch), ylabel="alpha\n(0: labels, 1: teacher)")
        axes[0].tick_params(labelbottom=False)
    colours = iter(OTHERS * (1 + len(shown) // len(OTHERS)))
    for name in shown:
        colour = COLOURS.get(name) or next(colours)
        below.plot(
            epoch,
            finite(steps[name]),
            color=colour,
            linewidth=1.6,
            label=name.replace("_", " "),
            **dots(epoch),
        )
    values = np.concatenate([finite(steps[name]) for name in shown])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > WIDE * values.min():
        set_log_scale(below)
    below.set(xlabel="epoch", ylabel="mean loss per sample", xlim=limits(epoch))
    below.legend(
        loc="upper right", frameon=False, fontsize=8, ncols=len(shown) if len(shown) < 5 else 3
    )
    figure.suptitle(
        "Loss terms" + (", and the weight alpha between them" if "alpha" in steps else ""),
        fontsize=11,
    )
    return figure


def alpha_per_sample(histogram: Array) -> "Figure | None":
    """Draw the distribution of the samples' alphas in each epoch.

    Args:
        histogram: (E, bins) shares of samples per bin of [0, 1].

    Returns:
        The figure, or None without an epoch.
    """
    if histogram.ndim != 2 or not histogram.size:
        return None
    shares = _shares(histogram)
    epochs, bins = shares.shape
    middles = (np.arange(bins) + 0.5) / bins
    figure, axis = create_axis(7.0, 3.8, left=0.095, right=0.925, top=0.905, bottom=0.135)
    image = heat_map(axis, shares, (0.5, epochs + 0.5, 0.0, 1.0), vmin=0)
    means = np.where(shares.any(1), shares @ middles, np.nan)
    axis.plot(
        np.arange(1, epochs + 1), means, color=VERMILLION, linewidth=2, label="mean", **dots(means)
    )
    axis.set(xlabel="epoch", ylabel="alpha (0: labels, 1: teacher)", ylim=(0, 1))
    epochs_along(axis, epochs)
    axis.legend(loc="best", fontsize=8)
    axis.set_title("Distribution of alpha over the samples in each epoch", fontsize=11)
    figure.colorbar(image, ax=axis, label="samples (%)", fraction=0.05, pad=0.02)
    return figure


def weights(
    histogram: Array, noisy: Array | None = None, clean: Array | None = None
) -> "Figure | None":
    """Draw the distribution of the training samples' weights in each epoch.

    The means of samples with right and wrong labels are drawn below it, if they are known.

    Args:
        histogram: (E, bins) shares of samples per bin of [0, `WEIGHT_RANGE`]. The last bin includes
        larger weights. A row of NaN is an epoch without weights.
        noisy: (E,) mean weights of samples with wrong labels.
        clean: (E,) mean weights of samples with right labels.

    Returns:
        The figure, or None without weights.

    Raises:
        ValueError: The means have another number of epochs.
    """
    if histogram.ndim != 2 or not histogram.size or not np.nan_to_num(histogram).any():
        return None
    shares = _shares(histogram)
    epochs = len(shares)
    means = {
        name: finite(values)
        for name, values in (("wrong", noisy), ("right", clean))
        if values is not None
    }
    if {values.shape for values in means.values()} - {(epochs,)}:
        raise ValueError(
            f"weights of {epochs} epochs with means of "
            f"{[values.shape for values in means.values()]}"
        )
    means = {name: values for name, values in means.items() if np.isfinite(values).any()}
    rows = 2 if means else 1
    figure, axes = create_figure(8.0, 5.4 if means else 3.8, rows, ratios=(3, 2))
    figure.subplots_adjust(
        left=0.085,
        right=0.87,
        top=0.935 if means else 0.905,
        bottom=0.09 if means else 0.135,
        hspace=0.24,
    )
    _spread_of_weights(axes[0], shares)
    if means:
        _means_by_label(axes[1], means)
        axes[0].set_xlabel("")
    for axis in axes:
        epochs_along(axis, epochs)
    return figure


def _spread_of_weights(axis: "Axes", shares: Array) -> None:
    from matplotlib.colors import PowerNorm

    epochs, bins = shares.shape
    filled = np.flatnonzero(shares.any(0))[-1]
    top = min(max(2.0, WEIGHT_RANGE * (filled + 1) / bins), WEIGHT_RANGE)
    extent = (0.5, epochs + 0.5, 0.0, WEIGHT_RANGE)
    # Before the first weights all samples are in one bin; on a linear scale the rest would be white
    norm = PowerNorm(0.5, 0.0)
    image = heat_map(axis, shares, extent, norm=norm)
    axis.axhline(1.0, color=VERMILLION, linewidth=1.2, linestyle="--")
    axis.set(xlabel="epoch", ylabel="sample weight (1: mean)", ylim=(0, top))
    beyond = (
        f" (top bin: {WEIGHT_RANGE * (bins - 1) / bins:g} and more)" if filled == bins - 1 else ""
    )
    axis.set_title(f"Weights of the training samples in each epoch{beyond}", fontsize=11)
    colour_axis = axis.inset_axes((1.02, 0.0, 0.025, 1.0))
    axis.figure.colorbar(image, cax=colour_axis, label="samples (%)")


def _means_by_label(axis: "Axes", means: Mapping[str, Array]) -> None:
    for name, values in means.items():
        colour, marker = LABELS[name]
        places = np.arange(1, len(values) + 1)
        axis.plot(
            places,
            values,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.6,
            label=f"{name} label",
        )
    axis.axhline(1.0, color=BLACK, linewidth=0.8, linestyle="--")
    axis.set(
        xlabel="epoch",
        ylabel="mean weight",
        ylim=(0, 1.15 * max(1.0, *(np.nanmax(values) for values in means.values()))),
    )
    axis.legend(loc="best", fontsize=8)
    last = {name: values[np.isfinite(values)][-1] for name, values in means.items()}
    axis.set_title(
        "Mean weight at the end: "
        + ", ".join(f"{value:.2f} with a {name} label" for name, value in last.items()),
        fontsize=10,
    )


def uncertainty(histogram: Array) -> "Figure | None":
    """Draw the teacher's uncertainty H / log K of the samples in the last epoch.

    Args:
        histogram: (E, bins) shares of samples per bin of [0, 1].

    Returns:
        The figure, or None without a sample.
    """
    if histogram.ndim != 2 or not histogram.size:
        return None
    counts = np.nan_to_num(histogram[-1].astype(np.float64))
    if not counts.sum() > 0:
        return None
    shares, bins = counts / counts.sum(), len(counts)
    middles = (np.arange(bins) + 0.5) / bins
    mean = float(shares @ middles)
    figure, axis = create_axis(7.0, 3.4, left=0.095, right=0.975, top=0.895, bottom=0.15)
    axis.bar(middles, 100 * shares, 0.92 / bins, color=BLUE, linewidth=0)
    axis.axvline(mean, color=VERMILLION, linewidth=1.6)
    axis.set(
        xlim=(0, 1),
        xlabel="H / log K of the teacher (0: certain, 1: uniform)",
        ylabel="samples (%)",
    )
    axis.set_title(
        f"The teacher's uncertainty in epoch {len(histogram)}: mean {mean:.3f}", fontsize=11
    )
    return figure


def _shares(histogram: Array) -> Array:
    """Return each row of (E, bins) as float64 with sum one; rows without counts are zeros."""
    counts = np.nan_to_num(histogram.astype(np.float64))
    totals = counts.sum(1, keepdims=True)
    shares: Array = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    return shares


def agreement(shares: Array) -> "Figure | None":
    """Draw the share of validation samples for which all students predict the same class.

    Args:
        shares: (E,) shares over the epochs.

    Returns:
        The figure, or None without an epoch.
    """
    if shares.ndim != 1 or not len(shares):
        return None
    figure, axis = create_axis(7.0, 3.4, left=0.095, right=0.975, top=0.895, bottom=0.15)
    axis.plot(
        np.arange(1, len(shares) + 1), 100 * shares, "o-", color=BLUE, markersize=4, linewidth=1.4
    )
    axis.set(xlabel="epoch", ylabel="validation samples (%)", ylim=(None, 101))
    axis.set_title(
        f"Samples for which all students predict the same class: {shares[-1]:.1%} at the end",
        fontsize=11,
    )
    return figure
