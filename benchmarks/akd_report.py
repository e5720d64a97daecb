"""Report the results of `akd_quality.py`: a Markdown table of paired differences, and a figure.

Variants are named by their table rows: fixed alphas (theirs), cross entropy as a reference,
adaptive alphas (ours).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import paired_report
from benchmarks.paired_report import Table, error, lines, plus_minus

REFERENCE = "cross entropy"
FIXED = {f"alpha = {alpha:g}": alpha for alpha in (0.1, 0.3, 0.5, 0.7, 0.9)}
USUAL = "alpha = 0.9"
RAW = {  # by row name
    "raw clamped": {
        "alpha_schedule": "learnable",
        "alpha_learnable": "raw",
        "alpha_min": 0.1,
        "alpha_max": 0.9,
    },
    "raw unclamped": {
        "alpha_schedule": "learnable",
        "alpha_learnable": "raw",
        "alpha_min": 0.0,
        "alpha_max": 1.0,
    },
}
ADAPTIVE: dict[str, dict[str, Any]] = {
    **RAW,
    "uncertainty": {"alpha_schedule": "learnable", "alpha_learnable": "uncertainty"},
    "ratio": {"alpha_schedule": "gap", "alpha_gap": "ratio"},
    "ratio + CAM": {"alpha_schedule": "gap", "alpha_gap": "ratio", "cam": True},
}


@dataclass(frozen=True)
class Trial(paired_report.TestedTrial):
    """Test metrics of the last epoch's student, with its validation accuracies of all epochs.

    Attributes:
        validation: Validation accuracy of each epoch.
        alpha: Mean alpha of the last epoch.
        curve: Values of epoch, alpha, cross_entropy and distillation during training, for the drawn
            variants.
    """

    validation: list[float]
    alpha: float | None
    curve: dict[str, list[float]]

    @property
    def movement(self) -> float:
        """Return the mean |change| of the validation accuracy per epoch.

        The mean is over the last half of the epochs.
        """
        changes = np.abs(np.diff(self.validation))
        return float(changes[len(changes) // 2 :].mean()) if len(changes) else math.nan


def best_fixed(table: Table[Trial]) -> str | None:
    """Return the fixed alpha with the best mean validation accuracy of the last epoch.

    The test part has no influence on the choice.
    """
    fixed = [name for name in FIXED if name in table.rows]
    return max(fixed, key=lambda name: float(table.values(name, validated).mean()), default=None)


def tested(trial: Trial) -> float:
    """Return the test accuracy of the last epoch."""
    return trial.accuracy


def validated(trial: Trial) -> float:
    """Return the validation accuracy of the last epoch."""
    return trial.validation[-1]


def markdown(trials: list[Trial]) -> str:
    """Return the table and its legend."""
    table = Table(trials)
    best = best_fixed(table)
    rivals = [
        name for name in dict.fromkeys((best, USUAL)) if name is not None and name in table.rows
    ]
    order = [name for name in (REFERENCE, *FIXED, *ADAPTIVE) if name in table.rows]
    cells = {rival: table.gains(rival, order, set(ADAPTIVE), tested) for rival in rivals}
    titles = [
        "",
        "test %",
        *(f"− {rival}{' (best fixed)' * (rival == best)}" for rival in rivals),
        "validation %",
        "NLL",
        "ECE",
    ]
    titles += ["std over seeds", "moves per epoch", "last alpha"]
    rows = [[name, *row(table, name, [cells[rival][name] for rival in rivals])] for name in order]
    legend = (
        f"Over {table.counted()}; ± is the standard error, differences are paired over seeds "
        f"and in points. p: paired t-test, "
        f"Holm over the {sum(name in ADAPTIVE for name in order)} alphas that adapt, for each "
        f"rival apart. The best fixed alpha is "
        "chosen by validation accuracy. std over seeds: of the test accuracy, in points; moves "
        "per epoch: mean |change| of the "
        "validation accuracy over the last half of the epochs, in points. last alpha: mean "
        "over seeds [least, most]."
    )
    return f"{lines(titles, rows)}\n\n{legend}"


def row(table: Table[Trial], name: str, gains: list[str]) -> list[str]:
    """Return the cells of a variant's row, without its name."""
    accuracy = 100 * table.values(name, tested)
    moves = 100 * table.values(name, lambda trial: trial.movement)
    cells = [
        plus_minus(accuracy.mean(), error(accuracy)),
        *gains,
        table.cell(name, lambda trial: 100 * validated(trial)),
    ]
    cells += [
        table.cell(name, lambda trial: trial.nll, 4),
        table.cell(name, lambda trial: trial.ece, 4),
    ]
    spread = accuracy.std(ddof=1) if len(accuracy) > 1 else math.nan
    cells += [
        "-" if math.isnan(spread) else f"{spread:.2f}",
        plus_minus(moves.mean(), error(moves)),
    ]
    alphas = [trial.alpha for trial in table.rows[name].values() if trial.alpha is not None]
    if name in FIXED or not alphas:
        return [*cells, f"{alphas[0]:g}" if alphas else "-"]
    return [*cells, f"{np.mean(alphas):.3f} [{min(alphas):.3f}, {max(alphas):.3f}]"]


def collapse(trials: list[Trial], file: Path) -> None:
    """Draw alpha as trained by the loss itself, one line per seed, and the two loss terms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=80, layout="constrained")
    left, *others = figure.subplots(1, 1 + len(RAW), sharex=True, width_ratios=[1.2, 1, 1])
    terms = {"cross_entropy": ("CE", "tab:green"), "distillation": ("$T^2$ KL", "tab:purple")}
    for name, axes, colour in zip(RAW, others, ("tab:blue", "tab:red"), strict=True):
        curves = [trial.curve for trial in trials if trial.variant == name]
        for number, curve in enumerate(curves):
            label = name if number == 0 else None
            left.plot(
                curve["epoch"], curve["alpha"], color=colour, linewidth=0.9, alpha=0.7, label=label
            )
            for key, (term, ink) in terms.items():
                axes.plot(
                    curve["epoch"],
                    curve[key],
                    color=ink,
                    linewidth=0.7,
                    alpha=0.7,
                    label=None if number else term,
                )
        axes.set(title=f"{name}: the two terms", xlabel="epoch", yscale="log")
        axes.legend(frameon=False)
    left.set(
        title="alpha trained by the loss",
        xlabel="epoch",
        ylabel="weight of the teacher",
        ylim=(-0.03, 1.03),
    )
    left.legend(frameon=False)
    figure.savefig(file)
