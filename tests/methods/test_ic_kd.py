"""Test IC-KD against formulas written out by hand, and their invariants."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, Knowledge, Output, SettingsError, Task, bank, contrastive
from methods.capabilities import uses_teacher_bank
from methods.ic_kd import ICKD
from methods.retrieval import Neighbours, nearest
from tests.refusal import refused

CLASSES, SAMPLES, FEATURES, SIZE = 5, 30, 4, 8
TASK = Task(classes=CLASSES, samples=SAMPLES, epochs=10)
EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).float()


@pytest.fixture
def knowledge() -> Knowledge:
    return Knowledge(
        3 * draw(SAMPLES, CLASSES, seed=1),
        draw(SAMPLES, FEATURES, seed=2),
        torch.arange(SAMPLES) % CLASSES,
    )


def method(known: Knowledge | None = None, **settings: Any) -> ICKD:
    found = ICKD(ICKD.Settings.build(settings))
    found.prepare(None, TASK)
    if known and uses_teacher_bank(found, TASK.epochs):
        found.update_bank(known)
    return found


def batch(known: Knowledge, **parts: Any) -> Batch:
    index = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3))[:SIZE]
    student = Output(2 * draw(SIZE, CLASSES, seed=4).requires_grad_(), draw(SIZE, 3))
    teacher = Output(known.logits[index], draw(SIZE, 3))
    return replace(Batch(index, draw(SIZE, 2), known.labels[index], student, teacher), **parts)


def by_hand(known: Knowledge, i: int, k: int, tau: float) -> tuple[list[int], list[float]]:
    """Return the positives of sample i and their weights, by a loop over all pairs."""
    unit = [row / row.norm() for row in known.features.double()]  # type: ignore[union-attr]
    sims = {
        j: float(unit[i] @ unit[j])
        for j in range(SAMPLES)
        if j != i and known.labels[j] == known.labels[i]
    }
    best = sorted(sims, key=lambda j: -sims[j])[:k]
    powers = [math.exp(sims[j] / tau) for j in best]
    return best, [power / sum(powers) for power in powers]


def negatives_by_hand(known: Knowledge, i: int, k: int) -> list[int]:
    unit = [row / row.norm() for row in known.features.double()]  # type: ignore[union-attr]
    sims = {
        j: float(unit[i] @ unit[j]) for j in range(SAMPLES) if known.labels[j] != known.labels[i]
    }
    return sorted(sims, key=lambda j: -sims[j])[:k]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum()


def kd_of(seen: Batch, **settings: Any) -> Tensor:
    kind = METHODS["kd"]
    found = kind(kind.Settings.build(settings))
    found.prepare(None, TASK)
    return found(seen).loss  # type: ignore[no-any-return]


@pytest.mark.parametrize("aggregate", ["logit", "prob"])
@pytest.mark.parametrize("positives", [1, 3])
def test_objective_equals_a_loop_over_samples(
    knowledge: Knowledge, aggregate: str, positives: int
) -> None:
    alpha, share, weight, tau, temperature, cosine = 0.7, 0.4, 0.3, 0.2, 3.0, 0.5
    chosen = method(
        knowledge,
        alpha=alpha,
        picd=share,
        nicd=weight,
        positives=positives,
        negatives=4,
        retrieval_temperature=tau,
        aggregate=aggregate,
        temperature=temperature,
        nicd_temperature=cosine,
    )
    seen = batch(knowledge)
    logits, z = knowledge.logits.double(), seen.student.logits.detach().double()
    total = 0.0
    for row, i in enumerate(seen.index.tolist()):
        best, weights = by_hand(knowledge, i, positives, tau)
        if aggregate == "logit":
            u = sum(a * logits[j] for a, j in zip(weights, best, strict=True))
        else:
            mean = sum(
                a * (logits[j] / temperature).softmax(0) for a, j in zip(weights, best, strict=True)
            )
            u = temperature * mean.log()  # type: ignore[union-attr]
        assert isinstance(u, Tensor)
        q = (z[row] / temperature).softmax(0)
        own, retrieved = (
            temperature**2 * float(kl((v / temperature).softmax(0), q)) for v in (logits[i], u)
        )

        def c(x: Tensor) -> Tensor:
            return functional.normalize(x - x.mean(), dim=0)

        right = math.exp(float(c(z[row]) @ c(u)) / cosine)
        wrong = sum(
            math.exp(float(c(z[row]) @ c(logits[j])) / cosine)
            for j in negatives_by_hand(knowledge, i, 4)
        )
        hard = -float(z[row].log_softmax(0)[knowledge.labels[i]])
        total += (
            (1 - alpha) * hard
            + alpha * ((1 - share) * own + share * retrieved)
            - weight * math.log(right / (right + wrong))
        )
    assert chosen(seen).loss.item() == pytest.approx(total / SIZE, rel=1e-5)


def test_without_both_terms_equals_kd(knowledge: Knowledge) -> None:
    seen = batch(knowledge)
    plain = method(knowledge, picd=0.0, nicd=0.0, alpha=0.8)
    assert plain.bank_plan(10) is None and plain.bank is None
    torch.testing.assert_close(plain(seen).loss, kd_of(seen, alpha=0.8), **EXACT)


@pytest.mark.parametrize("aggregate", ["logit", "prob"])
def test_class_with_equal_logits_equals_kd(knowledge: Knowledge, aggregate: str) -> None:
    one = replace(knowledge, logits=3 * draw(CLASSES, CLASSES)[knowledge.labels])
    seen = batch(one)
    torch.testing.assert_close(
        method(one, picd=0.6, nicd=0.0, aggregate=aggregate)(seen).loss,
        kd_of(seen, alpha=0.9),
        **EXACT,
    )


def test_picd_shares_the_budget_of_kd(knowledge: Knowledge) -> None:
    seen = batch(knowledge)
    ends = [method(knowledge, picd=share, nicd=0.0)(seen).loss for share in (0.0, 1.0)]
    between = method(knowledge, picd=0.25, nicd=0.0)(seen).loss
    torch.testing.assert_close(between, 0.75 * ends[0] + 0.25 * ends[1], **EXACT)


def test_the_mean_of_distributions_has_the_gradient_of_the_mean_of_divergences(
    knowledge: Knowledge,
) -> None:
    temperature, seen = 2.0, batch(knowledge)
    chosen = method(
        knowledge,
        alpha=1.0,
        picd=1.0,
        nicd=0.0,
        positives=3,
        aggregate="prob",
        temperature=temperature,
        retrieval_temperature=0.3,
    )
    (found,) = torch.autograd.grad(chosen(seen).loss, seen.student.logits)
    apart = torch.zeros(())
    for row, i in enumerate(seen.index.tolist()):
        best, weights = by_hand(knowledge, i, 3, 0.3)
        q = (seen.student.logits[row] / temperature).softmax(0)
        for j, a in zip(best, weights, strict=True):
            apart = (
                apart
                + temperature**2 * a * kl((knowledge.logits[j] / temperature).softmax(0), q) / SIZE
            )
    (expected,) = torch.autograd.grad(apart, seen.student.logits)
    torch.testing.assert_close(found, expected, **EXACT)
    assert apart.item() > chosen(seen).loss.item(), "by Jensen's inequality"


def test_it_is_a_learned_label_smoothing(knowledge: Knowledge) -> None:
    """(1 - alpha) H(e_y, q) + alpha H(u, q) = H((1 - alpha) e_y + alpha u, q)."""
    alpha, seen = 0.3, batch(knowledge)
    chosen = method(knowledge, alpha=alpha, picd=1.0, nicd=0.0, temperature=1.0)
    assert chosen.bank is not None
    u = chosen.bank.target(seen.index).softmax(dim=1)
    smoothed = (1 - alpha) * functional.one_hot(seen.labels, CLASSES) + alpha * u
    whole = -(smoothed * seen.student.logits.log_softmax(dim=1)).sum(dim=1).mean()
    entropy = -(u * u.log()).sum(dim=1).mean()
    torch.testing.assert_close(chosen(seen).loss, whole - alpha * entropy, **EXACT)


def nicd(z: Tensor, known: Knowledge, temperature: float = 0.5) -> Tensor:
    chosen = method(known, alpha=0.0, nicd=1.0, nicd_temperature=temperature, negatives=6)
    seen = batch(known, student=Output(z, z))
    value: Tensor = chosen(seen).loss - seen.cross_entropy()
    return value


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nicd_stays_within_its_bounds(knowledge: Knowledge, temperature: float) -> None:
    for seed in range(20):
        value = float(nicd(5 * draw(SIZE, CLASSES, seed=seed), knowledge, temperature))
        assert math.log1p(6 * math.exp(-2 / temperature)) <= value + 1e-4
        assert value <= math.log1p(6 * math.exp(2 / temperature)) + 1e-4


def test_nicd_sees_the_direction_of_the_logits_alone(knowledge: Knowledge) -> None:
    z = 3 * draw(SIZE, CLASSES, seed=9)
    scale, shift = torch.rand(SIZE, 1) + 0.5, torch.randn(SIZE, 1)
    torch.testing.assert_close(
        nicd(scale * z + shift, knowledge), nicd(z, knowledge), rtol=1e-4, atol=1e-5
    )


def test_the_gradient_of_nicd_changes_neither_mean_nor_length(knowledge: Knowledge) -> None:
    z = (3 * draw(SIZE, CLASSES, seed=9)).double().requires_grad_()
    chosen = method(knowledge, nicd=1.0)
    assert chosen.bank is not None
    seen = batch(knowledge)
    directions, present = chosen.bank.negatives(seen.index)
    target = chosen.bank.target(seen.index)
    value = contrastive.info_nce(z, target.double(), directions.double(), present, 0.5).sum()
    (slope,) = torch.autograd.grad(value, z)
    apart = z.detach() - z.detach().mean(dim=1, keepdim=True)
    torch.testing.assert_close(
        slope.sum(dim=1), torch.zeros(SIZE, dtype=torch.float64), rtol=0, atol=1e-8
    )
    torch.testing.assert_close(
        (slope * apart).sum(dim=1), torch.zeros(SIZE, dtype=torch.float64), rtol=0, atol=1e-8
    )
    assert slope.norm() > 0.1


def test_student_with_equal_logits_has_a_bounded_gradient(knowledge: Knowledge) -> None:
    z = torch.zeros(SIZE, CLASSES, requires_grad=True)
    (slope,) = torch.autograd.grad(nicd(z, knowledge), z)
    assert slope.isfinite().all() and slope.abs().max() < 1 / contrastive.LEAST_NORM


def test_the_hinge_is_the_mean_over_the_negatives(knowledge: Knowledge) -> None:
    chosen = method(knowledge, alpha=0.0, nicd=1.0, nicd_loss="hinge", nicd_margin=0.1, negatives=4)
    seen = batch(knowledge)
    total = 0.0
    for row, i in enumerate(seen.index.tolist()):
        for j in negatives_by_hand(knowledge, i, 4):
            pair = [x - x.mean() for x in (seen.student.logits[row].detach(), knowledge.logits[j])]
            total += max(functional.cosine_similarity(pair[0], pair[1], dim=0).item() - 0.1, 0) / (
                4 * SIZE
            )
    assert (chosen(seen).loss - seen.cross_entropy()).item() == pytest.approx(total, abs=1e-5)


def test_own_positive_is_the_samples_own_logits(knowledge: Knowledge) -> None:
    """With one distribution per class both positives are equal; with many they differ."""
    seen, settings = batch(knowledge), {"alpha": 0.0, "nicd": 1.0}
    own, retrieved = (
        method(knowledge, nicd_pos=which, **settings)(seen).loss for which in ("own", "bank")
    )
    assert not torch.allclose(own, retrieved)
    one = replace(knowledge, logits=3 * draw(CLASSES, CLASSES)[knowledge.labels])
    seen = batch(one)
    own, retrieved = (
        method(one, nicd_pos=which, **settings)(seen).loss for which in ("own", "bank")
    )
    torch.testing.assert_close(own, retrieved, **EXACT)


def test_order_of_the_bank_does_not_matter(knowledge: Knowledge) -> None:
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(8))
    assert knowledge.features is not None
    moved = Knowledge(knowledge.logits[order], knowledge.features[order], knowledge.labels[order])
    seen = batch(knowledge)
    elsewhere = replace(seen, index=order.argsort()[seen.index])
    torch.testing.assert_close(method(moved)(elsewhere).loss, method(knowledge)(seen).loss, **EXACT)


@pytest.mark.parametrize("aggregate", ["logit", "prob"])
def test_a_table_that_does_not_fit_is_looked_up_batch_by_batch(
    knowledge: Knowledge, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, fitting = batch(knowledge), method(knowledge, aggregate=aggregate)
    monkeypatch.setattr(bank, "TABLE_BYTES", 0)
    other = method(knowledge, aggregate=aggregate)
    assert (
        other.bank
        and other.bank.targets is None
        and fitting.bank
        and fitting.bank.targets is not None
    )
    torch.testing.assert_close(other(seen).loss, fitting(seen).loss)


def test_a_whole_class_is_all_its_other_samples(knowledge: Knowledge) -> None:
    seen, others = batch(knowledge), SAMPLES // CLASSES - 1
    whole, counted = (method(knowledge, positives=count)(seen).loss for count in (0, others))
    torch.testing.assert_close(whole, counted, **EXACT)


def test_unlabelled_sample_uses_its_own_teacher_logits(knowledge: Knowledge) -> None:
    hidden = replace(knowledge, labels=torch.full((SAMPLES,), -1))
    seen = batch(hidden)
    torch.testing.assert_close(method(hidden, picd=0.7)(seen).loss, kd_of(seen, alpha=0.9), **EXACT)


def test_bank_has_no_gradient(knowledge: Knowledge) -> None:
    logits = knowledge.logits.clone().requires_grad_()
    chosen = method(replace(knowledge, logits=logits))
    chosen(batch(knowledge)).loss.backward()
    assert logits.grad is None and not list(chosen.parameters()) and not list(chosen.buffers())


def test_quality_of_the_bank_is_tracked(knowledge: Knowledge) -> None:
    found = method(knowledge, positives=3, temperature=1.0).end_epoch(None)  # type: ignore[arg-type]
    right = knowledge.logits.argmax(dim=1) == knowledge.labels
    retrieved = [j for i in range(SAMPLES) for j in by_hand(knowledge, i, 3, 1.0)[0]]
    assert found["retrieved_right"] == pytest.approx(
        sum(bool(right[j]) for j in retrieved) / len(retrieved)
    )
    p = knowledge.logits.double().softmax(dim=1)
    assert found["own_entropy"] == pytest.approx(float(-(p * p.log()).sum(dim=1).mean()), rel=1e-5)
    assert found["recall"] == 1.0 and found["target_entropy"] > 0


@pytest.mark.parametrize("shape", [(SAMPLES - 1, CLASSES), (SAMPLES, CLASSES + 1)])
def test_a_bank_of_other_data_is_refused(knowledge: Knowledge, shape: tuple[int, int]) -> None:
    other = Knowledge(
        draw(*shape), draw(shape[0], FEATURES), torch.zeros(shape[0], dtype=torch.long)
    )
    with refused(None, shape, (SAMPLES, CLASSES), error=SettingsError):
        method(other)


def test_only_offline_needs_a_teacher() -> None:
    needs = {each: method(paradigm=each).needs for each in ("offline", "online", "teacher_free")}
    assert {each for each, need in needs.items() if need.teacher} == {"offline"}


def test_teacher_free_without_bank_equals_plain_training(knowledge: Knowledge) -> None:
    chosen, seen = method(paradigm="teacher_free"), batch(knowledge, teacher=None)
    assert torch.equal(chosen(seen).loss, seen.cross_entropy()) and not chosen.end_epoch(None)  # type: ignore[arg-type]


def test_without_a_teacher_the_bank_stands_in_its_place(knowledge: Knowledge) -> None:
    free, taught = method(paradigm="teacher_free"), method(knowledge)
    free.update_bank(knowledge)
    seen = batch(knowledge)  # with the bank's logits as the teacher's
    torch.testing.assert_close(free(replace(seen, teacher=None)).loss, taught(seen).loss)


def batch_with_peers(known: Knowledge) -> tuple[Batch, Tensor]:
    peers = 2 * draw(2, SIZE, CLASSES, seed=11)
    return batch(known, teacher=None, peers=lambda: peers), peers


def test_online_the_peers_stand_in_place_of_the_teacher(knowledge: Knowledge) -> None:
    seen, peers = batch_with_peers(knowledge)
    apart = [kd_of(replace(seen, teacher=Output(peer, peer)), alpha=0.9) for peer in peers]
    chosen = method(paradigm="online")
    torch.testing.assert_close(
        chosen(seen).loss, (apart[0] + apart[1]) / 2, **EXACT
    )  # before the first bank
    chosen.update_bank(knowledge)
    own, retrieved = (method(knowledge, picd=share)(batch(knowledge)).terms for share in (0.0, 1.0))
    terms = chosen(seen).terms
    torch.testing.assert_close(terms["picd"], retrieved["picd"])
    torch.testing.assert_close(terms["nicd"], own["nicd"])


def test_method_without_retrieval_schedules_no_bank() -> None:
    assert method(paradigm="online", picd=0.0, nicd=0.0).bank_plan(10) is None
    assert (
        method(paradigm="teacher_free", picd=0.0, nicd=0.0).bank_plan(10) is not None
    )  # its own target comes from the bank


@pytest.mark.parametrize(
    ("warmup", "epochs", "first"),
    [(0.0, 10, 1), (0.1, 10, 1), (0.3, 10, 3), (0.27, 10, 3), (0.23, 10, 2), (0.1, 2, 1)],
)
def test_banks_are_made_after_the_warmup(warmup: float, epochs: int, first: int) -> None:
    found = method(paradigm="online", warmup=warmup).bank_plan(epochs)
    assert found is not None and found.source == "peers"
    assert [epoch for epoch in range(epochs + 1) if found.is_due(epoch, epochs)] == list(
        range(first, epochs)
    )


@pytest.mark.parametrize(("warmup", "epochs"), [(0.1, 1), (1.0, 10)])
def test_a_warmup_that_never_ends_is_refused(warmup: float, epochs: int) -> None:
    with refused("warmup", warmup, "at least two epochs", error=SettingsError):
        method(paradigm="teacher_free", warmup=warmup).bank_plan(epochs)


# Retrieved samples, and their tracked metrics


@pytest.mark.parametrize("paradigm", ["offline", "online", "teacher_free"])
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, (8, 32)),
        ({"nicd": 0.0}, (8, 0)),
        ({"positives": 0}, (0, 32)),
        ({"picd": 0.0}, (8, 32)),  # InfoNCE has the target as its positive
        ({"picd": 0.0, "nicd_loss": "hinge"}, (0, 32)),
        ({"picd": 0.0, "nicd_pos": "own"}, (0, 32)),
        ({"alpha": 0.0, "nicd_pos": "own"}, (0, 32)),
        ({"picd": 0.0, "nicd": 0.0}, (0, 0)),
    ],
)
def test_only_neighbours_with_weight_are_retrieved(
    knowledge: Knowledge, paradigm: str, settings: dict[str, Any], wanted: tuple[int, int]
) -> None:
    requested = []

    def find(known: Knowledge, positives: int, negatives: int) -> Neighbours:
        assert known.features is not None
        requested.append((positives, negatives))
        return nearest(known.features, known.labels, positives, negatives)

    watched = replace(knowledge, find=find)
    chosen = method(watched, paradigm=paradigm, **settings)
    plan = chosen.bank_plan(10)
    if plan is not None and plan.by_students:
        chosen.update_bank(watched)
    assert (plan.positives, plan.negatives) == wanted if plan else wanted == (0, 0)
    assert requested == [wanted] or (
        requested == [] and wanted == (0, 0) and paradigm != "teacher_free"
    )
    assert chosen(
        batch_with_peers(knowledge)[0] if paradigm == "online" else batch(knowledge)
    ).loss.isfinite()


@pytest.mark.parametrize("limit", [SAMPLES, 4])
def test_entropies_are_those_of_labelled_samples_at_the_temperature(
    knowledge: Knowledge, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "MAX_ENTROPY_SAMPLES", limit)
    temperature, tau = 2.5, 0.2
    known = replace(knowledge, labels=knowledge.labels.where(torch.arange(SAMPLES) % 4 > 0, -1))
    labelled = [i for i in range(SAMPLES) if i % 4]
    some = labelled if limit == SAMPLES else [labelled[place] for place in (0, 7, 14, 21)]
    expected = {"target_entropy": 0.0, "own_entropy": 0.0}
    for i in some:
        best, weights = by_hand(known, i, 3, tau)
        target = [
            sum(a * float(known.logits[j, k]) for a, j in zip(weights, best, strict=True))
            for k in range(CLASSES)
        ]
        for name, logits_of_sample in (
            ("target_entropy", target),
            ("own_entropy", known.logits[i].tolist()),
        ):
            powers = [math.exp(each / temperature) for each in logits_of_sample]
            expected[name] -= sum(
                p / sum(powers) * math.log(p / sum(powers)) for p in powers
            ) / len(some)
    found = method(
        known, positives=3, temperature=temperature, retrieval_temperature=tau
    ).end_epoch(None)  # type: ignore[arg-type]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
