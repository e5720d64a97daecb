"""Test trials with several teachers: their average, caches, learned weights and resumes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from several_teachers import several, single
from torch import Tensor
from trials_run import left, records_of, untimed

from orchestrator.core.context import TrialContext
from orchestrator.data.dataset import Dataset
from orchestrator.teacher._shared_pass import SharedPass
from orchestrator.teacher.ensemble import FrozenEnsemble
from orchestrator.training.capabilities import teacher_weights
from orchestrator.training.process_cache import load_teacher, open_batches

EXACT = "teacher.dtype=float32"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with data and two teachers."""
    for number in range(2):
        single(tmp_path, "unused", number)
    return tmp_path


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_teacher_with_all_the_weight_is_that_teacher_alone(root: Path) -> None:
    alone = single(root, "alone", 1, EXACT)
    records_of(alone)
    both = several(root, "both", "ensemble.fixed=[0, 1]")
    records = records_of(both)
    assert same(left(alone), left(both))
    assert records[-1].metrics["ensemble/weight_1"] == 1


@pytest.mark.parametrize("kind", ["fixed", "confidence", "entropy", "learned"])
def test_the_cached_average_is_that_of_the_online_teachers(root: Path, kind: str) -> None:
    cached = several(root, "cached", f"ensemble.weights={kind}")
    online = several(root, "online", f"ensemble.weights={kind}", modes="online")
    found, expected = (untimed(records_of(spec)[-1].metrics) for spec in (cached, online))
    assert same(left(cached), left(online)) and found == expected
    weights = [found["ensemble/weight_0"], found["ensemble/weight_1"]]
    assert sum(weights) == pytest.approx(1) and (weights[0] == 0.5) == (kind == "fixed")


def test_each_teacher_has_one_cache_which_single_teachers_share(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: Counter[str] = Counter()
    compute = SharedPass._compute

    def counted(self: SharedPass, *given: Any) -> None:
        passes[self.teacher.fingerprint] += 1
        compute(self, *given)

    monkeypatch.setattr(SharedPass, "_compute", counted)
    records_of(single(root, "alone", 0, EXACT))
    (first,) = passes
    assert passes[first] == 2  # views
    folders = {file.parent for file in (root / "knowledge").glob("*/view-*.npy")}
    records = records_of(several(root, "both"))
    assert sorted(passes.values()) == [2, 2] and len(passes) == 2
    assert records[0].metrics["cache/hits"] == 1 and records[0].metrics["cache/misses"] == 1
    records_of(several(root, "again", "ensemble.weights=learned"))
    records_of(single(root, "other", 1, EXACT))
    assert sum(passes.values()) == 4
    now = {file.parent for file in (root / "knowledge").glob("*/view-*.npy")}
    assert folders < now and len(now) == 2  # none for the average


@pytest.mark.parametrize("kind", ["confidence", "learned"])
def test_a_resumed_trial_has_the_same_bits(root: Path, kind: str) -> None:
    whole, interrupted = (
        several(root, name, f"ensemble.weights={kind}") for name in ("whole", "interrupted")
    )
    expected = records_of(whole)
    records_of(interrupted, dies_after=1)
    found = records_of(interrupted)
    assert same(left(whole), left(interrupted))
    assert untimed(found[-1].metrics) == untimed(expected[-1].metrics)
    assert ("ensemble.safetensors/logits" in left(whole)) == (kind == "learned")


def test_learned_weights_approach_the_optimum_of_the_validation_part(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = several(root, "learned", "ensemble.weights=learned", "ensemble.learning_rate=0.5")
    labels = torch.from_numpy(Dataset.open(spec.data).validation.labels)
    noise = torch.randn(2, len(labels), 10, generator=torch.Generator().manual_seed(1))
    strength = torch.tensor([1.0, 2.0])[:, None, None]  # both know something, one knows more
    logits = 2 * noise + strength * torch.nn.functional.one_hot(labels, 10)
    monkeypatch.setattr(teacher_weights, "compute_validation_logits", lambda *_: list(logits))
    recipe = {"epochs": 8, "batch_size": 8}
    training = spec.configuration.training.model_copy(update=recipe)
    configuration = spec.configuration.model_copy(update={"training": training})
    spec = spec.model_copy(update={"configuration": configuration})
    learned = records_of(spec)[-1].metrics["ensemble/weight_1"]

    def loss(weight: float) -> float:
        pooled = (1 - weight) * logits[0] + weight * logits[1]
        return float(torch.nn.functional.cross_entropy(pooled, labels))

    best = min((number / 200 for number in range(201)), key=loss)
    assert 0.55 < best < 0.9  # neither teacher alone, nor their mean
    assert abs(learned - best) < 0.1


def test_the_accuracy_is_that_of_the_averaged_logits(root: Path) -> None:
    spec = several(root, "measured", "ensemble.fixed=[1, 3]")
    metrics, context = records_of(spec)[-1].metrics, TrialContext()
    ensemble, batches = load_teacher(spec, context), open_batches(spec, context)
    assert isinstance(ensemble, FrozenEnsemble)
    inputs = [batch.inputs for batch in batches.iterate_in_order("validation")]
    first, second = (
        torch.cat([teacher(each).logits for each in inputs]) for teacher in ensemble.teachers
    )
    batches.close()
    labels = torch.from_numpy(Dataset.open(spec.data).validation.labels)
    right = (0.25 * first + 0.75 * second).argmax(dim=1) == labels
    assert metrics["ensemble/accuracy"] == pytest.approx(float(right.double().mean()))


def test_equal_teachers_keep_equal_weights(root: Path) -> None:
    spec = several(root, "equal", "ensemble.weights=learned")
    spec = spec.model_copy(update={"teachers": (root / "teacher-0", root / "teacher-0")})
    metrics = records_of(spec)[-1].metrics
    assert metrics["ensemble/weight_0"] == pytest.approx(0.5)
    alone = single(root, "alone", 0, EXACT)
    records_of(alone)
    weights = {key: value for key, value in left(spec).items() if "student" in key}
    other = left(alone)
    assert all(torch.allclose(value, other[key], atol=1e-6) for key, value in weights.items())
