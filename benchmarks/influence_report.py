"""Report the results of `influence_quality.py`: a table of paired differences per question.

Variants are named by their table rows. An estimator or a baseline is `kd_aif` with other settings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import paired_report
from benchmarks.paired import Change
from benchmarks.paired_report import Table, lines

ALIKE, TWICE = Change(), Change(epochs=2)
WITH_HELD_OUT = ("data.validation_in_training=true",)
# weights are computed once, after nine tenths of the epochs
ONCE = {"warmup": 0.9, "every": 1000, "lag": 0}
EQUAL = {"weigh_by": "none"}
KD, KD_TWICE, KD_HELD_OUT = "KD", "KD twice the epochs", "KD with V"
BY_LOSS, RANDOM = "weighed by loss", "random weights"
LABELS, LABELS_HELD_OUT = "labels only", "labels only with V"
PLAIN = "pseudo-labels soft"
PLAIN_HARD = "pseudo-labels hard"


@dataclass(frozen=True)
class Variant:
    """A method with additional settings, and its deviation from the recipe."""

    method: str
    settings: dict[str, Any]
    change: Change = ALIKE


def weighted_variant(**settings: Any) -> Variant:
    """Return KD-AIF with the given settings.

    A static student restarts halfway, so it has twice the epochs. Its second half is then the
    recipe of the others.
    """
    return Variant("kd_aif", settings, TWICE if settings.get("update") == "static" else ALIKE)


@dataclass(frozen=True)
class Study:
    """A question.

    Attributes:
        variants: The variants by row.
        tested: Rows that are tested.
        rivals: Rows that the others are compared with, and their titles.
        columns: Metrics of the table.
    """

    variants: dict[str, Variant]
    tested: tuple[str, ...]
    rivals: dict[str, str]
    columns: tuple[str, ...]


NOISE = Study(
    {
        KD: Variant("kd", {}),
        KD_TWICE: Variant("kd", {}, TWICE),
        KD_HELD_OUT: Variant("kd", {}, Change(sets=WITH_HELD_OUT)),
        "KD-AIF iterative": weighted_variant(update="iterative"),
        "KD-AIF static": weighted_variant(update="static"),
        BY_LOSS: weighted_variant(update="iterative", weigh_by="loss"),
        RANDOM: weighted_variant(update="iterative", weigh_by="random"),
        "cross entropy": Variant("cross_entropy", {}),
    },
    ("KD-AIF iterative", "KD-AIF static"),
    {KD: "KD", KD_TWICE: "KD twice", KD_HELD_OUT: "KD with V", BY_LOSS: "by loss"},
    ("weight_noisy", "weight_clean", "auc_noisy"),
)
DETECTION = Study(
    {
        "last_layer": weighted_variant(estimator="last_layer", **ONCE),
        "kfac": weighted_variant(estimator="kfac", **ONCE),
        "cg": weighted_variant(estimator="cg", **ONCE),
        "lissa": weighted_variant(estimator="lissa", **ONCE),
        "identity": weighted_variant(estimator="identity", **ONCE),
        "the sample's loss": weighted_variant(weigh_by="loss", **ONCE),
    },
    (),
    {},
    ("auc_noisy", "seconds"),
)
FEW = Study(
    {
        LABELS: Variant("cross_entropy", {}, Change(epochs=16)),
        LABELS_HELD_OUT: Variant("cross_entropy", {}, Change(epochs=10.5, sets=WITH_HELD_OUT)),
        PLAIN: weighted_variant(update="ssl", **EQUAL),
        PLAIN_HARD: weighted_variant(update="ssl", pseudo="hard", **EQUAL),
        KD_HELD_OUT: Variant("kd", {"form": "additive", "beta": 1.0}, Change(sets=WITH_HELD_OUT)),
        "KD-AIF soft": weighted_variant(update="ssl"),
        "KD-AIF hard": weighted_variant(update="ssl", pseudo="hard"),
        "KD-AIF soft with feedback": weighted_variant(update="ssl", feedback=1.0),
        "random weights soft": weighted_variant(update="ssl", weigh_by="random"),
    },
    ("KD-AIF soft", "KD-AIF hard", "KD-AIF soft with feedback"),
    {PLAIN: "soft", PLAIN_HARD: "hard", LABELS: "labels", LABELS_HELD_OUT: "labels with V"},
    ("weight_std",),
)
STUDIES = {"noise": NOISE, "detection": DETECTION, "few": FEW}
COLUMNS = {  # metrics of the sample weights: title and number of digits
    "weight_noisy": ("w, wrong labels", 3),
    "weight_clean": ("w, right labels", 3),
    "weight_std": ("std of w", 3),
    "auc_noisy": ("AUC", 3),
    "seconds": ("seconds per weight update", 2),
}


@dataclass(frozen=True)
class Trial(paired_report.TestedTrial):
    """Test metrics of the last epoch's student, and the metrics of its sample weights.

    Attributes:
        validation: Validation accuracy.
        influence: Last value of each metric of the weights; `auc_noisy` belongs to the underlying
            scores.
    """

    validation: float
    influence: dict[str, float]

    @property
    def outcome(self) -> str:
        """Return the test accuracy, and the AUC of the wrong labels if there is one, as text."""
        found = self.influence.get("auc_noisy")
        return f"{self.accuracy:.4f}" + ("" if found is None else f", AUC {found:.3f}")


def tested(trial: Trial) -> float:
    """Return the test accuracy of the last epoch."""
    return trial.accuracy


def markdown(trials: list[Trial], study: Study) -> str:
    """Return the table and its legend.

    Without rivals the table holds only metrics of the weights.
    """
    table = Table(trials)
    order = [name for name in study.variants if name in table.rows]
    titles = ["", *(COLUMNS[key][0] for key in study.columns)]
    cells: dict[str, list[str]] = {}
    legend = f"Over {table.counted()}; ± is the standard error."
    if study.rivals:
        accuracies, cells = compare_variants(table, study, order)
        titles = ["", *accuracies, *titles[1:]]
        legend += (
            " Accuracies are those of the last weights, differences are paired over seeds and "
            "in points. p: paired t-test, Holm "
            f"over the {len(set(study.tested) & set(order))} rows that are tested, for each "
            f"rival apart. better: seeds in which "
            "the row's test accuracy is above its rival's. with V: teacher and student are "
            "trained on the validation labels too."
        )
    rows = [
        [name, *cells.get(name, []), *(tracked(table, name, key) for key in study.columns)]
        for name in order
    ]
    return f"{lines(titles, rows)}\n\n{legend}"


def compare_variants(
    table: Table[Trial], study: Study, order: list[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Return titles and cells of the students' metrics, with paired differences from each rival."""
    rivals = [name for name in study.rivals if name in table.rows]
    gains = {rival: table.gains(rival, order, set(study.tested), tested) for rival in rivals}
    titles = ["test %", *(f"− {study.rivals[rival]}" for rival in rivals)]
    titles += [f"better than {study.rivals[rival]}" for rival in rivals[:1]]
    cells = {
        name: [
            table.cell(name, lambda trial: 100 * trial.accuracy),
            *(gains[rival][name] for rival in rivals),
            *(better(table, name, rival) for rival in rivals[:1]),
            table.cell(name, lambda trial: trial.nll, 3),
            table.cell(name, lambda trial: trial.ece, 3),
        ]
        for name in order
    }
    return [*titles, "NLL", "ECE"], cells


def better(table: Table[Trial], name: str, rival: str) -> str:
    """Return the number of common seeds in which a variant is above its rival, as text."""
    mine, theirs = table.rows[name], table.rows[rival]
    seeds = set(mine) & set(theirs)
    return (
        "-"
        if name == rival
        else f"{sum(mine[seed].accuracy > theirs[seed].accuracy for seed in seeds)} of {len(seeds)}"
    )


def tracked(table: Table[Trial], name: str, key: str) -> str:
    """Return the cell of a metric of the weights, or "-" if the variant has none."""
    value: Callable[[Trial], float] = lambda trial: trial.influence[key]  # noqa: E731
    has = all(key in trial.influence for trial in table.rows[name].values())
    return table.cell(name, value, COLUMNS[key][1]) if has else "-"
