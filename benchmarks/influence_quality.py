"""Whether samples weighed by their influence (ours) make a better student than plain KD and three simple baselines (theirs).

    python benchmarks/influence_quality.py noise [--preset digits] --noise 0.2 [--seeds 10] [--out FILE.jsonl]
    python benchmarks/influence_quality.py noise --preset fashion --path FOLDER-WITH-THE-FOUR-FILES --noise 0.4
    python benchmarks/influence_quality.py detection --noise 0.2 --seeds 5
    python benchmarks/influence_quality.py few --preset few --path FOLDER-WITH-THE-FOUR-FILES

`noise`: KD-AIF against KD, KD with the validation labels in training, weights by the sample's loss, and random weights with the
same histogram. `detection`: how well each estimator's scores tell flipped labels from others: the area under the ROC curve, one
weighing after nine tenths of the epochs, so that all estimators look at the same student. `few`: most samples have no label.

One recipe, one split, one pattern of flips, one teacher, which is fitted on the same labels as the student; seed s sets weights,
order and views of the student, and every variant has the same seeds. Every trial is the real `train()` in a process of its own
thread, without Ray. What is compared is the last epoch's student. `--out` gets a line per trial as it ends; the trials that it
holds are not trained again, so a run that was interrupted goes on.
"""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds its own folder alone

from benchmarks import paired
from benchmarks.common import ROOT
from benchmarks.influence_report import STUDIES, Study, Trial, markdown
from orchestrator.config.schema import Choice
from orchestrator.config.trial import TrialSpec

FASHION = [
    *("data.name=FashionMNIST", "data.download=true", "data.augmentation=none", "data.limit.train=5000"),
    *("student.name=mlp", "student.width=64", "training.epochs=20"),
]
NOISY = [
    *("data.limit.validation=500", "training.learning_rate=0.1", "teacher.network.name=cnn", "teacher.network.width=16"),
    *("teacher.training.epochs=15", "teacher.training.learning_rate=0.1"),
]
FEW = [  # a teacher that knows more than the student would learn from the labels alone, which a cnn does not
    *("data.limit.validation=200", "data.labelled=400", "training.learning_rate=0.02", "teacher.network.name=mlp"),
    *("teacher.network.width=512", "teacher.training.epochs=100", "teacher.training.learning_rate=0.05"),
]
PRESETS: dict[str, tuple[Path | None, list[str]]] = {
    "digits": (ROOT / "configs" / "digits.yaml", ["training.epochs=60"]),
    "fashion": (None, FASHION + NOISY),
    "few": (None, FASHION + FEW),
}


def variants(study: Study, kd: dict[str, Any], weighing: dict[str, Any]) -> dict[str, Choice]:
    """The methods that are compared, KD first; `kd` is set for all that have a teacher, `weighing` for all that weigh samples."""
    common = {"cross_entropy": {}, "kd": kd, "kd_aif": kd | weighing}
    return {
        name: Choice.model_validate({"name": variant.method, **common[variant.method], **variant.settings})
        for name, variant in study.variants.items()
    }


def trained(plain: dict[str, Any]) -> Trial:
    """Train a trial, and what is kept of it; runs in a process of the pool."""
    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.epochs_of(spec)
    last = every[-1]
    influence: dict[str, float] = {}
    for metrics in every:  # what comes with new weights is in the record of their epoch alone
        influence |= {key.removeprefix("influence/"): value for key, value in metrics.items() if key.startswith("influence/")}
    return Trial(
        variant=spec.name,
        seed=spec.configuration.seed,
        seconds=seconds,
        accuracy=last["test/last/accuracy"],
        nll=last["test/last/nll"],
        ece=last["test/last/ece"],
        validation=last["validation/accuracy"],
        influence=influence,
    )


def read_options() -> tuple[Namespace, Study]:
    """The command line, and the question that it asks."""
    names = list(dict.fromkeys(name for study in STUDIES.values() for name in study.variants))
    parser = paired.arguments(__doc__, PRESETS, names)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of the teacher where all have labels")
    parser.add_argument("--weighing", type=json.loads, default={}, help="JSON: settings of kd_aif for all that weigh samples")
    options = paired.read(parser, names)
    study = STUDIES[options.study]
    options.variants = [name for name in options.variants if name in study.variants]
    return options, study


def main() -> None:
    """The teachers, all trials, then the table."""
    options, study = read_options()
    methods = variants(study, {"alpha": options.alpha, "temperature": options.temperature}, options.weighing)
    changes = {name: variant.change for name, variant in study.variants.items()}
    settings = {"alpha": options.alpha, "weighing": options.weighing}
    _, kept = paired.compared(options, PRESETS, methods, trained, Trial, changes, settings)
    print(markdown(kept, study))


if __name__ == "__main__":
    main()
