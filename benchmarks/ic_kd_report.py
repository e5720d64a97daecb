"""Report the results of `ic_kd_quality.py`: a Markdown table of paired differences.

A study is one paradigm. Its variants are named by their table rows; the first one is the base of
IC-KD's additions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks import paired_report
from benchmarks.paired_report import Table, lines

PICD, NICD = {"picd": 0.5, "nicd": 0.0}, {"picd": 0.0, "nicd": 0.2}
NEITHER, BOTH = {"picd": 0.0, "nicd": 0.0}, {"picd": 0.5, "nicd": 0.2}
ADDED = ("+ PICD", "+ NICD", "+ both")


class Variant(NamedTuple):
    """A method by its name, with its own settings."""

    method: str
    settings: Mapping[str, Any] = {}


def paradigm(name: str, base: str, terms: Mapping[str, Mapping[str, float]]) -> dict[str, Variant]:
    """Return the base of a paradigm and IC-KD's additions to it."""
    return {
        row: Variant("ic_kd", {"paradigm": name, **settings})
        for row, settings in ({base: NEITHER} | dict(terms)).items()
    }


# without self-distillation
FREE = {"+ PICD": {"picd": 1.0, "nicd": 0.0}, "+ both": {"picd": 1.0, "nicd": 0.2}}
STUDIES: dict[str, dict[str, Variant]] = {
    "offline": paradigm("offline", "KD", dict(zip(ADDED, (PICD, NICD, BOTH), strict=True))),
    "online": paradigm(
        "online", "mutual learning", dict(zip(ADDED, (PICD, NICD, BOTH), strict=True))
    ),
    "teacher_free": {
        "cross entropy": Variant("cross_entropy"),
        **{
            row: Variant("ic_kd", {"paradigm": "teacher_free", **settings})
            for row, settings in FREE.items()
        },
        "+ NICD": Variant(
            "ic_kd", {"paradigm": "teacher_free", "picd": 0.0, "nicd": 0.2, "alpha": 0.0}
        ),
        "self-distillation": Variant("ic_kd", {"paradigm": "teacher_free", **NEITHER}),
        "label smoothing": Variant("cross_entropy", {"label_smoothing": 0.1}),
        "Tf-KD": Variant("tf_kd"),
    },
}
for study in ("offline", "online"):
    STUDIES[study]["cross entropy"] = Variant("cross_entropy")
METRICS = ("retrieved_right", "own_entropy", "target_entropy")


@dataclass(frozen=True)
class Trial(paired_report.TestedTrial):
    """Test metrics of the last epoch's student; means if there are several students.

    Attributes:
        validation: Validation accuracy.
        bank: The metrics of `METRICS`.
    """

    validation: float
    bank: dict[str, float] = field(default_factory=dict)


def markdown(trials: list[Trial], study: str) -> str:
    """Return the table and its legend."""
    table, known = Table(trials), STUDIES[study]
    base = next(iter(known))
    order = [name for name in known if name in table.rows]
    tested = {name for name in order if name in ADDED}
    rivals = [name for name in (base, "label smoothing", "Tf-KD") if name in table.rows]
    gains = {
        rival: table.gains(rival, order, tested, lambda trial: trial.accuracy) for rival in rivals
    }

    def score(name: str, factor: float = 1.0) -> Callable[[Trial], float]:
        return lambda trial: factor * float(getattr(trial, name))

    def tracked(variant: str, name: str) -> str:
        has = all(name in trial.bank for trial in table.rows[variant].values())
        return table.cell(variant, lambda trial: trial.bank[name], 3) if has else "-"

    titles = ["", "test %", *(f"− {rival}" for rival in rivals), "validation %", "NLL", "ECE"]
    titles += ["positives right", "own entropy", "target entropy"]
    rows = [
        [
            name,
            table.cell(name, score("accuracy", 100)),
            *(gains[rival][name] for rival in rivals),
            table.cell(name, score("validation", 100)),
            table.cell(name, score("nll"), 3),
            table.cell(name, score("ece"), 3),
            *(tracked(name, metric) for metric in METRICS),
        ]
        for name in order
    ]
    legend = (
        f"Over {table.counted()}; ± is the standard error. Accuracies are those of the last "
        f"weights, differences are paired over "
        f"seeds and in points. p: paired t-test, Holm over the {len(tested)} rows that add "
        f"something to the first, for each rival "
        "apart. positives right: retrieved positives to which the bank assigns their "
        "label; entropies in nats at T, of the bank's outputs for the samples and of the "
        "targets from their positives."
    )
    return f"{lines(titles, rows)}\n\n{legend}"
