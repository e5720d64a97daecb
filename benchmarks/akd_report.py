"""Says what `akd_quality.py` found: paired differences with their errors as a Markdown table, and a figure. Trains nothing.

The variants go by the names of their rows: fixed alphas (theirs), cross entropy as a reference, alphas that adapt (ours).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCE = "cross entropy"
FIXED = {f"alpha = {alpha:g}": alpha for alpha in (0.1, 0.3, 0.5, 0.7, 0.9)}
USUAL = "alpha = 0.9"
RAW = {  # by the names of their rows
    "raw clamped": {"alpha_schedule": "learnable", "alpha_learnable": "raw", "alpha_min": 0.1, "alpha_max": 0.9},
    "raw unclamped": {"alpha_schedule": "learnable", "alpha_learnable": "raw", "alpha_min": 0.0, "alpha_max": 1.0},
}
ADAPTIVE: dict[str, dict[str, Any]] = {
    **RAW,
    "uncertainty": {"alpha_schedule": "learnable", "alpha_learnable": "uncertainty"},
    "ratio": {"alpha_schedule": "gap", "alpha_gap": "ratio"},
    "ratio + CAM": {"alpha_schedule": "gap", "alpha_gap": "ratio", "cam": True},
}
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """A student of the last epoch on the test part; `validation` accuracies of all epochs, `alpha` the last epoch's mean.

    `curve`: epoch, alpha, cross_entropy and distillation along the training, where it is drawn.
    """

    variant: str
    seed: int
    accuracy: float
    nll: float
    ece: float
    validation: list[float]
    alpha: float | None
    curve: dict[str, list[float]]
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def movement(self) -> float:
        """Mean |change| of the validation accuracy from epoch to epoch over the last half of them."""
        changes = np.abs(np.diff(self.validation))
        return float(changes[len(changes) // 2 :].mean()) if len(changes) else math.nan


@dataclass(frozen=True)
class Difference:
    """A mean over paired seeds, its standard error, and the p-value of a two-sided paired t-test."""

    mean: float
    error: float
    p: float


class Table:
    """The trials by variant and seed."""

    def __init__(self, trials: list[Trial]) -> None:
        self.rows: dict[str, dict[int, Trial]] = {}
        for trial in trials:
            self.rows.setdefault(trial.variant, {})[trial.seed] = trial

    def values(self, variant: str, of: Callable[[Trial], float]) -> Values:
        """Of every seed."""
        return np.array([of(trial) for _, trial in sorted(self.rows[variant].items())])

    def difference(self, variant: str, other: str) -> Difference:
        """In test accuracy, over the seeds that both have."""
        mine, theirs = self.rows[variant], self.rows[other]
        each = np.array([mine[seed].accuracy - theirs[seed].accuracy for seed in sorted(set(mine) & set(theirs))])
        return Difference(float(each.mean()), error(each), p_value(each))

    def best_fixed(self) -> str | None:
        """The fixed alpha with the best mean validation accuracy of the last epoch; the test part has no say."""
        fixed = [name for name in FIXED if name in self.rows]
        return max(fixed, key=lambda name: float(self.values(name, validated).mean()), default=None)


def validated(trial: Trial) -> float:
    """The validation accuracy of the last epoch."""
    return trial.validation[-1]


def error(values: Values) -> float:
    """The standard error of the mean; NaN of one value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def p_value(differences: Values) -> float:
    """Of a two-sided paired t-test; 1 where all differences are zero, NaN of one."""
    from scipy.stats import ttest_1samp  # type: ignore[import-untyped]

    if len(differences) < 2:
        return math.nan
    return 1.0 if not differences.any() else float(ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Corrected for their number (Holm 1979): the smallest times m, the next times m - 1, ..., never falling, at most 1."""
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = math.nan if math.isnan(p_values[name]) else largest
    return corrected


def markdown(trials: list[Trial]) -> str:
    """The table, and below it how to read it."""
    table = Table(trials)
    best = table.best_fixed()
    rivals = [name for name in dict.fromkeys((best, USUAL)) if name is not None and name in table.rows]
    order = [name for name in (REFERENCE, *FIXED, *ADAPTIVE) if name in table.rows]
    cells = {rival: against(table, rival, order) for rival in rivals}
    titles = ["", "test %", *(f"− {rival}{' (best fixed)' * (rival == best)}" for rival in rivals), "validation %", "NLL", "ECE"]
    titles += ["std over seeds", "moves per epoch", "last alpha"]
    lines = [titles, ["---"] * len(titles)]
    for name in order:
        lines.append([name, *row(table, name, [cells[rival][name] for rival in rivals])])
    seeds = sorted({len(row) for row in table.rows.values()})
    counted = (
        f"{seeds[0]} seed{'s' * (seeds[0] > 1)}" if len(seeds) == 1 else f"between {seeds[0]} and {seeds[-1]} seeds (not complete)"
    )
    legend = (
        f"Over {counted}; ± is the standard error, differences are paired over seeds and in points. p: paired t-test, Holm over "
        f"the {sum(name in ADAPTIVE for name in order)} alphas that adapt, for each rival apart. The best fixed alpha is chosen by "
        "validation accuracy. std over seeds: of the test accuracy, in points; moves per epoch: mean |change| of the validation "
        "accuracy over the last half of the epochs, in points. last alpha: mean over seeds [least, most]."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{legend}"


def against(table: Table, rival: str, order: list[str]) -> dict[str, str]:
    """What every variant gains over a rival, the adaptive ones with a p-value."""
    gains = {name: table.difference(name, rival) for name in order if name != rival}
    corrected = holm({name: gain.p for name, gain in gains.items() if name in ADAPTIVE})
    said = {name: plus_minus(100 * gain.mean, 100 * gain.error, sign=True) for name, gain in gains.items()}
    said |= {name: f"{said[name]} (p = {p:.2g})" for name, p in corrected.items() if not math.isnan(p)}
    return {rival: "0", **said}


def row(table: Table, name: str, gains: list[str]) -> list[str]:
    """The cells of a variant beside its name."""
    accuracy = 100 * table.values(name, lambda trial: trial.accuracy)
    validation = 100 * table.values(name, validated)
    moves = 100 * table.values(name, lambda trial: trial.movement)
    cells = [plus_minus(accuracy.mean(), error(accuracy)), *gains, plus_minus(validation.mean(), error(validation))]
    for of, digits in ((lambda trial: trial.nll, 4), (lambda trial: trial.ece, 4)):
        values = table.values(name, of)
        cells.append(plus_minus(values.mean(), error(values), digits))
    spread = accuracy.std(ddof=1) if len(accuracy) > 1 else math.nan
    cells += ["-" if math.isnan(spread) else f"{spread:.2f}", plus_minus(moves.mean(), error(moves))]
    alphas = [trial.alpha for trial in table.rows[name].values() if trial.alpha is not None]
    if name in FIXED or not alphas:
        return [*cells, f"{alphas[0]:g}" if alphas else "-"]
    return [*cells, f"{np.mean(alphas):.3f} [{min(alphas):.3f}, {max(alphas):.3f}]"]


def plus_minus(mean: float, deviation: float, digits: int = 2, sign: bool = False) -> str:
    """A mean and its error, which one seed does not have."""
    return f"{mean:{'+' * sign}.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")


def collapse(trials: list[Trial], file: Path) -> None:
    """Draw where alpha goes when the loss itself trains it, one line a seed, beside the two terms between which it decides."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), dpi=80, layout="constrained")
    left, *others = figure.subplots(1, 1 + len(RAW), sharex=True, width_ratios=[1.2, 1, 1])
    terms = {"cross_entropy": ("CE", "tab:green"), "distillation": ("$T^2$ KL", "tab:purple")}
    for name, axes, colour in zip(RAW, others, ("tab:blue", "tab:red"), strict=True):
        curves = [trial.curve for trial in trials if trial.variant == name]
        for number, curve in enumerate(curves):
            label = name if number == 0 else None
            left.plot(curve["epoch"], curve["alpha"], color=colour, linewidth=0.9, alpha=0.7, label=label)
            for key, (term, ink) in terms.items():
                axes.plot(curve["epoch"], curve[key], color=ink, linewidth=0.7, alpha=0.7, label=None if number else term)
        axes.set(title=f"{name}: the two terms", xlabel="epoch", yscale="log")
        axes.legend(frameon=False)
    left.set(title="alpha trained by the loss", xlabel="epoch", ylabel="weight of the teacher", ylim=(-0.03, 1.03))
    left.legend(frameon=False)
    figure.savefig(file)
