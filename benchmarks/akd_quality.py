"""Compare students under an adaptive alpha (ours) with those under the best fixed alpha (theirs).

    python benchmarks/akd_quality.py [--preset digits] [--seeds 10] [--noise 0.2] [--out FILE.jsonl]
        [--figure FILE.png]
    python benchmarks/akd_quality.py --preset fashion --path FOLDER-WITH-THE-FOUR-FILES
    python benchmarks/akd_quality.py --config FILE [--set data.limit.train=1000 ...]

All variants share one recipe, one split, one teacher and the same seeds. Seed s sets the weights,
the order and the views of the student.

Theirs is KD with alpha from a grid; the best one is chosen by the mean validation accuracy, never
by the test part. Ours is alpha learnable by the gradient of the loss (raw, with and without a
clamp), by uncertainty, and the gap's ratio, without and with the Context-Aware Module.

Every trial is the real `train()` in a process of one thread, without Ray. The teacher is evaluated
once per view and seed. The last epoch's students are compared. `--out` gets a line per trial as it
ends; trials that it holds are not trained again, so an interrupted run resumes.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

# a script's path holds only its own folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from numpy.typing import NDArray

from benchmarks import paired
from benchmarks.akd_report import ADAPTIVE, FIXED, RAW, REFERENCE, Trial, collapse, markdown
from benchmarks.common import ROOT
from orchestrator.config.schema import Choice
from orchestrator.config.trial import TrialSpec

PRESETS: dict[str, tuple[Path | None, list[str]]] = {
    "digits": (ROOT / "configs" / "digits.yaml", []),
    "fashion": (
        None,
        [
            *(
                "data.name=FashionMNIST",
                "data.download=true",
                "data.limit.train=5000",
                "data.limit.validation=2000",
            ),
            *("teacher.network.name=cnn", "teacher.network.width=32"),
            *("teacher.training.epochs=30", "teacher.training.learning_rate=0.2"),
            *("student.name=cnn", "student.width=8", "training.epochs=20"),
        ],
    ),
}
CURVE = ("epoch", "alpha", "cross_entropy", "distillation")
POINTS = 60  # of a curve in one line of the results


def variants(temperature: float) -> dict[str, Choice]:
    """Return the compared methods, KD first: the first one to train fills the cache of its seed."""
    chosen: dict[str, dict[str, Any]] = {
        name: {"name": "kd", "alpha": alpha} for name, alpha in FIXED.items()
    }
    chosen[REFERENCE] = {"name": "cross_entropy"}
    chosen |= {name: {"name": "akd", **settings} for name, settings in ADAPTIVE.items()}
    for choice in chosen.values():
        if choice["name"] != "cross_entropy":
            choice["temperature"] = temperature
    return {name: Choice.model_validate(choice) for name, choice in chosen.items()}


def train_variant(plain: dict[str, Any]) -> Trial:
    """Train a trial in a process of the pool, and return its results."""
    from safetensors.torch import load_file

    spec = TrialSpec.model_validate(plain)
    every, seconds = paired.train_trial(spec)
    last = every[-1]
    fixed = spec.configuration.method.settings.get("alpha") if spec.name in FIXED else None
    curve = {}
    if spec.name in RAW:
        trace = load_file(spec.folder / "checkpoint" / "trace.safetensors")
        curve = {key: means(trace[f"steps/{key}"].numpy()) for key in CURVE}
    return Trial(
        **paired.test_results(spec, last, seconds),
        validation=[metrics["validation/accuracy"] for metrics in every],
        alpha=last.get("train/alpha", fixed),
        curve=curve,
    )


def means(values: NDArray[np.float32]) -> list[float]:
    """Return means over neighbouring values, at most `POINTS` of them."""
    return [
        float(f"{chunk.mean():.4g}") for chunk in np.array_split(values, min(POINTS, len(values)))
    ]


def read_options() -> Namespace:
    """Parse the command line."""
    known = list(variants(4.0))
    parser = paired.make_parser(__doc__, PRESETS, known)
    parser.add_argument(
        "--figure", type=Path, help="PNG: alpha during training if the loss trains it"
    )
    return paired.parse_options(parser, known)


def main() -> None:
    """Fit the teacher, run all trials, and print the table and the figure."""
    options = read_options()
    _, stored_trials = paired.run_comparison(
        options, PRESETS, variants(options.temperature), train_variant, Trial
    )
    print(markdown(stored_trials))
    if options.figure:
        collapse(stored_trials, options.figure)


if __name__ == "__main__":
    main()
