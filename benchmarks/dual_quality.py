"""Compare dual students with teacher certainty and peer learning (ours) with plain KD (theirs).

    python benchmarks/dual_quality.py [--preset digits] [--seeds 10] [--noise 0.2]
        [--out FILE.jsonl]
    python benchmarks/dual_quality.py --preset fashion --path FOLDER-WITH-THE-FOUR-FILES
    python benchmarks/dual_quality.py --config FILE [--set data.limit.train=1000 ...]

All variants share one recipe, one split, one teacher, the two students a and b (`peers.b`) and the
same seeds. Seed s sets the students' weights, order and views.

KD, + w, + peer and + both are `dual_student`, whose weights of cross entropy, teacher and peer
always sum to one. DML and cross entropy are references without a teacher. Both students of a trial
are trained in one process of one thread, without Ray.

The last epoch's students are compared. `--out` gets a line per trial as it ends; trials that it
holds are not trained again, so an interrupted run resumes.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import paired
from benchmarks.common import ROOT
from benchmarks.dual_report import DUAL, REFERENCES, Trial, markdown
from orchestrator.config.schema import Choice
from orchestrator.config.trial import TrialSpec

PRESETS: dict[str, tuple[Path | None, list[str]]] = {
    "digits": (ROOT / "configs" / "digits_dual.yaml", []),
    "fashion": (
        None,
        [
            *("data.name=FashionMNIST", "data.download=true"),
            *("data.limit.train=5000", "data.limit.validation=1000", "data.limit.test=5000"),
            *(
                "teacher.network.name=resnet20",
                "teacher.training.epochs=20",
                "teacher.training.learning_rate=0.1",
            ),
            *(
                "student.name=resnet8",
                "peers.b.network.name=separable_cnn",
                "peers.b.network.width=8",
            ),
            *("training.epochs=8", "training.batch_size=32"),
        ],
    ),
}
ONE_PROCESS = ["resources.workers=1", "resources.peer_placement=colocated"]


def variants(temperature: float) -> dict[str, Choice]:
    """Return the compared methods: the references, then KD and its additions."""
    chosen: dict[str, dict[str, Any]] = {
        name: {"name": method} for name, method in REFERENCES.items()
    }
    chosen |= {
        name: {"name": "dual_student", "temperature": temperature, **settings}
        for name, settings in DUAL.items()
    }
    return {name: Choice.model_validate(choice) for name, choice in chosen.items()}


def train_variant(plain: dict[str, Any]) -> Trial:
    """Train a trial in a process of the pool, and return its results."""
    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.train_trial(spec)
    last = every[-1]
    names = {f"test/last/{name}": name for name in ("accuracy", "nll", "ece")}
    names |= {
        "validation/accuracy": "validation",
        "train/uncertainty": "uncertainty",
        "train/weight": "weight",
    }
    return Trial(
        variant=spec.name,
        seed=spec.configuration.seed,
        seconds=seconds,
        students={
            letter: {
                stored_trials: last[f"{letter}/{name}"]
                for name, stored_trials in names.items()
                if f"{letter}/{name}" in last
            }
            for letter in spec.configuration.students
        },
        agreement=last["pair/agreement"],
    )


def read_options() -> Namespace:
    """Parse the command line."""
    known = list(variants(4.0))
    return paired.parse_options(paired.make_parser(__doc__, PRESETS, known), known)


def main() -> None:
    """Fit the teacher, run all trials, and print the tables."""
    options = read_options()
    options.set += ONE_PROCESS
    shared, stored_trials = paired.run_comparison(
        options, PRESETS, variants(options.temperature), train_variant, Trial
    )
    networks = {
        letter: paired.describe_network(student.network)
        for letter, student in shared.configuration.students.items()
    }
    print(markdown(stored_trials, networks))


if __name__ == "__main__":
    main()
