"""Define the fingerprint, the fitting trial and the folder of a configured teacher."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file

from orchestrator.config.schema import Choice, Configuration, Teacher
from orchestrator.config.trial import TrialSpec
from orchestrator.core import disk
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path
from orchestrator.data.dataset import Dataset
from orchestrator.data.user_transforms import transform_code
from orchestrator.data.views import Views
from orchestrator.models.build import build_for_data, identify, network_code
from orchestrator.models.weights import load_weights, network_fingerprint, save_weights
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.store import Store, replacing
from orchestrator.teacher.card import CARD, TEACHER, TeacherCard
from orchestrator.teacher.frozen import WEIGHTS, read_teacher

Part = Literal["validation", "test"]


def fingerprint(configuration: Configuration, data_fingerprint: str, augmentation: str) -> str:
    """Return the fingerprint of everything that determines the teacher's weights.

    Given weights are identified by the bytes of their file, and a network in a folder by the bytes
    of the files in it.

    Args:
        configuration: The configuration, with a teacher.
        data_fingerprint: The fingerprint of the data.
        augmentation: The resolved augmentation policy.

    Returns:
        16 hexadecimal digits.
    """
    teacher, workers = configuration.teacher, configuration.resources.workers
    assert teacher is not None
    recipe: dict[str, Any] = teacher.model_dump(
        mode="json", include={"network", "training", "seed"}
    )
    recipe["network"]["name"] = identify(teacher.network.name, teacher.network.weights)
    data = configuration.data
    del recipe["training"]["eval_precision"]  # affects the metrics, not the weights
    if not teacher.training.sync_batch_norm:
        del recipe["training"]["sync_batch_norm"]  # as before the setting existed
    recipe |= {
        "augmentation": augmentation,
        "mix": None if data.mixing == "none" else [data.mixing, data.mix_alpha],
    }
    # in the fingerprint only if they are used, as before these settings existed
    if data.class_weights is not None:
        recipe["class_weights"] = data.model_dump(mode="json")["class_weights"]
    if data.sampling != "uniform":
        recipe["sampling"] = data.sampling
    if teacher.training.patience is None:
        del recipe["training"]["patience"]
    recipe |= {"transforms": data.transforms} if data.transforms else {}
    if teacher.network.weights:
        file = read_path(teacher.network.weights, "teacher.network.weights")
        network = {key: value for key, value in recipe["network"].items() if key != "weights"}
        recipe = {
            "network": network,
            "bytes": _digest(file) if file.is_file() else teacher.network.weights,
        }
        if teacher.classes is not None:  # otherwise as before the setting existed
            recipe["classes"] = teacher.classes
    if code := _user_code(teacher, "" if teacher.network.weights else augmentation):
        recipe["code"] = code
    return hashlib.sha256(
        json.dumps([recipe, data_fingerprint, workers], sort_keys=True).encode()
    ).hexdigest()[:16]


def _user_code(teacher: Teacher, augmentation: str) -> dict[str, str]:
    """Return the identities of the user code that determines a teacher; empty for most teachers."""
    code = {
        "network": network_code(teacher.network.name),
        "augmentation": transform_code(augmentation),
    }
    return {key: identity for key, identity in code.items() if identity}


def teacher_folder(store: Store, configuration: Configuration, data: Path) -> Path:
    """Return the folder of the configured teacher, which may not exist yet."""
    assert configuration.teacher is not None
    dataset = Dataset.open(data)
    policy = Views.from_config(dataset, configuration.data, configuration.seed).policy
    return store.teachers / fingerprint(configuration, dataset.fingerprint, policy)


def teacher_exists(folder: Path) -> bool:
    """Return whether the folder has a teacher, damaged or not."""
    return (folder / CARD).exists() and (folder / WEIGHTS).exists()


def card(folder: Path) -> TeacherCard | None:
    """Return the card of a teacher that is ready: its network, data and metrics.

    Return None if the teacher must be fitted first.
    """
    if not teacher_exists(folder):
        return None
    return {"fingerprint": folder.name, "data": "", "metrics": {}, **TEACHER.read(folder / CARD)}


def damage(folder: Path) -> DamagedRecordError | None:
    """Return the damage of the teacher in the folder; None if it is usable or does not exist."""
    try:
        if teacher_exists(folder):
            read_teacher(folder)
    except DamagedRecordError as error:
        return error
    return None


def adopt_weights(folder: Path, teacher: Teacher, data: Path) -> None:
    """Adopt given weights as the teacher.

    Args:
        folder: The folder of the teacher, which this call creates.
        teacher: The configured teacher, with `network.weights`.
        data: The folder of the prepared data.

    Raises:
        ConfigurationError: The weights do not fit the network or the data.
    """
    dataset = Dataset.open(data)
    try:
        network = build_for_data(teacher.network, dataset)
        load_weights(network, str(teacher.network.weights), exact=True, classes=teacher.classes)
    except ConfigurationError as error:
        if error.field == "classes":
            raise ConfigurationError.from_error(error, f"teacher.{error}", "teacher") from error
        raise ConfigurationError.from_error(error, str(error), "teacher.network") from error
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        save_weights(network, temporary / WEIGHTS)
        TEACHER.write(
            temporary / CARD,
            _card(folder.name, network_fingerprint(network.state_dict()), teacher, dataset, {}),
        )


def specification(folder: Path, configuration: Configuration, data: Path) -> TrialSpec:
    """Return the trial that fits the teacher.

    It uses cross entropy on the teacher's own network and recipe, and a view for each epoch.
    `data.views` is not used: it is the number of views that students share, and every value would
    give another teacher.
    """
    teacher = configuration.teacher
    assert teacher is not None
    fitting = configuration.model_copy(
        update={
            "teacher": None,
            "data": configuration.data.model_copy(update={"views": None}),
            "student": teacher.network,
            "peers": {},
            "method": Choice(name="cross_entropy"),
            "training": teacher.training,
            "seed": teacher.seed,
        }
    )
    return TrialSpec(
        name=f"teacher-{folder.name}",
        role="teacher",
        configuration=fitting,
        folder=_fitting(folder),
        data=data,
    )


def evaluation(
    folder: Path, configuration: Configuration, data: Path, part: Part = "validation"
) -> TrialSpec:
    """Return the job that evaluates the teacher in a folder on a part of the data."""
    # peers do not matter here: all workers share the part
    without_peers = configuration.model_copy(update={"peers": {}})
    return TrialSpec(
        name=f"evaluate-{part}-{folder.name}",
        role="evaluate",
        configuration=without_peers,
        folder=folder.parent / "groups",
        data=data,
        teacher=folder,
        part=part,
    )


def keep_evaluation(folder: Path, metrics: dict[str, float]) -> None:
    """Write the metrics of an evaluation to the teacher's card."""
    known = TEACHER.read(folder / CARD)
    TEACHER.keep(folder / CARD, {**known, "metrics": {**known.get("metrics", {}), **metrics}})


