"""Compare CRD with loops over samples, closed forms and finite differences."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import Batch, Output, Progress, SettingsError, Task
from methods.contrast_draws import ContrastDraws, uniform_numbers
from methods.crd import CRD
from tests.methods.test_ranks import Ranks
from tests.refusal import refused

SAMPLES, SIZE, CLASSES, FEATURES = 20, 6, 4, (3, 5)
LABELS = torch.arange(SAMPLES) % CLASSES
MASK = 2**64 - 1


def prepared(labels: Tensor = LABELS, task: dict[str, Any] | None = None, **settings: Any) -> CRD:
    """Return a method in float64 with embeddings of length 4."""
    torch.manual_seed(3)
    method = CRD(CRD.Settings.build({"width": 4, "negatives": 7, **settings}))
    sizes: dict[str, Any] = {"student_features": FEATURES[0], "teacher_features": FEATURES[1]}
    method.prepare(None, Task(CLASSES, len(labels), 3, labels=labels, **sizes, **(task or {})))
    return method.double()


def batch_of(index: Tensor, seed: int = 0) -> Batch:
    """Return a batch in which the features of a sample depend on its index and the seed."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        torch.randn(SAMPLES, size, generator=generator, dtype=torch.float64)[index]
        for size in FEATURES
    )
    logits = torch.zeros(len(index), CLASSES, dtype=torch.float64)
    outputs = Output(logits, student.requires_grad_()), Output(logits, teacher)
    return Batch(index, logits, LABELS[index], *outputs)


def embedded(method: CRD, batch: Batch) -> list[Tensor]:
    """Return the embeddings (B, width) of student and teacher."""
    assert batch.teacher is not None
    found = []
    for linear, features in (
        (method.student_map, batch.student.features),
        (method.teacher_map, batch.teacher.features),
    ):
        raw = features @ linear.weight.T + linear.bias
        found.append(raw / raw.square().sum(1, keepdim=True).sqrt())
    return found


@pytest.mark.parametrize("settings", [{}, {"nce_temperature": 0.5, "positive": "relax"}])
def test_loss_equals_a_loop_over_samples(settings: dict[str, Any]) -> None:
    method, index = prepared(**settings), torch.tensor([0, 5, 3, 12, 19, 8])
    batch, tau = batch_of(index), method.settings.nce_temperature
    contrast, banks = method.draws.draw(index).tolist(), method.banks.clone()
    total = 0.0
    for own, embeddings in enumerate(each.detach() for each in embedded(method, batch)):
        weights = [
            [math.exp(float(embeddings[i] @ banks[1 - own, j]) / tau) for j in contrast[i]]
            for i in range(SIZE)
        ]
        z = SAMPLES * sum(map(sum, weights)) / (SIZE * 8)
        for positive, *negatives in weights:
            noise = 7 / SAMPLES  # N / n
            total -= math.log(positive / z / (positive / z + noise)) / SIZE
            total -= sum(math.log(noise / (each / z + noise)) for each in negatives) / SIZE
    assert method.feature_term(batch).item() == pytest.approx(total, rel=1e-9)


def test_gradient_equals_finite_differences() -> None:
    method, batch = prepared(nce_temperature=0.3), batch_of(torch.arange(SIZE))
    method.feature_term(batch)
    method.end_epoch(Progress(1, 3, {}))  # with a Z that later batches do not change
    start = copy.deepcopy(method)
    torch.autograd.backward(method.feature_term(batch))

    def change(values: Tensor, read: Any, place: tuple[int, int], step: float) -> float:
        moved = copy.deepcopy(start)
        features = batch.student.features.detach().clone()
        changed = replace(batch, student=Output(batch.student.logits, features))
        with torch.no_grad():
            read(moved, features)[place] += step
        return moved.feature_term(changed).item()

    for values, read in (
        (batch.student.features, lambda moved, features: features),
        (method.student_map.weight, lambda moved, features: moved.student_map.weight),
        (method.teacher_map.weight, lambda moved, features: moved.teacher_map.weight),
    ):
        assert values.grad is not None
        for place in ((0, 1), (2, 0)):
            slope = change(values, read, place, 1e-6) - change(values, read, place, -1e-6)
            assert values.grad[place].item() == pytest.approx(slope / 2e-6, rel=1e-5, abs=1e-7)


