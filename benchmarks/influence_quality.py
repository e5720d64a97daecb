"""Compare influence-weighted samples (ours) with plain KD and three baselines (theirs).

    python benchmarks/influence_quality.py noise [--preset digits] --noise 0.2 [--seeds 10]
        [--out FILE.jsonl]
    python benchmarks/influence_quality.py noise --preset fashion --path FOLDER-WITH-THE-FOUR-FILES
        --noise 0.4
    python benchmarks/influence_quality.py detection --noise 0.2 --seeds 5
    python benchmarks/influence_quality.py few --preset few --path FOLDER-WITH-THE-FOUR-FILES

`noise`: KD-AIF against KD, KD with the validation labels in training, weights by the sample's loss,
and random weights with the same histogram.
`detection`: the area under the ROC curve of each estimator's scores as a detector of flipped
labels. Weights are computed once, after nine tenths of the epochs, so that all estimators score the
same student.
`few`: most samples have no label.

All variants share one recipe, one split, one pattern of flips, one teacher, fitted on the students'
labels, and the same seeds. Seed s sets the weights, the order and the views of the student.

Every trial is the real `train()` in a process of one thread, without Ray. The last epoch's students
are compared. `--out` gets a line per trial as it ends; trials that it holds are not trained again,
so an interrupted run resumes.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import paired
from benchmarks.common import ROOT
from benchmarks.influence_report import STUDIES, Study, Trial, markdown
from orchestrator.config.schema import Choice
from orchestrator.config.trial import TrialSpec

FASHION = [
    *(
        "data.name=FashionMNIST",
        "data.download=true",
        "data.augmentation=none",
        "data.limit.train=5000",
    ),
    *("student.name=mlp", "student.width=64", "training.epochs=20"),
]
NOISY = [
    *(
        "data.limit.validation=500",
        "training.learning_rate=0.1",
        "teacher.network.name=cnn",
        "teacher.network.width=16",
    ),
    *("teacher.training.epochs=15", "teacher.training.learning_rate=0.1"),
]
FEW = [  # a teacher that is better than a student of the labels alone; a cnn is not
    *(
        "data.limit.validation=200",
        "data.labelled=400",
        "training.learning_rate=0.02",
        "teacher.network.name=mlp",
    ),
    *(
        "teacher.network.width=512",
        "teacher.training.epochs=100",
        "teacher.training.learning_rate=0.05",
    ),
]
PRESETS: dict[str, tuple[Path | None, list[str]]] = {
    "digits": (ROOT / "configs" / "digits.yaml", ["training.epochs=60"]),
    "fashion": (None, FASHION + NOISY),
    "few": (None, FASHION + FEW),
}


def variants(study: Study, kd: dict[str, Any], weighting: dict[str, Any]) -> dict[str, Choice]:
    """Return the compared methods, KD first.

    Args:
        study: The question.
        kd: Settings of all methods with a teacher.
        weighting: Settings of all methods with sample weights.
    """
    common = {"cross_entropy": {}, "kd": kd, "kd_aif": kd | weighting}
    return {
        name: Choice.model_validate(
            {"name": variant.method, **common[variant.method], **variant.settings}
        )
        for name, variant in study.variants.items()
    }


def train_variant(plain: dict[str, Any]) -> Trial:
    """Train a trial in a process of the pool, and return its results."""
    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.train_trial(spec)
    last = every[-1]
    influence: dict[str, float] = {}
    for metrics in every:  # only epochs with new weights have these metrics
        influence |= {
            key.removeprefix("influence/"): value
            for key, value in metrics.items()
            if key.startswith("influence/")
        }
    return Trial(
        **paired.test_results(spec, last, seconds),
        validation=last["validation/accuracy"],
        influence=influence,
    )


def read_options() -> tuple[Namespace, Study]:
    """Parse the command line, and return it with its study."""
    names = list(dict.fromkeys(name for study in STUDIES.values() for name in study.variants))
    parser = paired.make_parser(__doc__, PRESETS, names)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="weight of the teacher if all samples have labels"
    )
    parser.add_argument(
        "--weighting",
        type=json.loads,
        default={},
        help="JSON: settings of kd_aif for all variants with sample weights",
    )
    options = paired.parse_options(parser, names)
    study = STUDIES[options.study]
    options.variants = [name for name in options.variants if name in study.variants]
    return options, study


def main() -> None:
    """Fit the teachers, run all trials, and print the table."""
    options, study = read_options()
    methods = variants(
        study, {"alpha": options.alpha, "temperature": options.temperature}, options.weighting
    )
    changes = {name: variant.change for name, variant in study.variants.items()}
    settings = {"alpha": options.alpha, "weighing": options.weighting}
    _, stored_trials = paired.run_comparison(
        options, PRESETS, methods, train_variant, Trial, changes, settings
    )
    print(markdown(stored_trials, study))


if __name__ == "__main__":
    main()