def adopt_fitted(
    folder: Path, configuration: Configuration, data: Path, metrics: dict[str, float]
) -> None:
    """Move the last weights of the fitting trial's student to the teacher's folder.

    Args:
        folder: The folder of the teacher, which this call creates.
        configuration: The configuration, with a teacher.
        data: The folder of the prepared data.
        metrics: The metrics of the last epoch.

    Raises:
        ConfigurationError: The weights are not in the store of this process.
    """
    assert configuration.teacher is not None
    weights_file = _fitting(folder) / "checkpoint" / "student.safetensors"
    if not weights_file.exists():
        raise ConfigurationError(
            f"the teacher's weights are not in {weights_file}: the store must be a folder that all "
            f"nodes share, or a URI"
        ).with_details("--store", str(weights_file), "a folder that all nodes share, or a URI")
    weights = network_fingerprint(load_file(weights_file))
    record = _card(folder.name, weights, configuration.teacher, Dataset.open(data), metrics)
    disk.retry_while_disk_full(lambda: _copy_weights(weights_file, record, folder), folder)
    shutil.rmtree(_fitting(folder), ignore_errors=True)


def _copy_weights(weights_file: Path, record: TeacherCard, folder: Path) -> None:
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        shutil.copyfile(weights_file, temporary / WEIGHTS)
        TEACHER.write(temporary / CARD, record)


def _fitting(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.fitting"


def _card(
    name: str, weights: str, teacher: Teacher, dataset: Dataset, metrics: dict[str, float]
) -> TeacherCard:
    """Return the content of a card.

    `fingerprint` identifies the recipe, and `weights` the result: fitting a recipe again may not
    give the same bits.
    """
    return {
        "fingerprint": name,
        "weights": weights,
        "network": teacher.network.model_dump(mode="json"),
        "data": dataset.name,
        "classes": len(dataset.classes),
        "shape": list(dataset.shape),
        "metrics": metrics,
    }


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
