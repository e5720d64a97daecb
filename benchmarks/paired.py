"""Run trials that are compared by their seeds: one recipe, one split, one teacher, the same seeds.

Every trial is the real `train()` in a process of one thread, without Ray. The teacher is evaluated
once per view and seed. A file of results gets a line per trial as it ends; trials that it holds are
not trained again.
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from benchmarks.paired_report import Trial
from orchestrator.config.loader import load
from orchestrator.config.schema import Choice, Configuration, Network
from orchestrator.config.trial import TrialSpec
from orchestrator.core.allocator import allocator
from orchestrator.core.context import TrialContext
from orchestrator.store.store import Store, read_json
from orchestrator.teacher.card import TeacherCard

Presets = Mapping[str, tuple[Path | None, list[str]]]  # a file, and settings over it
Kept = TypeVar("Kept", bound=Trial)


class Change(NamedTuple):
    """Deviation of a variant from the recipe: a factor of the epochs, and settings.

    The `sets` are of data or teacher.
    """

    epochs: float = 1.0
    sets: tuple[str, ...] = ()


def make_parser(
    documentation: str | None, presets: Presets, variants: list[str]
) -> argparse.ArgumentParser:
    """Return a parser with the script's first line and the options of all comparisons.

    Args:
        documentation: The script's docstring.
        presets: Configuration file and settings of each preset.
        variants: Names of the variants.
    """
    parser = argparse.ArgumentParser(description=(documentation or "").partition("\n")[0])
    parser.add_argument("--preset", choices=list(presets), default="digits")
    parser.add_argument("--config", type=Path, help="a configuration instead of a preset")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of either; repeatable",
    )
    parser.add_argument(
        "--path",
        type=Path,
        help="the four files of MNIST or FashionMNIST below a folder, or an .npz file",
    )
    parser.add_argument(
        "--noise",
        type=float,
        help="share of training labels that are flipped, for teacher and students",
    )
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2, help="processes, each one thread")
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        default=variants,
        help=f"of: {', '.join(variants)}",
    )
    parser.add_argument(
        "--store", type=Path, help="for data, teacher and cache; default: a temporary folder"
    )
    parser.add_argument(
        "--out", type=Path, help="JSON, one line per trial; stored trials are not trained again"
    )
    return parser


def parse_options(parser: argparse.ArgumentParser, variants: list[str]) -> Namespace:
    """Parse the command line, and check that the variants exist."""
    options = parser.parse_args()
    if unknown := set(options.variants) - set(variants):
        parser.error(
            f"--variants: there is no {', '.join(sorted(unknown))}; there are {', '.join(variants)}"
        )
    return options


def load_configuration(
    options: Namespace, presets: Presets, store: Store, sets: tuple[str, ...] = ()
) -> Configuration:
    """Return the recipe of all trials, or of those with additional settings.

    Args:
        options: The command line.
        presets: Configuration file and settings of each preset.
        store: The store that receives the raw files.
        sets: Additional `KEY=VALUE` settings.
    """
    file, pairs = (options.config, []) if options.config else presets[options.preset]
    pairs = list(pairs)
    if options.path and options.path.is_file():
        pairs += [
            "data.name=npz",
            f"data.path={options.path.resolve()}",
            "data.augmentation=crop_flip",
        ]
    elif options.path:
        names = [
            pair.removeprefix("data.name=") for pair in pairs if pair.startswith("data.name=")
        ] or ["FashionMNIST"]
        pairs.append(f"data.name={names[-1]}")
        unpack_raw_files(options.path, store.root / "data" / "raw" / names[-1] / "raw")
    if options.noise is not None:
        pairs.append(f"data.label_noise={options.noise}")
    return load(file, [*pairs, *options.set, *sets])


def unpack_raw_files(folder: Path, target: Path) -> None:
    """Unpack the four files of MNIST or FashionMNIST below `folder` to torchvision's location.

    `folder` is only read.

    Raises:
        SystemExit: `folder` does not hold exactly four such files.
    """
    found = sorted(folder.rglob("*-ubyte.gz")) or sorted(folder.rglob("*-ubyte"))
    if len(found) != 4:
        raise SystemExit(
            f"--path {folder} holds {len(found)} files *-ubyte.gz or *-ubyte: give the folder "
            f"of all four, or an .npz"
        )
    target.mkdir(parents=True, exist_ok=True)
    for file in found:
        packed = file.read_bytes()
        (target / file.name.removesuffix(".gz")).write_bytes(
            gzip.decompress(packed) if file.suffix == ".gz" else packed
        )


def prepare_trials(
    options: Namespace, presets: Presets, store: Store, sets: tuple[str, ...] = ()
) -> tuple[TrialSpec, TeacherCard]:
    """Fit or load the teacher; return the common part of all trials and the teacher's card."""
    from orchestrator.cluster.local_backend import LocalDispatcher
    from orchestrator.sweep.preflight.preflight import prepare_run
    from orchestrator.teacher.acquire import acquire_teacher

    prepared = prepare_run(
        store, load_configuration(options, presets, store, sets), "train", local_processes=1
    )
    print("training or loading the teacher", file=sys.stderr)
    teacher, card, _ = acquire_teacher(
        store, prepared.configuration, prepared.data, LocalDispatcher(), lambda *_: None
    )
    knowledge = prepared.teacher_access.folder if prepared.teacher_access else None
    return TrialSpec(
        name="shared",
        configuration=prepared.configuration,
        folder=store.root / "trials",
        data=prepared.data,
        teacher=teacher,
        knowledge=knowledge,
    ), card


