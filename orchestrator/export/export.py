"""Export a student from a run in the store: weights, settings and a model card.

Nothing is unpickled, here or at loading: weights are safetensors, all else is JSON and text. The
student can also be a program of torch.export or ONNX: `formats.py`.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file

from orchestrator.config.objectives import describe_objective, list_objectives
from orchestrator.config.schema import Network as Choice
from orchestrator.config.trial import CHECKPOINT, apply, student_folder
from orchestrator.core.errors import ConfigurationError, PreflightError, suggest_name
from orchestrator.core.paths import read_path
from orchestrator.core.program import program_name
from orchestrator.data.dataset import SUMMARY_FILE, DataSummary, read_summary
from orchestrator.data.pictures import CLEAN_SHARE
from orchestrator.data.prepare import describe
from orchestrator.export._description import (
    describe_data,
    describe_ensemble,
    describe_method,
    describe_network,
    describe_teachers,
    describe_training,
    needs_teacher,
)
from orchestrator.export._model_card import model_card
from orchestrator.export._seeds import average_over_seeds, heldout_metrics, student_metrics
from orchestrator.export.check import check_batches, compare_logits
from orchestrator.export.formats import CARD, FORMATS, NAME, NETWORK, SETTINGS, Predictions
from orchestrator.export.loading import load_predictions
from orchestrator.export.settings import FORMAT, Checked, ExportSettings, Input, Source, Values
from orchestrator.extensions.record import CODE, require_code
from orchestrator.models.build import build_for_data, list_files
from orchestrator.models.network import Network
from orchestrator.models.weights import network_fingerprint
from orchestrator.reporting.peer_gain import uses_peers
from orchestrator.store.checkpoint_storage import checkpoint_storage
from orchestrator.store.progress import read_progress
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.retained_weights import trials_with_weights
from orchestrator.store.store import Store, replacing, write_json

log = logging.getLogger(__name__)
Weights = Literal["best", "last"]
FILES = {"best": "best.safetensors", "last": "student.safetensors"}  # of a checkpoint
USABLE = ("complete", "stopped_early")


@dataclass(frozen=True)
class Exported:
    """Folder and settings of an exported student, and the letters of its peers."""

    folder: Path
    settings: ExportSettings
    peers: tuple[str, ...]


def export(
    store: Store,
    name: str,
    letter: str = "a",
    number: int | None = None,
    weights: str = "best",
    to: Path | None = None,
    form: str = NAME,
) -> Exported:
    """Write one student of a trial to a new folder, load it again, and compare the logits.

    Args:
        store: The store of the run.
        name: The name of the run.
        letter: The letter of the student.
        number: The number of the trial; None for the best one.
        weights: `best` for those best on the validation part, or `last`.
        to: The target folder; None for a folder of the store.
        form: The file format, one of FORMATS.

    Raises:
        ConfigurationError: There is no such run, trial, student, weights or format, the checkpoint
            is damaged, or the folder is not empty.
        PreflightError: The folder cannot be written, or a package of the format is missing.
    """
    requested = read_path(to, "--to") if to is not None else None
    _require_options(form, weights)
    sweep = Sweep.open(store, name)
    code = sweep.described.get(CODE, {})
    require_code(code, f"the export of {name!r}")
    trial = _trial(store, sweep, number)
    configuration = apply(sweep.configuration, trial.settings)
    students = configuration.students
    if letter not in students:
        raise ConfigurationError(
            f"--student {letter!r} is not a student of {name!r}: give one of {', '.join(students)}"
        ).with_details("--student", letter, tuple(students))
    folder = _checkpoint(store, sweep, trial, letter)
    summary = _data(store, sweep)
    title = f"{name}-{trial.number}-{letter}"
    target = requested or (store.exports / (title if form == NAME else f"{title}-{form}")).resolve()
    _require_free(target)
    chosen = students[letter]
    network = _network(chosen.network, summary, folder / FILES[weights], trial)
    needed = needs_teacher(configuration)
    teachers = describe_teachers(store, sweep, summary) if needed else []
    settings = ExportSettings(
        format=FORMAT,
        form=form,
        network=describe_network(chosen.network),
        classes=summary.classes,
        input=Input(
            shape=summary.shape,
            mean=summary.mean,
            std=summary.std,
            cut=CLEAN_SHARE if summary.root else None,
        ),
        code=code,
        name=title,
        file=FORMATS[form].file,
        fingerprint=network_fingerprint(network.state_dict()),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        source=Source(
            run=name,
            trial=trial.number,
            state=trial.state,
            student=letter,
            weights=weights,
            by_number=number is not None,
            chosen=_chosen(sweep, number),
            taken_over=trial.changes,
            **_progress(folder, trial, letter, weights),
        ),
        over_seeds=average_over_seeds(sweep, trial, letter),
        searched=trial.settings,
        data=describe_data(configuration, summary),
        teacher=teachers[0] if len(teachers) == 1 else None,
        teachers=teachers if len(teachers) > 1 else [],
        ensemble=describe_ensemble(configuration, trial.metrics) if len(teachers) > 1 else {},
        uses_peers=uses_peers(sweep, trial),
        method=describe_method(configuration),
        training=describe_training(chosen.training, chosen.network),
        seed=configuration.seed,
        peers={
            other: describe_network(student.network)
            for other, student in students.items()
            if other != letter
        },
    )
    with _writing(target) as temporary:
        FORMATS[form].write(network, summary.shape, temporary / FORMATS[form].file)
        if form == NAME and (files := list_files(chosen.network.name)):
            (temporary / NETWORK).mkdir()
            for file in files:
                shutil.copy(file, temporary / NETWORK)
        write_json(temporary / SETTINGS, settings.plain())
        checked = _checked(network, load_predictions(temporary), form, store, summary, target)
        settings = settings.model_copy(update={"checked": checked})
        write_json(temporary / SETTINGS, settings.plain())
        (temporary / CARD).write_text(model_card(settings), encoding="utf-8")
    return Exported(target, settings, tuple(other for other in students if other != letter))


def _require_options(form: str, weights: str) -> None:
    """Raise ConfigurationError for an unknown option, PreflightError without a package."""
    if form not in FORMATS:
        raise ConfigurationError(
            f"--format {form!r} is not allowed: {suggest_name(form, FORMATS)}"
        ).with_details("--format", form, tuple(FORMATS))
    FORMATS[form].require(form)
    if weights not in get_args(Weights):
        raise ConfigurationError(
            f"--weights {weights!r} is not allowed: give best or last"
        ).with_details("--weights", weights, get_args(Weights))


def _trial(store: Store, sweep: Sweep, number: int | None) -> Trial:
    """Return the requested trial, which must have ended with usable results."""
    if number is None:
        best = sweep.best()
        if best is None:
            command = f"{program_name()} status {sweep.name}{store.option}"
            raise ConfigurationError(
                f"{sweep.name!r} has no trial with results: run `{command}` for the reasons"
            ).with_details("name", sweep.name, "a run with a complete or early-stopped trial")
        return best
    if number not in sweep.trials:
        known = ", ".join(str(known) for known in sorted(sweep.trials)) or "none yet"
        raise ConfigurationError(
            f"--trial {number} is not a trial of {sweep.name!r}: give one of {known}"
        ).with_details("--trial", number, tuple(sorted(sweep.trials)))
    trial = sweep.trials[number]
    if trial.state not in USABLE:
        usable = ", ".join(str(other.number) for other in sweep.ranked()) or "none yet"
        if trial.state == "failed":
            state = f"failed ({' '.join(trial.message.split())})"
        else:
            state = "has not ended"
        raise ConfigurationError(
            f"--trial {number} of {sweep.name!r} {state}: give one of {usable}"
        ).with_details("--trial", number, tuple(other.number for other in sweep.ranked()))
    return trial


def _chosen(sweep: Sweep, number: int | None) -> str:
    """Return how the trial was chosen, in words."""
    search, many = sweep.configuration.search, f"{len(sweep.trials)} trials"
    first = f", the first of {len(search.objectives)} objectives" if search.objectives else ""
    by = describe_objective(sweep.configuration, list_objectives(search)[0])
    if len(sweep.trials) == 1:
        return "the only trial of its run"
    if number is not None:
        return f"one of {many}"
    return f"the best of {many} by {by} of the last epoch{first}"


def _checkpoint(store: Store, sweep: Sweep, trial: Trial, letter: str) -> Path:
    """Return the folder with a student's part of the trial's checkpoint."""
    storage = checkpoint_storage(store, sweep.trial_folder(trial.number))
    try:
        storage.download()
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        raise PreflightError(
            f"the checkpoint of trial {trial.number} cannot be fetched from {store.uri} "
            f"({reason}): check the connection and the credentials"
        ).with_details("--store", store.uri) from error
    folder = (storage.folders or [storage.trial / CHECKPOINT])[0] / student_folder(letter)
    if not folder.is_dir():
        raise ConfigurationError(
            f"trial {trial.number} of {sweep.name!r} has no checkpoint at {folder}: give "
            f"another --trial"
        ).with_details(str(folder), trial.number, "a trial with a checkpoint")
    if not any((folder / file).exists() for file in FILES.values()):
        alternatives = tuple(
            sorted(trials_with_weights(sweep) & {other.number for other in sweep.ranked()})
        )
        listed = ", ".join(str(number) for number in alternatives)
        raise ConfigurationError(
            f"the weights of trial {trial.number} of {sweep.name!r} were removed, because it is "
            "not among its best (search.keep_checkpoints = "
            f"{sweep.configuration.search.keep_checkpoints}): give one of {listed}, or train it "
            f"again: its settings are in {storage.trial / 'trial.json'}"
        ).with_details("--trial", trial.number, alternatives)
    return folder


def _require_free(target: Path) -> None:
    """Raise ConfigurationError if the target exists and is not an empty folder."""
    try:
        free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    except OSError as error:
        raise PreflightError(
            f"--to {target} cannot be read ({error.strerror}): give another folder"
        ).with_details("--to", str(target), "a folder that can be read") from error
    if not free:
        reason = "is not empty" if target.is_dir() else "is a file"
        raise ConfigurationError(
            f"--to {target} {reason}: give a new or empty folder, because nothing is overwritten"
        ).with_details("--to", str(target), "a new or empty folder")


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[Path]:
    """Yield a folder to write to, which replaces the target after a success."""
    try:
        with replacing(target) as temporary:
            temporary.mkdir()
            yield temporary
            if target.is_dir():  # it is empty
                target.rmdir()  # else `replacing` would keep it as .old and remove an older .old
    except OSError as error:
        raise PreflightError(
            f"--to {target} cannot be written ({error.strerror or error}): give another folder"
        ).with_details("--to", str(target), "a folder that can be written") from error


def _network(chosen: Choice, summary: DataSummary, file: Path, trial: Trial) -> Network:
    """Return the student with the weights of a file of its checkpoint."""
    network = build_for_data(chosen, summary)
    try:
        network.load_state_dict(load_file(file))
    except (
        OSError,
        SafetensorError,
        RuntimeError,
    ) as error:  # RuntimeError: tensors of another network
        raise _damaged(trial, file, error) from error
    return network.eval()


def _progress(folder: Path, trial: Trial, letter: str, weights: str) -> Values:
    """Return the epoch of the weights and the student's metrics.

    The source is the checkpoint, because the trial's record may be behind it.
    """
    try:
        progress = read_progress(folder)
    except DamagedRecordError as error:
        raise _damaged(trial, error.file, error.reason) from error
    record, best_epoch = progress.record, progress.best_epoch
    last = record.epoch
    metrics = {"validation/best/accuracy": progress.best_value} | heldout_metrics(
        student_metrics(record.metrics, letter)
    )
    epochs = {
        "epoch": best_epoch if weights == "best" else last,
        "best_epoch": best_epoch,
        "epochs": last,
    }
    return epochs | {"metrics": dict(sorted(metrics.items()))}


def _damaged(trial: Trial, file: Path, error: Exception | str) -> ConfigurationError:
    reason = " ".join(str(error).split())
    return ConfigurationError(
        f"the checkpoint of trial {trial.number} is damaged, {file} cannot be used ({reason}): "
        f"give another --trial, or train again"
    ).with_details(str(file), reason)


def _data(store: Store, sweep: Sweep) -> DataSummary:
    """Return the run's summary of its data; without a copy, describe the source now."""
    file = sweep.folder / SUMMARY_FILE
    if file.exists():
        try:
            return read_summary(sweep.folder)
        except DamagedRecordError as error:
            log.warning("%s: the data source is read instead", error)
    data = sweep.configuration.data
    return describe(data, store.root, data.seed)


def _checked(
    network: Network,
    written: Predictions,
    form: str,
    store: Store,
    summary: DataSummary,
    target: Path,
) -> Checked:
    """Check the written export's logits; return image counts, difference and tolerance.

    Raise PreflightError if they differ from the student's.
    """
    batches, tolerance = check_batches(store, summary), FORMATS[form].tolerance
    result = compare_logits(lambda images: network(images).logits, written, batches, tolerance)
    if not result.same:
        step = "check the disk" if form == NAME else "give --format safetensors"
        raise PreflightError(
            f"--to {target}: the logits of the written file differ from the checkpoint's by "
            f"{result.largest:.2g}: {step}"
        ).with_details("--to", result.largest, tolerance)
    return Checked(
        random=len(batches["random"]),
        validation=len(batches.get("validation", ())),
        largest_difference=result.largest,
        tolerance=tolerance,
    )


def export_program(store: Store, name: str, trial: int, letter: str, to: Path) -> ExportSettings:
    """Export a student of a sweep as a program, and return its settings.

    A program needs neither this project nor a pickle where it is loaded.

    Raises:
        UserError: The student cannot be exported.
    """
    return export(store, name, letter, trial, to=to, form="torchexport").settings
