"""Whether an alpha that adapts makes a better student (ours) than a fixed alpha that was chosen well (theirs).

    python benchmarks/akd_quality.py [--preset digits] [--seeds 10] [--noise 0.2] [--out FILE.jsonl] [--figure FILE.png]
    python benchmarks/akd_quality.py --preset fashion --path FOLDER-WITH-THE-FOUR-FILES
    python benchmarks/akd_quality.py --config FILE [--set data.limit.train=1000 ...]

One recipe, one split, one teacher; seed s sets weights, order and views of the student, and every variant has the same seeds.
Theirs is KD with alpha of a grid, of which the best is chosen by the mean validation accuracy, never by the test part. Ours:
alpha learnable by the gradient of the loss (raw, with and without a clamp), by uncertainty, and the gap's ratio, without and
with the Context-Aware Module. Every trial is the real `train()` in a process of its own thread, without Ray; the teacher is
asked once per view and seed. What is compared is the last epoch's student. `--out` gets a line per trial as it ends; the
trials that it holds are not trained again, so a run that was interrupted goes on.
"""

import argparse
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script finds its own folder alone

import numpy as np
from numpy.typing import NDArray

from benchmarks.akd_report import ADAPTIVE, FIXED, RAW, REFERENCE, Trial, collapse, markdown
from benchmarks.common import ROOT
from orchestrator.config import Choice, Configuration
from orchestrator.context import Record, TrialContext
from orchestrator.environment import allocator
from orchestrator.reading import load
from orchestrator.store import Store, read_json
from orchestrator.trial import TrialSpec

PRESETS: dict[str, tuple[Path | None, list[str]]] = {
    "digits": (ROOT / "configs" / "digits.yaml", []),
    "fashion": (
        None,
        [
            *("data.name=FashionMNIST", "data.download=true", "data.limit.train=5000", "data.limit.validation=2000"),
            *("teacher.network.name=cnn", "teacher.network.width=32"),
            *("teacher.training.epochs=30", "teacher.training.learning_rate=0.2"),
            *("student.name=cnn", "student.width=8", "training.epochs=20"),
        ],
    ),
}
CURVE = ("epoch", "alpha", "cross_entropy", "distillation")
POINTS = 60  # of a curve in a line of the results


def variants(temperature: float) -> dict[str, Choice]:
    """The methods that are compared, KD first: the first to train fills the cache of its seed."""
    chosen: dict[str, dict[str, Any]] = {name: {"name": "kd", "alpha": alpha} for name, alpha in FIXED.items()}
    chosen[REFERENCE] = {"name": "cross_entropy"}
    chosen |= {name: {"name": "akd", **settings} for name, settings in ADAPTIVE.items()}
    for choice in chosen.values():
        if choice["name"] != "cross_entropy":
            choice["temperature"] = temperature
    return {name: Choice.model_validate(choice) for name, choice in chosen.items()}


def configured(options: Namespace, store: Store) -> Configuration:
    """The recipe that all trials share."""
    file, pairs = (options.config, []) if options.config else PRESETS[options.preset]
    pairs = list(pairs)
    if options.path and options.path.is_file():
        pairs += ["data.name=npz", f"data.path={options.path.resolve()}", "data.augmentation=crop_flip"]
    elif options.path:
        pairs.append("data.name=FashionMNIST")
        adopt_raw_files(options.path, store.root / "data" / "raw")
    if options.noise is not None:
        pairs.append(f"data.label_noise={options.noise}")
    return load(file, pairs + options.set)


def adopt_raw_files(folder: Path, raw: Path) -> None:
    """Unpack the four files of FashionMNIST below `folder` to where torchvision looks for them; `folder` is only read."""
    found = sorted(folder.rglob("*-ubyte.gz")) or sorted(folder.rglob("*-ubyte"))
    if len(found) != 4:
        raise SystemExit(f"--path {folder} holds {len(found)} files *-ubyte.gz or *-ubyte: give the folder of all four, or an .npz")
    target = raw / "FashionMNIST" / "raw"
    target.mkdir(parents=True, exist_ok=True)
    for file in found:
        packed = file.read_bytes()
        (target / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(packed) if file.suffix == ".gz" else packed)


def begin(options: Namespace, store: Store) -> tuple[TrialSpec, dict[str, Any]]:
    """What all trials have in common, with the teacher in the store, and the teacher's card."""
    from orchestrator.actors.local import LocalDesk
    from orchestrator.preflight import prepared
    from orchestrator.teacher.ready import ready

    begun = prepared(store, configured(options, store), "train", local=True)
    print("the teacher is being fitted, or found", file=sys.stderr)
    teacher, card, _ = ready(store, begun.configuration, begun.data, LocalDesk(), lambda *_: None)
    knowledge = begun.asked.folder if begun.asked else None
    return TrialSpec(
        name="shared",
        configuration=begun.configuration,
        folder=store.root / "trials",
        data=begun.data,
        teacher=teacher,
        knowledge=knowledge,
    ), card


def trial_of(shared: TrialSpec, name: str, method: Choice, seed: int) -> TrialSpec:
    """A variant with a seed."""
    configuration = shared.configuration.model_copy(update={"seed": seed, "method": method})
    folder = shared.folder / f"{name.replace(' ', '-').replace('/', '-')}-{seed}"
    return shared.model_copy(update={"name": name, "configuration": configuration, "folder": folder})


