"""Compare the inter-sample terms of IC-KD (ours) with the base of each paradigm (theirs).

    python benchmarks/ic_kd_quality.py offline [--preset digits] [--seeds 10] [--noise 0.2]
        [--out FILE.jsonl]
    python benchmarks/ic_kd_quality.py online --preset fashion --path FOLDER-WITH-THE-FOUR-FILES
    python benchmarks/ic_kd_quality.py teacher_free --preset fashion
        --path FOLDER-WITH-THE-FOUR-FILES --alpha 0.3 --temperature 4

`offline`: KD, and KD that shares its budget with PICD, adds NICD, or both.
`online`: the same without a teacher, for two students of one architecture that learn from each
other; their mean is compared.
`teacher_free`: cross entropy, to which the student's own bank adds PICD (with the weight `--alpha`,
without self-distillation), NICD or both. Label smoothing, Tf-KD and self-distillation are
references.

All variants share one recipe, one split, one teacher and the same seeds. Seed s sets the weights,
the order and the views of the students.

Every trial is the real `train()` in a process of one thread, without Ray. The last epoch's students
are compared. `--out` gets a line per trial as it ends; trials that it holds are not trained again,
so an interrupted run resumes.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import paired
from benchmarks.common import ROOT
from benchmarks.ic_kd_report import METRICS, STUDIES, Trial, markdown
from orchestrator.config.schema import Choice
from orchestrator.config.trial import TrialSpec

PRESETS: dict[str, tuple[Path | None, list[str]]] = {
    "digits": (ROOT / "configs" / "digits.yaml", []),
    "fashion": (
        None,
        [
            *("data.name=FashionMNIST", "data.download=true", "data.augmentation=none"),
            *(
                "data.limit.train=5000",
                "data.limit.validation=500",
                "training.epochs=20",
                "training.learning_rate=0.1",
            ),
            *(
                "student.name=mlp",
                "student.width=64",
                "teacher.network.name=cnn",
                "teacher.network.width=16",
            ),
            *("teacher.training.epochs=15", "teacher.training.learning_rate=0.1"),
        ],
    ),
}
# alpha and T; the last two pairs are from a pilot on digits
SOFT = {"offline": (0.5, 4.0), "online": (0.3, 1.0), "teacher_free": (0.1, 1.0)}
TWO_STUDENTS = [
    "peers.b.network.name=mlp",
    "peers.b.network.width=64",
    "resources.workers=1",
    "resources.peer_placement=colocated",
]


def variants(study: str, alpha: float, temperature: float) -> dict[str, Choice]:
    """Return the compared methods of a study.

    Args:
        study: A key of `STUDIES`.
        alpha: Weight of IC-KD's soft targets, for variants without their own.
        temperature: Temperature of IC-KD, for variants without their own.
    """
    common = {
        "cross_entropy": {},
        "tf_kd": {},
        "ic_kd": {"alpha": alpha, "temperature": temperature},
    }
    return {
        name: Choice.model_validate(
            {"name": variant.method, **common[variant.method], **variant.settings}
        )
        for name, variant in STUDIES[study].items()
    }


def train_variant(plain: dict[str, Any]) -> Trial:
    """Train a trial in a process of the pool, and return its results."""
    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.train_trial(spec)
    last = every[-1]
    of_first = "a/" if spec.configuration.peers else ""
    return Trial(
        **paired.test_results(spec, last, seconds),
        validation=last["validation/accuracy"],
        bank={name: last[key] for name in METRICS if (key := f"{of_first}method/{name}") in last},
    )


def read_options() -> Namespace:
    """Parse the command line."""
    names = list(dict.fromkeys(name for study in STUDIES.values() for name in study))
    parser = paired.make_parser(__doc__, PRESETS, names)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument(
        "--alpha",
        type=float,
        help="weight of the soft targets of IC-KD; default: 0.5, 0.3 (online), 0.1 (teacher_free)",
    )
    parser.set_defaults(temperature=None)
    options = paired.parse_options(parser, names)
    alpha, temperature = SOFT[options.study]
    options.alpha = alpha if options.alpha is None else options.alpha
    options.temperature = temperature if options.temperature is None else options.temperature
    options.variants = [name for name in options.variants if name in STUDIES[options.study]]
    return options


def main() -> None:
    """Fit the teacher, run all trials, and print the table."""
    options = read_options()
    options.set += TWO_STUDENTS if options.study == "online" else []
    methods = variants(options.study, options.alpha, options.temperature)
    _, stored_trials = paired.run_comparison(
        options, PRESETS, methods, train_variant, Trial, settings={"alpha": options.alpha}
    )
    print(markdown(stored_trials, options.study))


if __name__ == "__main__":
    main()
