"""Find the published accuracies for a comparison, and how its training differs from theirs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.config.data_schema import Data
from orchestrator.config.schema import Configuration, Training
from orchestrator.config.search_space import frozen_values
from orchestrator.config.trial import Parameters
from orchestrator.sweep.comparison._published_table import Published, list_published, name_published

TRAINING_SAMPLES = {"CIFAR100": 50_000}  # the whole training part
SLOW_STUDENTS = ("mobilenet_v2_half", "shuffle_v1", "shuffle_v2")  # trained at a lower rate
# keys of `data` that do not change the task; all others must have their defaults
FREE_KEYS: dict[str, Any] = {
    **dict.fromkeys(("path", "download", "seed", "validation", "validation_in_training"), True),
    **dict.fromkeys(("augmentation", "views", "labelled_share", "mix_alpha", "limit"), True),
    **dict.fromkeys(("mean", "std", "on_device", "loader_workers"), True),
}
AUGMENTATIONS = ("auto", "crop_flip")
UNIMPORTANT = ("eval_precision", "channels_last", "compile", "sync_batch_norm")


def find_published(configuration: Configuration) -> Published | None:
    """Return the published results for the data and the networks of a comparison.

    None for another task: changed data, networks with settings of their own, students that begin
    with given weights or learn from each other. How the training differs is in
    `list_differences`.
    """
    teacher, student = configuration.teacher, configuration.student
    if teacher is None or configuration.peers or not _is_published_task(configuration.data):
        return None
    if teacher.classes is not None or teacher.network.settings or student.settings:
        return None
    if student.weights:
        return None
    setting = (configuration.data.name, teacher.network.name, student.name)
    return next(
        (one for one in list_published() if (one.data, one.teacher, one.student) == setting), None
    )


def select_rows(
    configuration: Configuration, published: Published | None, settings: Mapping[str, Parameters]
) -> Published | None:
    """Return the published results of the compared methods alone, by their names.

    Args:
        configuration: The configuration of the comparison.
        published: All results for its data and networks.
        settings: The settings of each compared method that it does not freeze.
    """
    if published is None:
        return None
    accuracies = {}
    for method, own in settings.items():
        name = name_published(method, frozen_values(configuration, method) | own)
        if name in published.accuracies:
            accuracies[method] = published.accuracies[name]
    return replace(published, accuracies=accuracies)


def describe_training(
    configuration: Configuration,
    published: Published | None,
    training_samples: int,
    teacher_accuracy: float | None,
) -> list[str]:
    """Return the sentences about a comparison's training that a reader of its table needs.

    They are the differences to the published training, if there is one, and the use of validation
    samples. The arguments are those of `list_differences`.
    """
    sentences = []
    if configuration.data.validation_in_training:
        sentences.append(
            "the validation part was trained on, so that validation accuracies, and the best epoch "
            "by them, are those of trained samples"
        )
    if configuration.tracking.test_each_epoch:
        sentences.append(
            "the best test epoch is chosen on the test part: too high as an estimate, and "
            "comparable only with publications that report it"
        )
    if published is not None:
        different = list_differences(configuration, published, training_samples, teacher_accuracy)
        sentences += [f"differs from the published training: {one}" for one in different]
    return sentences


def list_differences(
    configuration: Configuration,
    published: Published,
    training_samples: int,
    teacher_accuracy: float | None,
) -> list[str]:
    """Return a sentence for each difference between a training and the published protocol.

    Args:
        configuration: The configuration of the comparison.
        published: The published results for it.
        training_samples: Number of samples that are trained on.
        teacher_accuracy: The teacher's test accuracy in [0, 1]; None if it is unknown.
    """
    sentences = [
        f"{key}: {_format(ours)} here, {_format(theirs)} in the sources"
        for key, ours, theirs in _list_changed_settings(configuration, published.student)
    ]
    samples = TRAINING_SAMPLES[published.data]
    if training_samples != samples:
        sentences.append(
            f"training images: {training_samples:,} here, {samples:,} in the sources, which hold "
            f"out no validation part"
        )
    search = configuration.search
    if not search.configurations and "training.learning_rate" not in search.freeze:
        sentences.append(
            "training.learning_rate is searched for each method here, and fixed in the sources"
        )
    reached = "unknown" if teacher_accuracy is None else f"{100 * teacher_accuracy:.2f} %"
    sentences.append(
        f"test accuracy of the teacher: {reached} here, {published.teacher_accuracy:.2f} % in the "
        f"sources"
    )
    return sentences


def published_recipe(student: str) -> Training:
    """Return the published training of a student on CIFAR-100, as RepDistiller has it."""
    return Training(
        epochs=240,
        batch_size=64,
        learning_rate=0.01 if student in SLOW_STUDENTS else 0.05,
        schedule="multi_step",
        milestones=(150, 180, 210),
        precision="float32",
    )


def _list_changed_settings(
    configuration: Configuration, student: str
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the key, the value and the published value of each setting that differs."""
    ours, theirs = configuration.training, published_recipe(student)
    for key in Training.model_fields:
        if key not in UNIMPORTANT and getattr(ours, key) != getattr(theirs, key):
            yield f"training.{key}", getattr(ours, key), getattr(theirs, key)
    data = configuration.data
    if data.augmentation not in AUGMENTATIONS:
        yield "data.augmentation", data.augmentation, "crop_flip"
    if data.views is not None and data.views < ours.epochs:
        yield "data.views", data.views, "a new one in each epoch"
    if data.limit.test is not None:
        yield "data.limit.test", data.limit.test, "the whole test part"


def _is_published_task(data: Data) -> bool:
    """Return whether the data are used as in the sources: all samples alike, crops and flips."""
    usual = Data(name=data.name).model_dump(exclude=FREE_KEYS)
    return data.model_dump(exclude=FREE_KEYS) == usual


def _format(value: Any) -> str:
    if value is None:
        return "null"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