def trained(plain: dict[str, Any]) -> Trial:
    """Train a trial, and what is kept of it; runs in a process of the pool."""
    from safetensors.torch import load_file

    from orchestrator.training.trainer import train

    spec, start = TrialSpec.model_validate(plain), time.monotonic()
    shutil.rmtree(spec.folder, ignore_errors=True)  # a trial that was interrupted begins anew: its epochs were not kept
    records: list[Record] = []
    train(spec, TrialContext(report=records.append))
    every = [record["metrics"] for record in records]
    last = every[-1]
    fixed = spec.configuration.method.settings.get("alpha") if spec.name in FIXED else None
    curve = {}
    if spec.name in RAW:
        trace = load_file(spec.folder / "checkpoint" / "trace.safetensors")
        curve = {key: means(trace[f"steps/{key}"].numpy()) for key in CURVE}
    return Trial(
        variant=spec.name,
        seed=spec.configuration.seed,
        accuracy=last["test/last/accuracy"],
        nll=last["test/last/nll"],
        ece=last["test/last/ece"],
        validation=[metrics["validation/accuracy"] for metrics in every],
        alpha=last.get("train/alpha", fixed),
        curve=curve,
        seconds=time.monotonic() - start,
    )


def means(values: NDArray[np.float32]) -> list[float]:
    """Of neighbours, so that a curve has `POINTS` at most."""
    return [float(f"{chunk.mean():.4g}") for chunk in np.array_split(values, min(POINTS, len(values)))]


class Results:
    """The lines of a file, one a trial, of one setup; what was cut off when its writer was killed is passed over."""

    def __init__(self, file: Path, setup: str) -> None:
        self.file, self.setup, self.trials = file, setup, list[Trial]()
        text = file.read_text() if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        for line in whole.splitlines():
            values = json.loads(line)
            if values.pop("setup") != setup:
                raise SystemExit(f"--out {file} holds trials of another setup: give another file, or the options of then")
            self.trials.append(Trial(**values))
        if whole != text:
            file.write_text(whole)

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self.trials.append(trial)
        with self.file.open("a") as stream:
            stream.write(json.dumps({"setup": self.setup, **trial.plain()}) + "\n")

    def holds(self, name: str, seed: int) -> bool:
        """Whether a trial is there already."""
        return any((trial.variant, trial.seed) == (name, seed) for trial in self.trials)


def setup_of(shared: TrialSpec, temperature: float) -> str:
    """What must be equal for trials to be compared: everything but variant and seed."""
    plain = shared.configuration.plain()
    decides = {key: plain[key] for key in ("data", "teacher", "student", "training")} | {"temperature": temperature}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def missing(shared: TrialSpec, options: Namespace, results: Results) -> Iterator[TrialSpec]:
    """The trials to train: as many seeds side by side as there are processes, so that none waits for another's view."""
    chosen = {name: choice for name, choice in variants(options.temperature).items() if name in options.variants}
    for first in range(0, options.seeds, options.jobs):
        for name, choice in chosen.items():
            for seed in range(first, min(first + options.jobs, options.seeds)):
                if not results.holds(name, seed):
                    yield trial_of(shared, name, choice, seed)


def train_all(specs: list[TrialSpec], jobs: int, results: Results) -> None:
    """Each in a process of the pool; the first that fails ends it, and the others can go on later."""
    os.environ.update(allocator() | {"OMP_NUM_THREADS": "1"})  # they count from the start of a process on
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(trained, spec.plain()) for spec in specs]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                trial = future.result()
                results.add(trial)
                said = f"{trial.variant}, seed {trial.seed}: {trial.accuracy:.4f} ({trial.seconds:.1f} s)"
                print(f"{number}/{len(specs)} {said}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def heading(shared: TrialSpec, card: dict[str, Any]) -> str:
    """What was trained, in a line."""
    configuration, summary = shared.configuration, read_json(shared.data / "data.json")
    sizes = ", ".join(f"{size:,} {name}" for name, size in summary["sizes"].items())
    noise = f", {100 * configuration.data.label_noise:g} % of the training labels wrong" if configuration.data.label_noise else ""
    taught = f"teacher {card['network']['name']} ({100 * card['metrics']['test/last/accuracy']:.2f} % on test)"
    student = ", ".join(str(value) for value in configuration.student.model_dump(exclude_none=True).values())
    return f"{summary['name']}: {sizes}{noise}; {taught}, student {student}, {configuration.training.epochs} epochs"


def read_options() -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known = list(variants(4.0))
    parser.add_argument("--preset", choices=list(PRESETS), default="digits")
    parser.add_argument("--config", type=Path, help="a configuration instead of a preset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over both; repeat it")
    parser.add_argument("--path", type=Path, help="FashionMNIST's four files somewhere below a folder, or an .npz file")
    parser.add_argument("--noise", type=float, help="share of training labels that are flipped, for teacher and students")
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="processes, each one thread")
    parser.add_argument("--variants", type=lambda text: text.split(","), default=known, help=f"of: {', '.join(known)}")
    parser.add_argument("--store", type=Path, help="for data, teacher and cache; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="a line per trial, JSON; what it holds is not trained again")
    parser.add_argument("--figure", type=Path, help="PNG: where alpha goes that the loss itself trains")
    options = parser.parse_args()
    if unknown := set(options.variants) - set(known):
        parser.error(f"--variants: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return options


def main() -> None:
    """The teacher, all trials, then table and figure."""
    options = read_options()
    with tempfile.TemporaryDirectory() as name:
        shared, card = begin(options, Store.open(options.store or Path(name) / "store"))
        results = Results(options.out or Path(name) / "trials.jsonl", setup_of(shared, options.temperature))
        train_all(list(missing(shared, options, results)), options.jobs, results)
        print(f"{heading(shared, card)}, T = {options.temperature:g}\n")
    kept = [trial for trial in results.trials if trial.variant in options.variants and trial.seed < options.seeds]
    print(markdown(kept))
    if options.figure:
        collapse(kept, options.figure)


if __name__ == "__main__":
    main()