def test_banks_blend_the_embeddings_of_a_step_after_it() -> None:
    method, index = prepared(momentum=0.25), torch.tensor([4, 9, 1, 0, 17, 6])
    batch, before = batch_of(index), method.banks.clone()
    expected = before.clone()
    for bank, embeddings in zip(expected, embedded(method, batch), strict=True):
        for row, sample in enumerate(index.tolist()):
            blended = 0.25 * bank[sample] + 0.75 * embeddings[row].detach()
            bank[sample] = blended / blended.norm()
    torch.autograd.backward(method.feature_term(batch))
    assert torch.equal(method.banks, before)
    method.end_epoch(Progress(1, 3, {}))
    torch.testing.assert_close(method.banks, expected)
    assert method.stepped is None
    method.end_epoch(Progress(1, 3, {}))
    torch.testing.assert_close(method.banks, expected)


def test_next_step_uses_the_blended_banks() -> None:
    stepped, ended = prepared(), prepared()
    first, second = batch_of(torch.arange(SIZE)), batch_of(torch.arange(SIZE), seed=1)
    for method in (stepped, ended):
        method.feature_term(first)
    ended._update_banks()
    assert torch.equal(stepped.feature_term(second), ended.feature_term(second))
    assert not torch.equal(stepped.banks, prepared().banks)


def test_sample_that_is_drawn_twice_keeps_its_last_embedding() -> None:
    method, batch = prepared(momentum=0.0), batch_of(torch.tensor([2, 7, 2, 3, 3, 3]))
    noise = torch.arange(SIZE, dtype=torch.float64)[:, None]
    batch = replace(
        batch, student=Output(batch.student.logits, batch.student.features.detach() + noise)
    )
    method.feature_term(batch)
    method._update_banks()
    expected = embedded(method, batch)[0].detach()
    torch.testing.assert_close(method.banks[0, [2, 7, 3]], expected[[2, 1, 5]])


def test_z_is_that_of_the_first_batch() -> None:
    method = prepared()
    assert bool(method.log_z.isnan().all())
    batch, banks = batch_of(torch.arange(SIZE)), method.banks
    contrast = method.draws.draw(batch.index)
    expected = [
        SAMPLES
        * torch.stack(
            [(bank[contrast[i]] @ each[i] / 0.07).exp().mean() for i in range(SIZE)]
        ).mean()
        for each, bank in zip(embedded(method, batch), reversed(banks), strict=True)
    ]
    method.feature_term(batch)
    torch.testing.assert_close(method.log_z.exp(), torch.stack(expected).detach())
    first = method.log_z.clone()
    method.feature_term(batch_of(torch.arange(SIZE), seed=5))
    method.end_epoch(Progress(1, 3, {}))
    method.feature_term(batch_of(torch.arange(SIZE), seed=6))
    assert torch.equal(method.log_z, first)


def test_ranks_keep_the_z_and_the_banks_of_one() -> None:
    index, ranks = torch.tensor([3, 8, 0, 11, 19, 6]), Ranks()
    single, later = prepared(), index.flip(0)
    expected = [single.feature_term(batch_of(each)) for each in (index, later)]
    single._update_banks()
    kept: dict[int, CRD] = {}

    def work(rank: int) -> Tensor:
        mine = prepared(task={"mean": ranks.mean, "gather": ranks.gather})
        part = slice(2 * rank, 2 * rank + 2)
        found = [mine.feature_term(batch_of(each[part])) for each in (index, later)]
        mine._update_banks()
        kept[rank] = mine
        return torch.stack(found).detach()

    found = torch.stack(ranks.play(work)).mean(0)
    torch.testing.assert_close(found, torch.stack(expected).detach())
    for mine in kept.values():
        torch.testing.assert_close(mine.log_z, single.log_z)
        torch.testing.assert_close(mine.banks, single.banks)
        assert torch.equal(mine.banks, kept[0].banks)


