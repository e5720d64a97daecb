"""Test notes on a teacher's accuracy (near chance, below a student), evaluated once if given."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.cluster.local_backend import LocalDispatcher
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare
from orchestrator.models.build import build
from orchestrator.models.weights import network_fingerprint, save_weights
from orchestrator.store.store import Store, read_json, write_json
from orchestrator.teacher import fit
from orchestrator.teacher.acquire import acquire_teacher, check_weights, evaluate_on_test
from orchestrator.teacher.card import CARD, TEACHER, TeacherCard
from orchestrator.teacher.quality import TeacherQuality, read_quality
from orchestrator.training._teacher_evaluation import evaluate_teacher
from tests.process_group import on_every_rank
from tests.refusal import refused


def quality(accuracy: float | None, weights: str = "") -> TeacherQuality:
    return TeacherQuality.of_card(
        {
            "network": {"name": "mlp", "weights": weights},
            "metrics": {"validation/accuracy": accuracy},
        }
    )


@pytest.mark.parametrize(
    ("sizes", "accuracy", "chance"),
    [
        ([100] * 10, 0.1 + 2.9 * math.sqrt(0.1 * 0.9 / 1000), True),
        ([100] * 10, 0.1 + 3.1 * math.sqrt(0.1 * 0.9 / 1000), False),
        ([100] * 10, 0.01, True),
        ([900, 50, 50], 0.9, True),  # always the largest class
        ([900, 50, 50], 0.95, False),
        ([], 0.5, False),
    ],
)
def test_near_chance_is_within_three_standard_errors_of_guessing(
    sizes: list[int], accuracy: float, chance: bool
) -> None:
    assert bool(quality(accuracy).chance_warning(sizes)) == chance


def test_too_few_samples_for_a_decision_give_no_warning() -> None:
    assert quality(1.0).chance_warning([2, 2]) == quality(0.0).chance_warning([2, 2]) == ""


def test_the_warning_names_both_accuracies_and_the_next_step() -> None:
    warning = quality(0.1, "given.safetensors").chance_warning([10] * 10)
    assert (
        "its validation accuracy is 0.1000, and guessing reaches 0.1000 on these 100 samples"
        in warning
    )
    assert "teacher.network.weights" in warning and "teacher.training" in quality(
        0.1
    ).chance_warning([10] * 10)


@pytest.mark.parametrize(
    ("of_teacher", "worse"), [(0.90, False), (0.881, False), (0.879, True), (None, False)]
)
def test_a_teacher_is_worse_than_a_student_beyond_a_standard_error(
    of_teacher: float | None, worse: bool
) -> None:
    error = math.sqrt(0.9 * 0.1 / 225)  # 0.02
    assert error == pytest.approx(0.02)
    warning = quality(of_teacher).student_warning(0.9, 7, 225)
    assert bool(warning) == worse and (
        not worse or "validation accuracy 0.8790, against 0.9000 for trial 7" in warning
    )


def test_the_source_of_the_weights_is_described() -> None:
    assert quality(0.5).words == "mlp (fitted here): validation accuracy 0.5000"
    assert (
        quality(None, "/a/b.safetensors").words
        == "mlp (given weights b.safetensors): not evaluated"
    )


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", "{}", '{"network": 3}', '{"network": {"name": "mlp"}, "metrics": 3}'],
)
def test_a_missing_or_damaged_card_has_no_quality(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / CARD).write_text(content)
    assert read_quality(tmp_path) is None


Given = tuple[Store, Configuration, Path]


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """Return a store, a configuration with random teacher weights, and its data."""
    store = Store.open(tmp_path / "store")
    torch.manual_seed(5)
    save_weights(build("mlp", 10, (1, 8, 8), {"width": 8}), tmp_path / "given.safetensors")
    pairs = (
        "teacher.network.name=mlp",
        "teacher.network.width=8",
        f"teacher.network.weights={tmp_path / 'given.safetensors'}",
    )
    configuration = load(None, ["data.limit.train=100", "data.limit.test=50", *pairs])
    data = prepare(configuration.data, store.root, 0)
    check_weights(store, configuration, data)
    return store, configuration, data


def bring(given: Given) -> TeacherCard:
    dispatcher_client = LocalDispatcher()
    try:
        return acquire_teacher(*given, dispatcher_client, lambda epoch, metrics: None)[1]
    finally:
        dispatcher_client.close(10)


def expected_metrics(data: Path, part: str) -> tuple[float, float]:
    """Return the accuracy and the NLL of the given weights, computed without the program."""
    dataset = Dataset.open(data)
    torch.manual_seed(5)
    network = build("mlp", 10, (1, 8, 8), {"width": 8}).eval()
    split = dataset.split(part)
    images = torch.from_numpy(np.array(split.inputs)).permute(0, 3, 1, 2).float().div(255)
    images = (images - torch.tensor(dataset.mean).view(1, -1, 1, 1)) / torch.tensor(
        dataset.std
    ).view(1, -1, 1, 1)
    with torch.no_grad():
        logits = network(images).logits
    labels = torch.from_numpy(np.array(split.labels))
    return (
        (logits.argmax(1) == labels).double().mean().item(),
        torch.nn.functional.cross_entropy(logits, labels).item(),
    )


def test_given_weights_are_evaluated_when_they_are_adopted_and_never_again(given: Given) -> None:
    _, configuration, data = given
    assert fit.card(fit.teacher_folder(*given)) is not None and read_quality(
        fit.teacher_folder(*given)
    ) == quality(None, _weights(configuration))
    card, (accuracy, nll) = bring(given), expected_metrics(data, "validation")
    assert card["metrics"]["validation/accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert card["metrics"]["validation/nll"] == pytest.approx(nll, abs=1e-5)
    dispatcher_client = LocalDispatcher()
    try:
        tested = evaluate_on_test(*given, dispatcher_client)
    finally:
        dispatcher_client.close(10)
    accuracy, nll = expected_metrics(data, "test")
    assert tested["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert tested["nll"] == pytest.approx(nll, abs=1e-5) and tested["ece"] >= 0
    file = fit.teacher_folder(*given) / CARD
    write_json(file, read_json(file) | {"metrics": {"validation/accuracy": 0.123}})
    assert bring(given)["metrics"] == {"validation/accuracy": 0.123}, (
        "metrics in the card are not computed again"
    )


def test_a_card_of_an_older_version_is_evaluated_when_it_is_next_adopted(given: Given) -> None:
    before = bring(given)
    file = fit.teacher_folder(*given) / CARD
    file.write_text(json.dumps({key: value for key, value in before.items() if key != "metrics"}))
    assert bring(given) == before


def test_logits_that_are_not_finite_are_refused_and_not_kept(given: Given) -> None:
    _, configuration, _ = given
    folder = fit.teacher_folder(*given)
    torch.manual_seed(5)
    network = build("mlp", 10, (1, 8, 8), {"width": 8})
    torch.nn.init.constant_(network.head.weight, 3e38)
    save_weights(network, folder / "weights.safetensors")
    TEACHER.write(
        folder / CARD,
        {**TEACHER.read(folder / CARD), "weights": network_fingerprint(network.state_dict())},
    )
    with refused("teacher.network.weights", _weights(configuration), "weights with finite logits"):
        bring(given)
    assert read_quality(folder) == quality(None, _weights(configuration))


def _weights(configuration: Configuration) -> str:
    assert configuration.teacher is not None and configuration.teacher.network.weights
    return configuration.teacher.network.weights


def _evaluate(rank: int, world_size: int, spec: TrialSpec) -> dict[str, float]:
    records: list[Any] = []
    evaluate_teacher(spec, TrialContext(rank=rank, world_size=world_size, report=records.append))
    assert len(records) == (rank == 0)
    return dict(records[0].metrics) if records else {}


def test_two_workers_find_the_same_neighbours_as_one(given: Given) -> None:
    alone = bring(given)["metrics"]
    found, _ = on_every_rank(
        2, _evaluate, fit.evaluation(fit.teacher_folder(*given), given[1], given[2])
    )
    assert found == pytest.approx(alone, abs=1e-9)