def make_trial_spec(
    shared: TrialSpec, name: str, method: Choice, seed: int, epochs: float = 1.0
) -> TrialSpec:
    """Return a variant with a seed, with the epochs multiplied by `epochs`."""
    training = shared.configuration.training
    milestones = tuple(max(round(epochs * milestone), 1) for milestone in training.milestones)
    training = training.model_copy(
        update={"epochs": round(epochs * training.epochs), "milestones": milestones}
    )
    configuration = shared.configuration.model_copy(
        update={"seed": seed, "method": method, "training": training}
    )
    folder = shared.folder / f"{name.replace(' ', '-').replace('/', '-')}-{seed}"
    return shared.model_copy(
        update={"name": name, "configuration": configuration, "folder": folder}
    )


def train_trial(spec: TrialSpec) -> tuple[list[dict[str, float]], float]:
    """Train a trial; return the metrics of all its epochs, and its seconds."""
    from orchestrator.training._trainer import train

    start = time.monotonic()
    # an interrupted trial restarts: its epochs were not kept
    shutil.rmtree(spec.folder, ignore_errors=True)
    records: list[Any] = []
    train(spec, TrialContext(report=records.append))
    return [record.metrics for record in records], time.monotonic() - start


def test_results(spec: TrialSpec, last: dict[str, float], seconds: float) -> dict[str, Any]:
    """Return the fields of a `TestedTrial`, from the metrics of its last epoch."""
    metrics = {name: last[f"test/last/{name}"] for name in ("accuracy", "nll", "ece")}
    named = {"variant": spec.name, "seed": spec.configuration.seed, "seconds": seconds}
    return named | metrics


class Results(Generic[Kept]):
    """A file of one setup with one line per trial.

    A last line that was cut off when its writer was killed is removed.
    """

    def __init__(self, file: Path, setup: str, kind: type[Kept]) -> None:
        self.file, self.setup, self.trials = file, setup, list[Kept]()
        text = file.read_text() if file.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        for line in whole.splitlines():
            values = json.loads(line)
            if values.pop("setup") != setup:
                raise SystemExit(
                    f"--out {file} contains trials of another setup: give another file, or the "
                    f"options of that setup"
                )
            self.trials.append(kind(**values))
        if whole != text:
            file.write_text(whole)

    def add(self, trial: Kept) -> None:
        """Store a trial."""
        self.trials.append(trial)
        with self.file.open("a") as stream:
            stream.write(json.dumps({"setup": self.setup, **trial.plain()}) + "\n")

    def holds(self, name: str, seed: int) -> bool:
        """Return whether the file holds a trial."""
        return any((trial.variant, trial.seed) == (name, seed) for trial in self.trials)

    def selected(self, options: Namespace) -> list[Kept]:
        """Return the trials that the command line requests."""
        return [
            trial
            for trial in self.trials
            if trial.variant in options.variants and trial.seed < options.seeds
        ]