def test_resumed_method_continues_as_the_whole_one() -> None:
    whole = prepared()
    batches = [batch_of(torch.arange(SIZE) + epoch, seed=epoch) for epoch in range(3)]
    for epoch in (0, 1):
        whole.feature_term(batches[epoch])
        whole.end_epoch(Progress(epoch + 1, 3, {}))
    torch.manual_seed(9)
    resumed = prepared()
    resumed.load_state_dict(whole.state_dict())
    resumed.end_epoch(Progress(2, 3, {}))
    assert torch.equal(resumed.feature_term(batches[2]), whole.feature_term(batches[2]))
    assert set(whole.state_dict()) - {name for name, _ in whole.named_parameters()} == {
        "banks",
        "log_z",
        "draws.key",
    }


def drawn(
    labels: Tensor, negatives: int, index: Tensor, epoch: int = 0, same_class: bool = False
) -> Tensor:
    torch.manual_seed(5)
    draws = ContrastDraws(labels, negatives, same_class)
    draws.epoch.fill_(epoch)
    return draws.draw(index)


def test_negatives_have_other_classes_and_the_positive_is_the_sample() -> None:
    everything = torch.arange(SAMPLES)
    found = drawn(LABELS, 15, everything)
    assert torch.equal(found[:, 0], everything)
    assert bool((LABELS[found[:, 1:]] != LABELS[:, None]).all())
    for row in found[:, 1:]:  # 15 strata of the 15 samples of other classes
        assert len(set(row.tolist())) == 15


def test_fewer_samples_than_negatives_repeat_evenly() -> None:
    for row, label in zip(drawn(LABELS, 45, torch.arange(SAMPLES)), LABELS, strict=True):
        counts = torch.bincount(row[1:], minlength=SAMPLES)
        assert torch.equal(counts, torch.where(label == LABELS, 0, 3))


def test_every_sample_of_another_class_is_drawn_equally_often() -> None:
    counts = torch.zeros(SAMPLES)
    epochs = 600
    for epoch in range(epochs):
        counts += torch.bincount(drawn(LABELS, 4, torch.tensor([6]), epoch)[0, 1:], minlength=20)
    expected = epochs * 4 / 15
    others = counts[LABELS[6] != LABELS]
    assert float((others - expected).abs().max()) < 5 * math.sqrt(expected)


def test_relaxed_positive_is_any_sample_of_the_class() -> None:
    seen: set[int] = set()
    for epoch in range(60):
        seen.add(int(drawn(LABELS, 3, torch.tensor([6]), epoch, same_class=True)[0, 0]))
    assert seen == set(torch.nonzero(LABELS[6] == LABELS).flatten().tolist())


def test_draws_depend_on_epoch_and_sample_alone() -> None:
    index = torch.tensor([3, 14, 8])
    found = drawn(LABELS, 9, index)
    for row, sample in zip(found, index, strict=True):
        assert torch.equal(drawn(LABELS, 9, sample[None])[0], row)
    assert torch.equal(drawn(LABELS, 9, index), found)
    assert not torch.equal(drawn(LABELS, 9, index, epoch=1), found)


@pytest.mark.parametrize("same_class", [False, True])
def test_unlabelled_samples_and_single_ones_are_classes_of_their_own(same_class: bool) -> None:
    labels = torch.tensor([0, -1, 1, -1, 0, 2])  # 1 and 2 have one sample
    for sample in (1, 2, 3, 5):
        found = drawn(labels, 5, torch.tensor([sample]), same_class=same_class)[0].tolist()
        assert found[0] == sample and set(found[1:]) == set(range(6)) - {sample}
    found = drawn(labels, 4, torch.tensor([0]), same_class=same_class)[0].tolist()
    assert found[0] in ((0, 4) if same_class else (0,)) and set(found[1:]) == {1, 2, 3, 5}


def test_numbers_are_those_of_splitmix64() -> None:
    def reference(state: int) -> list[float]:
        numbers = []
        for _ in range(4):
            state = (state + 0x9E3779B97F4A7C15) & MASK
            z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            numbers.append(((z ^ (z >> 31)) >> 11) / 2**53)
        return numbers

    keys = [0, 1234567, -1, -(2**63), 2**63 - 1]
    expected = torch.tensor([reference(key & MASK) for key in keys], dtype=torch.float64)
    assert torch.equal(uniform_numbers(torch.tensor(keys), 4), expected)


def test_data_of_one_class_are_refused() -> None:
    with refused("negatives", 7, "data with samples of two classes", error=SettingsError):
        prepared(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels"):
        CRD(CRD.Settings()).prepare(None, Task(CLASSES, SAMPLES, 3))
