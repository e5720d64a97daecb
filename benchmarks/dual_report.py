"""Says what `dual_quality.py` found: per student a Markdown table of paired differences with their errors. Trains nothing.

The variants go by the names of their rows; all but the references are `dual_student` whose weights sum to one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import paired_report
from benchmarks.paired_report import Table, lines

BASE = "KD"
ALONE = {"lambda_ce": 0.3, "lambda_kd": 0.7, "lambda_peer": 0.0}
HEARD = {"lambda_ce": 0.3, "lambda_kd": 0.5, "lambda_peer": 0.2, "peer_warmup": 0.2}
DUAL: dict[str, dict[str, Any]] = {  # by the names of their rows
    BASE: {**ALONE, "certainty": "none"},
    "+ w": {**ALONE, "certainty": "certain", "w_norm": "none"},
    "+ w (mean 1)": {**ALONE, "certainty": "certain", "w_norm": "mean1"},
    "+ w reversed (mean 1)": {**ALONE, "certainty": "uncertain", "w_norm": "mean1"},
    "+ peer": {**HEARD, "certainty": "none"},
    "+ both": {**HEARD, "certainty": "certain", "w_norm": "none"},
    "+ both (mean 1)": {**HEARD, "certainty": "certain", "w_norm": "mean1"},
}
REFERENCES = {"cross entropy": "cross_entropy", "DML": "dml"}  # methods with their defaults, without a teacher
Scores = dict[str, float]


@dataclass(frozen=True)
class Trial(paired_report.Trial):
    """The students of the last epoch on the test part, by their letters: accuracy, nll, ece; validation, the accuracy there.

    Where a method has them, also uncertainty and weight, the means of H/log K and w over the last epoch. `agreement`: the share of
    the validation part on which both say the same.
    """

    students: dict[str, Scores]
    agreement: float

    @property
    def outcome(self) -> str:
        """The accuracies of its students."""
        return ", ".join(f"{letter} {scores['accuracy']:.4f}" for letter, scores in self.students.items())


def markdown(trials: list[Trial], networks: dict[str, str]) -> str:
    """A table per student, `networks` by letter, and below them how to read them."""
    table = Table(trials)
    order = [name for name in (*REFERENCES, *DUAL) if name in table.rows]
    parts = [f"Student {letter}, {network}:\n\n{of_student(table, letter, order)}" for letter, network in networks.items()]
    legend = (
        f"Over {table.counted()}; ± is the standard error, differences are paired over seeds and in points of test accuracy with "
        f"the last weights. p: paired t-test, Holm over all rows but {BASE}, for each student apart. {BASE} is "
        f"{weighted(ALONE)}, each student alone; + w weighs the teacher's term of a sample by w = 1 - H(p)/log K, reversed by "
        f"H(p)/log K, mean 1: divided by its mean over the batch; + peer is {weighted(HEARD)}, with a warm-up of "
        f"{100 * HEARD['peer_warmup']:g} % of the epochs; + both: + peer with w. H/log K and w are means over the last epoch's "
        "training samples. agree: validation samples of which both students say the same class."
    )
    return "\n\n".join([*parts, legend])


def weighted(weights: dict[str, float]) -> str:
    """The weights of the three terms."""
    return " + ".join(
        f"{weights[key]:g} {term}"
        for key, term in (("lambda_ce", "CE"), ("lambda_kd", "KD"), ("lambda_peer", "peer"))
        if weights[key]
    )


def of_student(table: Table[Trial], letter: str, order: list[str]) -> str:
    """The table of one student."""

    def score(name: str, factor: float = 1.0) -> Callable[[Trial], float]:
        return lambda trial: factor * trial.students[letter][name]

    def tracked(variant: str, name: str) -> str:
        has = all(name in trial.students[letter] for trial in table.rows[variant].values())
        return f"{table.values(variant, score(name)).mean():.3f}" if has else "-"

    gains = table.gains(BASE, order, set(order) - {BASE}, score("accuracy")) if BASE in table.rows else dict.fromkeys(order, "-")
    titles = ["", "test %", f"− {BASE}", "validation %", "NLL", "ECE", "agree %", "H/log K", "w"]
    rows = [
        [
            name,
            table.cell(name, score("accuracy", 100)),
            gains[name],
            table.cell(name, score("validation", 100)),
            table.cell(name, score("nll"), 4),
            table.cell(name, score("ece"), 4),
            table.cell(name, lambda trial: 100 * trial.agreement),
            tracked(name, "uncertainty"),
            tracked(name, "weight"),
        ]
        for name in order
    ]
    return lines(titles, rows)