def hash_setup(shared: TrialSpec, temperature: float, settings: Mapping[str, Any]) -> str:
    """Return a hash of all values that compared trials must share.

    These are all values but variant and seed, including the common `settings` of the methods.
    """
    plain = shared.configuration.plain()
    keys = (
        "data",
        "teacher",
        "student",
        "training",
        *(("peers",) if shared.configuration.peers else ()),
    )
    decides = {key: plain[key] for key in keys} | {"temperature": temperature, **settings}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def find_missing_trials(
    shared: Mapping[tuple[str, ...], TrialSpec],
    variants: Mapping[str, Choice],
    changes: Mapping[str, Change],
    options: Namespace,
    results: Results[Any],
) -> Iterator[TrialSpec]:
    """Yield the trials to train.

    As many seeds as processes run at the same time, so that no trial waits for the view of another
    one.
    """
    for first in range(0, options.seeds, options.jobs):
        for name, choice in variants.items():
            for seed in range(first, min(first + options.jobs, options.seeds)):
                if name in options.variants and not results.holds(name, seed):
                    change = changes.get(name, Change())
                    yield make_trial_spec(shared[change.sets], name, choice, seed, change.epochs)


def train_all(
    specs: list[TrialSpec],
    train_variant: Callable[[dict[str, Any]], Kept],
    jobs: int,
    results: Results[Kept],
) -> None:
    """Train each trial in a process of the pool.

    The first failure ends the pool; a later run resumes the others.
    """
    # they take effect only at the start of a process
    os.environ.update(allocator() | {"OMP_NUM_THREADS": "1"})
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(train_variant, spec.model_dump(mode="json")) for spec in specs]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                trial = future.result()
                results.add(trial)
                done = (
                    f"{trial.variant}, seed {trial.seed}: {trial.outcome} ({trial.seconds:.1f} s)"
                )
                print(f"{number}/{len(specs)} {done}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def heading(shared: TrialSpec, card: TeacherCard, temperature: float) -> str:
    """Return one line that describes the training."""
    configuration, summary = shared.configuration, read_json(shared.data / "data.json")
    sizes = ", ".join(f"{size:,} {name}" for name, size in summary["sizes"].items())
    noise = (
        f", {100 * configuration.data.label_noise:g} % of the training labels wrong"
        if configuration.data.label_noise
        else ""
    )
    taught = (
        f"teacher {card['network']['name']} "
        f"({100 * card['metrics']['test/last/accuracy']:.2f} % on test)"
    )
    several = len(configuration.students) > 1
    students = [
        f"student {f'{letter} ' * several}{describe_network(each.network)}"
        for letter, each in configuration.students.items()
    ]
    epochs = configuration.training.epochs
    return (
        f"{summary['name']}: {sizes}{noise}; {taught}, {', '.join(students)}, {epochs} "
        f"epochs, T = {temperature:g}"
    )


def describe_network(network: Network) -> str:
    """Return a network's name and settings as text."""
    return ", ".join(str(value) for value in network.model_dump(exclude_none=True).values())


def run_comparison(
    options: Namespace,
    presets: Presets,
    variants: Mapping[str, Choice],
    train_variant: Callable[[dict[str, Any]], Kept],
    kind: type[Kept],
    changes: Mapping[str, Change] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[TrialSpec, list[Kept]]:
    """Fit the teacher, run all requested trials in processes of the pool, and print a description.

    Args:
        options: The command line.
        presets: Configuration file and settings of each preset.
        variants: The methods by name.
        train_variant: Function that trains one trial, given as plain values.
        kind: Class of the trials.
        changes: Variants with another recipe.
        settings: Common settings of all methods, besides the temperature.

    Returns:
        The common part of the trials without changes, and the trials.
    """
    changes = changes or {}
    with tempfile.TemporaryDirectory() as name:
        store = Store.open(options.store or Path(name) / "store")
        shared, card = prepare_trials(options, presets, store)
        kinds = {
            change.sets for variant, change in changes.items() if variant in options.variants
        } - {()}
        shared_specs = {(): shared} | {
            sets: prepare_trials(options, presets, store, sets)[0] for sets in sorted(kinds)
        }
        results = Results(
            options.out or Path(name) / "trials.jsonl",
            hash_setup(shared, options.temperature, settings or {}),
            kind,
        )
        train_all(
            list(find_missing_trials(shared_specs, variants, changes, options, results)),
            train_variant,
            options.jobs,
            results,
        )
        print(f"{heading(shared, card, options.temperature)}\n")
        return shared, results.selected(options)
