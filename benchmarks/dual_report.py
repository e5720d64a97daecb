"""Report the results of `dual_quality.py`: per student a Markdown table of paired differences.

Variants are named by their table rows. All but the references are `dual_student`, whose weights sum
to one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import paired_report
from benchmarks.paired_report import Table, lines

BASE = "KD"
ALONE = {"lambda_ce": 0.3, "lambda_kd": 0.7, "lambda_peer": 0.0}
PEER = {"lambda_ce": 0.3, "lambda_kd": 0.5, "lambda_peer": 0.2, "peer_warmup": 0.2}
DUAL: dict[str, dict[str, Any]] = {  # by row name
    BASE: {**ALONE, "certainty": "none"},
    "+ w": {**ALONE, "certainty": "certain", "w_norm": "none"},
    "+ w (mean 1)": {**ALONE, "certainty": "certain", "w_norm": "mean1"},
    "+ w reversed (mean 1)": {**ALONE, "certainty": "uncertain", "w_norm": "mean1"},
    "+ peer": {**PEER, "certainty": "none"},
    "+ both": {**PEER, "certainty": "certain", "w_norm": "none"},
    "+ both (mean 1)": {**PEER, "certainty": "certain", "w_norm": "mean1"},
}
# methods without a teacher, with their defaults
REFERENCES = {"cross entropy": "cross_entropy", "DML": "dml"}
Scores = dict[str, float]


@dataclass(frozen=True)
class Trial(paired_report.Trial):
    """Test metrics of the last epoch's students, by their letters.

    Attributes:
        students: For each letter accuracy, nll and ece on the test part, and `validation`, the
            validation accuracy. If the method has them, also uncertainty and weight: the means of
            H/log K and w over the last epoch.
        agreement: Share of the validation part on which both students predict the same class.
    """

    students: dict[str, Scores]
    agreement: float

    @property
    def outcome(self) -> str:
        """Return the test accuracies of the students as text."""
        return ", ".join(
            f"{letter} {scores['accuracy']:.4f}" for letter, scores in self.students.items()
        )


def markdown(trials: list[Trial], networks: dict[str, str]) -> str:
    """Return a table per student and a legend.

    Args:
        trials: The results.
        networks: Description of each student's network, by letter.
    """
    table = Table(trials)
    order = [name for name in (*REFERENCES, *DUAL) if name in table.rows]
    parts = [
        f"Student {letter}, {network}:\n\n{of_student(table, letter, order)}"
        for letter, network in networks.items()
    ]
    legend = (
        f"Over {table.counted()}; ± is the standard error, differences are paired over seeds "
        f"and in points of test accuracy with "
        f"the last weights. p: paired t-test, Holm over all rows but {BASE}, for each student "
        f"apart. {BASE} is "
        f"{weighted(ALONE)}, each student alone; + w weighs the teacher's term of a sample by "
        f"w = 1 - H(p)/log K, reversed by "
        f"H(p)/log K, mean 1: divided by its mean over the batch; + peer is {weighted(PEER)}, "
        f"with a warm-up of "
        f"{100 * PEER['peer_warmup']:g} % of the epochs; + both: + peer with w. H/log K and w "
        f"are means over the last epoch's "
        "training samples. agree: validation samples of which both students say the same class."
    )
    return "\n\n".join([*parts, legend])


def weighted(weights: dict[str, float]) -> str:
    """Return the weights of the three terms as text."""
    return " + ".join(
        f"{weights[key]:g} {term}"
        for key, term in (("lambda_ce", "CE"), ("lambda_kd", "KD"), ("lambda_peer", "peer"))
        if weights[key]
    )


def of_student(table: Table[Trial], letter: str, order: list[str]) -> str:
    """Return the table of one student."""

    def score(name: str, factor: float = 1.0) -> Callable[[Trial], float]:
        return lambda trial: factor * trial.students[letter][name]

    def tracked(variant: str, name: str) -> str:
        has = all(name in trial.students[letter] for trial in table.rows[variant].values())
        return f"{table.values(variant, score(name)).mean():.3f}" if has else "-"

    gains = (
        table.gains(BASE, order, set(order) - {BASE}, score("accuracy"))
        if BASE in table.rows
        else dict.fromkeys(order, "-")
    )
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
