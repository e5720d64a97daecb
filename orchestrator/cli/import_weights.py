"""Convert a checkpoint of another program to weights of a network."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli._run import console, print_note
from orchestrator.config.loader import load, override
from orchestrator.config.network_schema import INPUT_KEYS
from orchestrator.config.path_settings import SUFFIX, resolve_paths
from orchestrator.config.schema import Configuration
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_file, read_path
from orchestrator.core.privacy import sanitize
from orchestrator.core.program import code_options, program_name
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from orchestrator.models.checkpoint_files import Checkpoint
    from orchestrator.models.weight_import import ImportedWeights

MATCHINGS = ("names", "order")
MAX_CLASS_NAMES_BYTES = 10_000_000
CLOSE_S = 10.0  # wait for the end of an interrupted evaluation
TITLE_WIDTH = 10


@dataclass(frozen=True)
class ImportOptions:
    """Options of the command.

    Attributes:
        file: The checkpoint.
        network: Name of the network.
        pairs: `KEY=VALUE` settings: of the network, or with a dot in the key of the configuration.
        config: Configuration file; None for none.
        classes: Number of classes; None for that of the checkpoint.
        class_names: File with the name of a class per line; None if they are unknown.
        match: "names" or "order".
        key: Key of the state dict in the checkpoint; None for the usual ones.
        image_size: Side of the images in pixels; None for the usual sizes.
        channels: Channels of the images; None for those of the checkpoint.
        to: The file to write; None for FILE.safetensors.
        store: Folder or URI of the store, for the accuracy.
    """

    file: Path
    network: str
    pairs: list[str]
    config: Path | None
    classes: int | None
    class_names: Path | None
    match: str
    key: str | None
    image_size: int | None
    channels: int | None
    to: Path | None
    store: str


def import_weights(options: ImportOptions) -> int:
    """Write the tensors of a checkpoint as weights of a network; return the exit code.

    With data, also report the accuracy of the network on the validation part.

    Raises:
        ConfigurationError: An option cannot be used, or the checkpoint does not fit the network.
    """
    from orchestrator.data.prepare import describe
    from orchestrator.models.build import find_builder
    from orchestrator.models.checkpoint_files import FILE_ADVICE, read_checkpoint
    from orchestrator.models.weight_import import Wanted, convert_checkpoint

    if options.match not in MATCHINGS:
        raise ConfigurationError(
            f"--match {options.match} is not allowed: give names or order"
        ).with_details("--match", options.match, MATCHINGS)
    read_file(options.file, "FILE", FILE_ADVICE)
    find_builder(options.network)
    target, settings = _read_target(options), dict[str, Any]()
    override(settings, [pair for pair in options.pairs if not _is_configuration_key(pair)])
    usual = _choose_inputs(options, settings)
    settings |= usual
    configuration = _load_configuration(options, target, settings)
    checkpoint = read_checkpoint(options.file, options.key)
    shape, store = None, None
    if configuration:
        store = Store.open(options.store)
        shape = describe(configuration.data, store.root, configuration.data.seed).shape
    wanted = Wanted(
        options.network, settings, options.classes, options.channels, options.image_size, shape
    )
    imported = convert_checkpoint(
        checkpoint, wanted, "order" if options.match == "order" else "names"
    )
    names = _read_class_names(options.class_names, imported.network.classes)
    network = configuration.teacher.network if configuration and configuration.teacher else None
    chosen = network.settings if network else settings
    inputs = {key: chosen[key] for key in INPUT_KEYS if chosen.get(key) is not None}
    inputs = {key: list(each) if isinstance(each, tuple) else each for key, each in inputs.items()}
    imported.save(target, names, inputs)
    lines = _describe_import(checkpoint, imported)
    if inputs:
        source = f"usual for {options.network}; " * bool(usual)
        lines["input"] = (
            f"{', '.join(f'{key} {value}' for key, value in inputs.items())}: {source}set others "
            f"with --set {next(iter(inputs))}=..."
        )
    _print_lines(lines | {"written": str(target)})
    if configuration and store:
        _print_accuracy(store, configuration, imported)
    else:
        print_note(_advise_check(imported))
    _print_next(options, target, settings)
    return errors.OK


def _choose_inputs(options: ImportOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input size and the normalisation that published weights of the network expect.

    Values that the user gives are left out.
    """
    from orchestrator.models.build import usual_inputs

    keys = {pair.partition("=")[0].strip() for pair in options.pairs}
    known = {key.removeprefix("teacher.network.") for key in keys} | set(settings)
    if known & {"mean", "std"}:
        known |= {"mean", "std"}
    if options.image_size is not None:
        known.add("input_size")
    usual = usual_inputs(options.network)
    return {key: value for key, value in usual.items() if key not in known}


def _read_target(options: ImportOptions) -> Path:
    """Return the file to write; raise ConfigurationError if it exists or has another suffix."""
    target = read_path(options.to or options.file.with_suffix(SUFFIX), "--to")
    if target.suffix != SUFFIX:
        raise ConfigurationError(
            f"--to {target} does not end in {SUFFIX}: give {target.with_suffix(SUFFIX).name}"
        ).with_details("--to", str(target), f"a file that ends in {SUFFIX}")
    if target.exists():
        raise ConfigurationError(
            f"--to {target} exists: give a new file, because nothing is overwritten"
        ).with_details("--to", str(target), "a new file")
    return target


def _is_configuration_key(pair: str) -> bool:
    return "." in pair.partition("=")[0]


