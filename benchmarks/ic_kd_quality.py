"""Whether what is said of similar samples (ours) makes a better student than the base of each paradigm without it (theirs).

    python benchmarks/ic_kd_quality.py offline [--preset digits] [--seeds 10] [--noise 0.2] [--out FILE.jsonl]
    python benchmarks/ic_kd_quality.py online --preset fashion --path FOLDER-WITH-THE-FOUR-FILES
    python benchmarks/ic_kd_quality.py teacher_free --preset fashion --path FOLDER-WITH-THE-FOUR-FILES --alpha 0.3 --temperature 4

`offline`: KD, and KD that shares its budget with PICD, has NICD beside it, or both. `online`: the same without a teacher, for two
students of one form that learn from one another, whose mean is compared. `teacher_free`: cross entropy, to which the student's
own bank adds PICD (with the weight `--alpha`, no self-distillation beside it), NICD or both; label smoothing, Tf-KD and
self-distillation stand beside them.

One recipe, one split, one teacher; seed s sets weights, order and views of the students, and every variant has the same seeds.
Every trial is the real `train()` in a process of one thread, without Ray. What is compared is the last epoch's student. `--out`
gets a line per trial as it ends; the trials that it holds are not trained again, so a run that was interrupted goes on.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds its own folder alone

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
            *("data.limit.train=5000", "data.limit.validation=500", "training.epochs=20", "training.learning_rate=0.1"),
            *("student.name=mlp", "student.width=64", "teacher.network.name=cnn", "teacher.network.width=16"),
            *("teacher.training.epochs=15", "teacher.training.learning_rate=0.1"),
        ],
    ),
}
SOFT = {"offline": (0.5, 4.0), "online": (0.3, 1.0), "teacher_free": (0.1, 1.0)}  # alpha and T; the latter two by a pilot on digits
TWO_STUDENTS = ["peers.b.network.name=mlp", "peers.b.network.width=64", "resources.workers=1", "resources.peer_placement=colocated"]


def variants(study: str, alpha: float, temperature: float) -> dict[str, Choice]:
    """The methods that are compared; alpha and temperature are those of IC-KD, where a variant has none of its own."""
    common = {"cross_entropy": {}, "tf_kd": {}, "ic_kd": {"alpha": alpha, "temperature": temperature}}
    return {
        name: Choice.model_validate({"name": variant.method, **common[variant.method], **variant.settings})
        for name, variant in STUDIES[study].items()
    }


def trained(plain: dict[str, Any]) -> Trial:
    """Train a trial, and what is kept of it; runs in a process of the pool."""
    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.epochs_of(spec)
    last = every[-1]
    of_first = "a/" if spec.configuration.peers else ""
    return Trial(
        variant=spec.name,
        seed=spec.configuration.seed,
        seconds=seconds,
        accuracy=last["test/last/accuracy"],
        nll=last["test/last/nll"],
        ece=last["test/last/ece"],
        validation=last["validation/accuracy"],
        bank={name: last[key] for name in METRICS if (key := f"{of_first}method/{name}") in last},
    )


def read_options() -> Namespace:
    """The command line."""
    names = list(dict.fromkeys(name for study in STUDIES.values() for name in study))
    parser = paired.arguments(__doc__, PRESETS, names)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument(
        "--alpha", type=float, help="weight of the soft targets of IC-KD; default: 0.5, 0.3 (online), 0.1 (teacher_free)"
    )
    parser.set_defaults(temperature=None)
    options = paired.read(parser, names)
    alpha, temperature = SOFT[options.study]
    options.alpha = alpha if options.alpha is None else options.alpha
    options.temperature = temperature if options.temperature is None else options.temperature
    options.variants = [name for name in options.variants if name in STUDIES[options.study]]
    return options


def main() -> None:
    """The teacher, all trials, then the table."""
    options = read_options()
    options.set += TWO_STUDENTS if options.study == "online" else []
    methods = variants(options.study, options.alpha, options.temperature)
    _, kept = paired.compared(options, PRESETS, methods, trained, Trial, settings={"alpha": options.alpha})
    print(markdown(kept, options.study))


if __name__ == "__main__":
    main()
