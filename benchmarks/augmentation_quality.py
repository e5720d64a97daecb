"""Which augmentation makes the better student on a named data set: what `data.augmentation=auto` should come to.

    python benchmarks/augmentation_quality.py [--preset digits] [--seeds 5] [--jobs 1] [--store FOLDER] [--out FILE.jsonl]
    python benchmarks/augmentation_quality.py --preset fashion_resnets --path FOLDER-WITH-THE-FOUR-FILES --seeds 3
    python benchmarks/augmentation_quality.py --preset cifar_resnets --path cifar10.npz --seeds 3

Plain training and KD under each policy; the teacher of a policy is fitted under the same one. Seed s sets weights, order and views
of the student, and every variant has the same seeds, the same recipe and the same split. Every trial is the real `train()` in a
process of one thread, without Ray. The last epoch's student is compared, on the test part. `--out` gets a line per trial as it
ends; the trials that it holds are not trained again, so an interrupted run continues.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds its own folder alone

from benchmarks import paired, paired_report
from benchmarks.common import ROOT
from benchmarks.paired import Change
from benchmarks.paired_report import Table, lines
from orchestrator.config import Choice
from orchestrator.store import read_json
from orchestrator.teacher.card import CARD
from orchestrator.trial import TrialSpec

POLICIES = ("none", "crop", "crop_flip")
FEW = [  # few images for so many epochs that the student fits them: what augmentation is for
    *("data.limit.train=1000", "data.limit.validation=200", "data.limit.test=5000"),
    *("student.name=cnn", "student.width=16", "training.epochs=60", "training.learning_rate=0.1"),
    *("teacher.network.name=cnn", "teacher.network.width=32", "teacher.training.epochs=60", "teacher.training.learning_rate=0.1"),
]
RESNETS = [  # the pair of configs/fashion_mnist.yaml, on as many images and epochs as two cores allow
    *("data.limit.train=3000", "data.limit.validation=500", "data.limit.test=5000"),
    *("student.name=resnet8", "training.epochs=20", "training.batch_size=64", "training.learning_rate=0.1"),
    *("teacher.network.name=resnet20", "teacher.training.epochs=20"),
    *("teacher.training.batch_size=64", "teacher.training.learning_rate=0.1"),
]
PRESETS: dict[str, tuple[Path | None, list[str]]] = {
    "digits": (ROOT / "configs" / "digits.yaml", []),
    "fashion": (None, ["data.name=FashionMNIST", *FEW]),
    "cifar10": (None, FEW),
    "cifar100": (None, FEW),
    "mnist_resnets": (None, ["data.name=MNIST", *RESNETS]),
    "fashion_resnets": (None, ["data.name=FashionMNIST", *RESNETS]),
    "cifar_resnets": (None, RESNETS),
}


@dataclass(frozen=True)
class Trial(paired_report.Trial):
    """The test accuracy of a student with its last weights, and that of its teacher."""

    accuracy: float
    teacher: float

    @property
    def outcome(self) -> str:
        """In a few words, for whoever waits."""
        return f"test accuracy {self.accuracy:.4f}"


def methods(temperature: float) -> dict[str, Choice]:
    """Plain training, and KD with the weights of the search's first trial."""
    return {
        "plain": Choice.model_validate({"name": "cross_entropy"}),
        "KD": Choice.model_validate({"name": "kd", "alpha": 0.9, "temperature": temperature}),
    }


def variant(method: str, policy: str) -> str:
    """The name of a row and column."""
    return f"{method} under {policy}"


def variants(temperature: float) -> dict[str, Choice]:
    """Every method under every policy."""
    return {variant(name, policy): choice for policy in POLICIES for name, choice in methods(temperature).items()}


def trained(plain: dict[str, Any]) -> Trial:
    """Train a trial and return what is kept of it; runs in a process of the pool."""
    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.epochs_of(spec)
    assert spec.teacher is not None
    card = read_json(spec.teacher / CARD)
    return Trial(
        variant=spec.name,
        seed=spec.configuration.seed,
        seconds=seconds,
        accuracy=every[-1]["test/last/accuracy"],
        teacher=card["metrics"]["test/last/accuracy"],
    )


def markdown(kept: list[Trial]) -> str:
    """A row for each policy: the teacher, plain training, KD, what each gains over no augmentation, and KD over plain training."""
    table, names = Table(kept), list(methods(4.0))
    present = [policy for policy in POLICIES if any(variant(name, policy) in table.rows for name in names)]
    gains: dict[str, str] = {}
    for name in names:
        rows = [variant(name, policy) for policy in present if variant(name, policy) in table.rows]
        gains |= table.gains(rows[0], rows, set(rows), _accuracy) if rows else {}
    titles = [
        "data.augmentation",
        "teacher %",
        *(title for name in names for title in (f"{name} %", f"− {present[0]}")),
        "KD − plain",
    ]
    return f"{lines(titles, [_row(table, policy, names, gains) for policy in present])}\n\nOver {table.counted()}."


def _row(table: Table[Trial], policy: str, names: list[str], gains: dict[str, str]) -> list[str]:
    cells = [variant(name, policy) for name in names]
    known = [cell for cell in cells if cell in table.rows]
    row = [policy, f"{100 * float(table.values(known[0], lambda trial: trial.teacher)[0]):.2f}"]
    for cell in cells:
        row += [table.cell(cell, lambda trial: 100 * trial.accuracy), gains[cell]] if cell in table.rows else ["-", "-"]
    both = len(known) == len(cells)
    return [*row, table.gains(cells[0], cells, set(cells), _accuracy)[cells[1]] if both else "-"]


def _accuracy(trial: Trial) -> float:
    return trial.accuracy


def main() -> None:
    """The teachers, all trials, then the table."""
    known = list(variants(4.0))
    options = paired.read(paired.arguments(__doc__, PRESETS, known), known)
    changes = {variant(name, policy): Change(sets=(f"data.augmentation={policy}",)) for policy in POLICIES for name in methods(4.0)}
    _, kept = paired.compared(options, PRESETS, variants(options.temperature), trained, Trial, changes)
    print(markdown(kept))


if __name__ == "__main__":
    main()