def _load_configuration(
    options: ImportOptions, target: Path, settings: Mapping[str, Any]
) -> Configuration | None:
    """Return the configuration with the imported network as teacher; None if none is given."""
    pairs = [pair for pair in options.pairs if _is_configuration_key(pair)]
    if options.config is None and not pairs:
        return None
    for option, value in (("--image-size", options.image_size), ("--channels", options.channels)):
        if value is not None:
            raise ConfigurationError(
                f"{option} {value}: the data determine the shape of the images, so leave it out"
            ).with_details(option, value, "without data")
    network = {"name": options.network, **settings, "weights": str(target)}
    # as pairs, so that other keys of teacher.network stay
    chosen = [f"teacher.network.{key}={json.dumps(value)}" for key, value in network.items()]
    return resolve_paths(load(options.config, [*chosen, *pairs]), local=True)


def _read_class_names(file: Path | None, classes: int) -> list[str]:
    """Return the lines of a file of class names; [] without a file."""
    if file is None:
        return []
    path = read_file(file, "--class-names", "give a text file with the name of a class per line")
    try:
        with path.open("rb") as stream:
            names = stream.read(MAX_CLASS_NAMES_BYTES).decode().splitlines()
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"--class-names {file} is not UTF-8 text: give a text file with a name per line"
        ).with_details("--class-names", str(file), "UTF-8 text") from error
    names = [name.strip() for name in names if name.strip()]
    if len(names) != classes:
        raise ConfigurationError(
            f"--class-names {file} has {len(names)} names, but the weights have {classes} classes: "
            f"give one name per line, in the order of the logits"
        ).with_details("--class-names", len(names), classes)
    return names


def _describe_import(checkpoint: "Checkpoint", imported: "ImportedWeights") -> dict[str, str]:
    """Return what was read and how it was matched, as lines by their titles."""
    match = imported.match
    under = f" under {checkpoint.key!r}" if checkpoint.key else ""
    unused = f"; not used: {', '.join(checkpoint.other_keys)}" if checkpoint.other_keys else ""
    channels, height, width = imported.shape
    lines = {
        "read": f"{checkpoint.file}, {checkpoint.kind}: {len(checkpoint.tensors)} tensors{under}"
        f"{unused}"
    }
    if checkpoint.skipped:
        lines["not read"] = f"objects of {', '.join(checkpoint.skipped)}"
    if match.left_out:
        lines["left out"] = f"{', '.join(match.left_out[:5])}{' ...' * (len(match.left_out) > 5)}"
    lines["network"] = f"{imported.network} for {channels}x{height}x{width} images"
    lines["matched"] = f"{len(match.names)} tensors by {imported.matching}"
    if match.renamed:
        old, new = next(iter(match.renamed.items()))
        lines["matched"] += f", {len(match.renamed)} of them renamed ({old} -> {new})"
    if match.filled:
        lines["filled"] = f"{len(match.filled)} missing counters num_batches_tracked with 0"
    return lines


def _print_lines(lines: Mapping[str, str]) -> None:
    for title, text in lines.items():
        print_line(console, sanitize(f"{title:{TITLE_WIDTH}}{text}"))


def _print_accuracy(
    store: Store, configuration: Configuration, imported: "ImportedWeights"
) -> None:
    """Evaluate the network on the validation part, and keep it in the store as a teacher."""
    import numpy as np

    from orchestrator.cluster.local_backend import LocalDispatcher
    from orchestrator.core.signals import remaining_timeout
    from orchestrator.data.dataset import Dataset
    from orchestrator.data.prepare import prepare
    from orchestrator.teacher.acquire import acquire_teacher, check_weights
    from orchestrator.teacher.quality import TeacherQuality, guessing_accuracy

    data = prepare(configuration.data, store.root, configuration.data.seed, print_note)
    dataset, teacher = Dataset.open(data), configuration.teacher
    assert teacher is not None
    if teacher.classes is None and imported.network.classes != len(dataset.classes):
        print_note(
            f"no accuracy: the weights have {imported.network.classes} classes, and "
            f"{dataset.name} has {len(dataset.classes)}; name the classes of the data with "
            f"--set teacher.classes=[...]"
        )
        return
    check_weights(store, configuration, data)
    dispatcher = LocalDispatcher(print_note)
    try:
        _, card, _ = acquire_teacher(
            store, configuration, data, dispatcher, lambda epoch, metrics: None
        )
    finally:
        dispatcher.close(remaining_timeout(CLOSE_S))
    labels = np.asarray(dataset.validation.labels)
    sizes = np.bincount(labels, minlength=len(dataset.classes)).tolist()
    quality = TeacherQuality.of_card(card)
    _print_lines(
        {
            "accuracy": f"{quality.accuracy_in_words} on {len(labels)} images of {dataset.name}; "
            f"guessing reaches {guessing_accuracy(sizes):.4f}"
        }
    )
    if warning := quality.chance_warning(sizes):
        print_note(warning)


def _advise_check(imported: "ImportedWeights") -> str:
    reason = "shapes cannot show a wrong order: " if imported.matching == "order" else ""
    return (
        f"{reason}add --config FILE or --set data.name=... to evaluate the network on the "
        f"validation part"
    )


def _print_next(options: ImportOptions, target: Path, settings: Mapping[str, Any]) -> None:
    """Print the options that use the weights for a teacher and for a student."""
    values = {"name": options.network, **settings, "weights": str(target)}
    for title, section in (("as teacher", "teacher.network"), ("as student", "student")):
        words = ["--config", str(options.config)] if options.config else []
        for pair in filter(_is_configuration_key, options.pairs):
            if section == "teacher.network" or not pair.startswith("teacher."):
                words += ["--set", pair]
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            words += ["--set", f"{section}.{name}={text}"]
        words += code_options()
        print_line(console, sanitize(f"{title}: {program_name()} sweep {shlex.join(words)}"))
