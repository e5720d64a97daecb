"""Compare augmentations on a named data set, to choose the policy of `data.augmentation=auto`.

    python benchmarks/augmentation_quality.py [--preset digits] [--seeds 5] [--jobs 1]
        [--store FOLDER] [--out FILE.jsonl]
    python benchmarks/augmentation_quality.py --preset fashion_resnets
        --path FOLDER-WITH-THE-FOUR-FILES --seeds 3
    python benchmarks/augmentation_quality.py --preset cifar_resnets --path cifar10.npz --seeds 3

Each policy has plain training and KD; the teacher of a policy is fitted under the same policy. All
variants share the seeds, the recipe and the split. Seed s sets the weights, the order and the views
of the student.

Every trial is the real `train()` in a process of one thread, without Ray. The last epoch's students
are compared on the test part. `--out` gets a line per trial as it ends; trials that it holds are
not trained again, so an interrupted run resumes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import paired, paired_report
from benchmarks.common import ROOT
from benchmarks.paired import Change
from benchmarks.paired_report import Table, lines
from orchestrator.config.schema import Choice
from orchestrator.config.trial import TrialSpec
from orchestrator.store.store import read_json
from orchestrator.teacher.card import CARD

POLICIES = ("none", "crop", "crop_flip")
FEW = [  # few images and many epochs, so that the student overfits without augmentation
    *("data.limit.train=1000", "data.limit.validation=200", "data.limit.test=5000"),
    *("student.name=cnn", "student.width=16", "training.epochs=60", "training.learning_rate=0.1"),
    *(
        "teacher.network.name=cnn",
        "teacher.network.width=32",
        "teacher.training.epochs=60",
        "teacher.training.learning_rate=0.1",
    ),
]
# the pair of configs/fashion_mnist.yaml, on as many images and epochs as two cores allow
RESNETS = [
    *("data.limit.train=3000", "data.limit.validation=500", "data.limit.test=5000"),
    *(
        "student.name=resnet8",
        "training.epochs=20",
        "training.batch_size=64",
        "training.learning_rate=0.1",
    ),
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
    """Test accuracies of a student with its last weights and of its teacher."""

    accuracy: float
    teacher: float

    @property
    def outcome(self) -> str:
        """Return the test accuracy as text."""
        return f"test accuracy {self.accuracy:.4f}"


def methods(temperature: float) -> dict[str, Choice]:
    """Return plain training, and KD with the weights of the search's first trial."""
    return {
        "plain": Choice.model_validate({"name": "cross_entropy"}),
        "KD": Choice.model_validate({"name": "kd", "alpha": 0.9, "temperature": temperature}),
    }


def variant(method: str, policy: str) -> str:
    """Return the name of a method under a policy."""
    return f"{method} under {policy}"


def variants(temperature: float) -> dict[str, Choice]:
    """Return every method under every policy."""
    return {
        variant(name, policy): choice
        for policy in POLICIES
        for name, choice in methods(temperature).items()
    }


def train_variant(plain: dict[str, Any]) -> Trial:
    """Train a trial in a process of the pool, and return its results."""
    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.train_trial(spec)
    assert spec.teacher is not None
    card = read_json(spec.teacher / CARD)
    return Trial(
        variant=spec.name,
        seed=spec.configuration.seed,
        seconds=seconds,
        accuracy=every[-1]["test/last/accuracy"],
        teacher=card["metrics"]["test/last/accuracy"],
    )


def markdown(stored_trials: list[Trial]) -> str:
    """Return a table with one row per policy.

    The columns are the teacher, plain training, KD, the gain of each over no augmentation, and KD
    over plain training.
    """
    table, names = Table(stored_trials), list(methods(4.0))
    present = [
        policy for policy in POLICIES if any(variant(name, policy) in table.rows for name in names)
    ]
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
    body = [_row(table, policy, names, gains) for policy in present]
    return f"{lines(titles, body)}\n\nOver {table.counted()}."


def _row(table: Table[Trial], policy: str, names: list[str], gains: dict[str, str]) -> list[str]:
    cells = [variant(name, policy) for name in names]
    known = [cell for cell in cells if cell in table.rows]
    row = [policy, f"{100 * float(table.values(known[0], lambda trial: trial.teacher)[0]):.2f}"]
    for cell in cells:
        row += (
            [table.cell(cell, lambda trial: 100 * trial.accuracy), gains[cell]]
            if cell in table.rows
            else ["-", "-"]
        )
    both = len(known) == len(cells)
    return [*row, table.gains(cells[0], cells, set(cells), _accuracy)[cells[1]] if both else "-"]


def _accuracy(trial: Trial) -> float:
    return trial.accuracy


def main() -> None:
    """Fit the teachers, run all trials, and print the table."""
    known = list(variants(4.0))
    options = paired.parse_options(paired.make_parser(__doc__, PRESETS, known), known)
    changes = {
        variant(name, policy): Change(sets=(f"data.augmentation={policy}",))
        for policy in POLICIES
        for name in methods(4.0)
    }
    _, stored_trials = paired.run_comparison(
        options, PRESETS, variants(options.temperature), train_variant, Trial, changes
    )
    print(markdown(stored_trials))


if __name__ == "__main__":
    main()
