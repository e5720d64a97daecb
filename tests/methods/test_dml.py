"""Test deep mutual learning, and peer learning of every method: turns, warm-up, queries."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, Method, Objective, Output, Progress
from methods.capabilities import uses_peers

MUTUAL = [name for name, kind in METHODS.items() if uses_peers(kind(kind.Settings()))]
every_mutual = pytest.mark.parametrize("name", MUTUAL)


def asking(batch: Batch, student: Tensor, *peers: Tensor) -> Batch:
    """Return the batch with the logits of a student and its peers."""
    return replace(
        batch, student=Output(student, batch.student.features), peers=lambda: torch.stack(peers)
    )


def gradient(objective: Objective, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(objective.loss, logits)
    return found


def draw(seed: int, size: int = 8) -> Tensor:
    logits = 3 * torch.randn(
        size, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return logits.requires_grad_()


def progress(epoch: int, epochs: int = 10) -> Progress:
    return Progress(epoch, epochs, {})


def refuses() -> Tensor:
    raise AssertionError("peers must not be read")


def kl(p_logits: Tensor, q_logits: Tensor, temperature: float) -> Tensor:
    """Return D(p_T || q_T) by torch, (B,)."""
    p, q = (
        torch.distributions.Categorical(logits=logits / temperature)
        for logits in (p_logits, q_logits)
    )
    return torch.distributions.kl_divergence(p, q)


def test_the_defaults_are_the_published_ones(prepare: Any, make_batch: Any) -> None:
    settings = METHODS["dml"].Settings()
    assert vars(settings) == {
        "lambda_peer": 1.0,
        "peer_temperature": 1.0,
        "peer_warmup": 0.0,
        "update": "alternating",
        "standardize": False,
    }
    assert METHODS["dml"](settings).updates_alternately
    method, first, second = prepare("dml"), draw(1), draw(2)
    batch = asking(make_batch(method), first, second)
    log_q, p = first.log_softmax(1), second.softmax(1)
    divergence = functional.kl_div(log_q, p, reduction="batchmean")
    hard = functional.cross_entropy(first, batch.labels)
    objective = method(batch)
    torch.testing.assert_close(objective.loss, hard + divergence)
    torch.testing.assert_close(
        objective.terms, {"cross_entropy": hard.detach(), "peer": divergence.detach()}
    )


def test_three_students_use_the_mean_over_two_peers(prepare: Any, make_batch: Any) -> None:
    method = prepare("dml", lambda_peer=0.7, peer_temperature=2.0)
    one, two, three = draw(1), draw(2), draw(3)
    batch = make_batch(method)
    term = 4 * (kl(two, one, 2.0) + kl(three, one, 2.0)).mean() / 2
    expected = functional.cross_entropy(one, batch.labels) + 0.7 * term
    torch.testing.assert_close(method(asking(batch, one, two, three)).loss, expected)
    torch.testing.assert_close(method(asking(batch, one, three, two)).loss, expected)
    pairs = [method(asking(batch, one, other)).loss for other in (two, three)]
    torch.testing.assert_close(torch.stack(pairs).mean(), expected)


@every_mutual
def test_swapping_the_students_swaps_their_losses(name: str, prepare: Any, make_batch: Any) -> None:
    one, two = draw(1), draw(2)
    batch = make_batch(prepare(name))

    def both(first: Tensor, second: Tensor) -> list[float]:
        of_first, of_second = prepare(name), prepare(name)  # each has its own instance
        return [
            of_first(asking(batch, first, second)).loss.item(),
            of_second(asking(batch, second, first)).loss.item(),
        ]

    losses = both(one, two)
    assert losses[0] != losses[1] and both(two, one) == losses[::-1]


@every_mutual
def test_identical_students_have_no_peer_term(name: str, prepare: Any, make_batch: Any) -> None:
    add_peer_term, alone = prepare(name), prepare(name, lambda_peer=0.0)
    logits = draw(1)
    # a shift of the logits has no effect
    batch = asking(make_batch(add_peer_term), logits, logits, logits + 5.0)
    found, expected = add_peer_term(batch), alone(batch)
    assert abs(found.terms["peer"]) < 1e-12
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(
        gradient(found, logits), gradient(expected, logits), rtol=0, atol=1e-12
    )


@every_mutual
@pytest.mark.parametrize("settings", [{}, {"peer_temperature": 3.0, "lambda_peer": 0.4}])
def test_gradient_is_that_of_finite_differences(
    name: str, settings: dict[str, Any], prepare: Any, make_batch: Any
) -> None:
    method = prepare(name, **settings)
    batch, two, three = make_batch(method), draw(2, 4), draw(3, 4)
    teacher = batch.teacher and Output(draw(4, 4).detach(), batch.teacher.features[:4])
    few = replace(batch, labels=batch.labels[:4], teacher=teacher)
    assert torch.autograd.gradcheck(
        lambda one: method(asking(few, one, two, three)).loss, (draw(1, 4),)
    )


@every_mutual
def test_gradient_of_the_peers_term_is_the_difference_of_the_probabilities(
    name: str, prepare: Any, make_batch: Any
) -> None:
    """T^2 d/dz D(p_T || q_T) = T (q_T - p_T), means over batch and peers."""
    add_peer_term, alone = (
        prepare(name, lambda_peer=0.5, peer_temperature=2.0),
        prepare(name, lambda_peer=0.0),
    )
    one, two, three = draw(1), draw(2), draw(3)
    batch = asking(make_batch(add_peer_term), one, two, three)
    found = gradient(add_peer_term(batch), one) - gradient(alone(batch), one)
    q, first, second = ((logits.detach() / 2).softmax(1) for logits in (one, two, three))
    torch.testing.assert_close(found, 0.5 * 2 * (q - (first + second) / 2) / 8)


@every_mutual
def test_a_peer_gets_no_gradient_of_another_students_loss(
    name: str, prepare: Any, make_batch: Any
) -> None:
    one, two = draw(1), draw(2)
    method = prepare(name)
    _, of_two = torch.autograd.grad(
        method(asking(make_batch(method), one, two)).loss, (one, two), materialize_grads=True
    )
    assert torch.equal(of_two, torch.zeros_like(two))


@every_mutual
def test_zero_weight_reads_no_peers_and_trains_on_labels(
    name: str, prepare: Any, make_batch: Any
) -> None:
    logits, found = draw(1), []
    for settings in ({"lambda_peer": 0.0}, {"peer_warmup": 0.5}):
        method = prepare(name, **settings)
        batch = replace(asking(make_batch(method), logits), peers=refuses)
        for given in (batch, replace(batch, peers=None)):
            objective = method(given)
            assert objective.terms["peer"] == 0
            found.append(gradient(objective, logits))
    assert all(torch.equal(one, found[0]) for one in found)


@every_mutual
def test_the_same_terms_are_tracked_at_every_step(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name, peer_warmup=0.5)
    silent = method(make_batch(method)).terms
    method.end_epoch(progress(1))
    used = method(make_batch(method)).terms
    assert list(silent) == list(used)
    assert silent["peer"] == 0 and used["peer"] > 0
    assert all(
        value.dtype == used[name].dtype and value.shape == () for name, value in silent.items()
    )


def weight(method: Method, silent: Method, batch: Batch) -> float:
    """Return the measured weight of the peers' term: the loss's excess over that without peers."""
    objective = method(batch)
    term = objective.terms["peer"].item()
    return (objective.loss - silent(batch).loss).item() / term if term else 0.0


@every_mutual
@pytest.mark.parametrize(
    ("warmup", "planned"),
    [
        (0.4, [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (1.0, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0.0, [1.0] * 10),
        (0.05, [0.0, *[1.0] * 9]),
    ],
)
def test_the_weight_grows_linearly_over_its_share_of_the_epochs(
    name: str, warmup: float, planned: list[float], prepare: Any, make_batch: Any
) -> None:
    method, silent = (
        prepare(name, lambda_peer=0.6, peer_warmup=warmup),
        prepare(name, lambda_peer=0.0),
    )
    batch = asking(make_batch(method), draw(1), draw(2))
    for epoch, share in enumerate(planned, start=1):
        assert weight(method, silent, batch) == pytest.approx(0.6 * share, abs=1e-9)
        assert method.end_epoch(progress(epoch))["peer_weight"] == pytest.approx(0.6 * share)


@every_mutual
@pytest.mark.parametrize("epoch", [1, 2, 3, 7])
def test_resume_continues_the_warmup(name: str, epoch: int, prepare: Any, make_batch: Any) -> None:
    whole, resumed = (prepare(name, peer_warmup=0.5) for _ in range(2))
    batch = asking(make_batch(whole), draw(1), draw(2))
    for finished in range(1, epoch + 1):
        whole(batch)
        whole.end_epoch(progress(finished))
    assert set(resumed.end_epoch(progress(epoch))) == {"peer_weight"}  # nothing was counted
    assert torch.equal(resumed(batch).loss, whole(batch).loss)
    assert resumed.state_dict() == {}


@every_mutual
def test_updates_alternate_only_if_peers_are_used(name: str, prepare: Any) -> None:
    assert prepare(name, update="alternating").updates_alternately
    assert not prepare(name, update="simultaneous").updates_alternately
    assert not prepare(name, update="alternating", lambda_peer=0.0).updates_alternately


@every_mutual
def test_peers_are_read_once_and_last(
    name: str, prepare: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terms without peers are computed before, while the peers' logits may be in transit."""
    method = prepare(name)
    batch = make_batch(method)
    happened: list[str] = []

    def noting(what: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(*arguments: Any) -> Tensor:
            happened.append(what)
            return function(*arguments)

        return noted

    used = replace(batch, peers=noting("peers", batch.peers))
    monkeypatch.setattr(Batch, "cross_entropy", noting("labels", Batch.cross_entropy))
    monkeypatch.setattr(
        Batch, "teacher_logits", property(noting("teacher", lambda batch: batch.teacher.logits))
    )
    method(used)
    assert happened.count("peers") == 1 and happened[-1] == "peers"
    assert set(happened) == {"labels", "peers"} | ({"teacher"} if method.needs.teacher else set())


def test_dml_is_cross_entropy_without_its_peers(prepare: Any, make_batch: Any) -> None:
    alone, plain = prepare("dml", lambda_peer=0.0), prepare("cross_entropy")
    batch = make_batch(alone)
    first, second = alone(batch), plain(batch)
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(
        gradient(first, batch.student.logits), gradient(second, batch.student.logits)
    )
