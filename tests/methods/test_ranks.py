"""Test that every method has the same gradient on ranks as on the global batch.

The labelled samples are distributed unevenly, as in blending and pseudo-labels. The ranks are
simulated sequentially.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods import METHODS, Batch, Method, Mix, Output, Task
from methods.kd_aif import KDAIF
from orchestrator.extensions._checking import list_options

SIZE, WORLD = 12, 3
HARD = {"update": "ssl", "pseudo": "hard", "feedback": 0.5, "threshold": 0.5}
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("akd", {"cam": True, "cam_width": 8, "alpha_schedule": "gap"}),
    ("akd", {"cam": True, "cam_width": 8, "alpha_schedule": "constant"}),
    *(
        ("kd", {"alpha_schedule": "learnable", "alpha_learnable": name})
        for name in ("raw", "entropy", "bayes", "uncertainty")
    ),
    *(
        ("kd", {"alpha_schedule": "gap", "alpha_gap": name})
        for name in ("ratio", "kl", "label", "acc")
    ),
    ("kd_aif", {"update": "ssl", "pseudo": "hard", "threshold": 0.5}),
    ("dual_student", {"w_norm": "mean1", "peer_weight": "1-w"}),
    ("review_kd", {"warmup": 0.0}),
    ("dist", {"temperature": 1.0}),
]
# every option, and blending on every method and every form above
CASES: list[Any] = [
    *(
        (name, option, False)
        for name, kind in METHODS.items()
        for option in list_options(kind.Settings)
    ),
    *((*form, mix) for form in FORMS for mix in (False, True)),
    *((name, {}, True) for name in METHODS),
]


class Ranks:
    """Mean and union over simulated ranks, repeated until each has used the others' values."""

    def __init__(self) -> None:
        self.sent: list[list[Tensor]] = [[] for _ in range(WORLD)]
        self.seen: list[list[Tensor]] = []  # by value and rank
        self.rank = 0

    def mean(self, value: Tensor) -> Tensor:
        seen = self._exchange(value)
        return torch.stack(seen).mean(0) if seen else value

    def gather(self, value: Tensor) -> Tensor:
        return torch.cat(self._exchange(value) or [value] * WORLD)

    def _exchange(self, value: Tensor) -> list[Tensor]:
        place = len(self.sent[self.rank])
        self.sent[self.rank].append(value.detach())
        return self.seen[place] if place < len(self.seen) else []

    def play(self, work: Callable[[int], Tensor]) -> list[Tensor]:
        """Return each rank's result; a rank's second value may depend on the first means."""
        while True:
            done = []
            for self.rank in range(WORLD):
                self.sent[self.rank] = []
                done.append(work(self.rank))
            sent = [list(values) for values in zip(*self.sent, strict=True)]
            if len(sent) == len(self.seen) and all(
                torch.equal(torch.stack(new), torch.stack(old))
                for new, old in zip(sent, self.seen, strict=True)
            ):
                return done
            self.seen = sent


def unevenly_labelled(batch: Batch, mix: bool) -> Batch:
    labels = torch.where(torch.arange(SIZE) < 7, -1, batch.labels)
    partners = torch.where(torch.arange(SIZE) % 5 == 0, batch.labels.roll(1), -1)
    share = torch.rand(SIZE, generator=torch.Generator().manual_seed(2))
    return replace(batch, labels=labels, mix=Mix(partners, share) if mix else None)


def part(batch: Batch, rank: int, mean: Callable[[Tensor], Tensor]) -> Batch:
    """Return a rank's part of a global batch."""
    rows = slice(rank * SIZE // WORLD, (rank + 1) * SIZE // WORLD)

    def cut(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: each[rows] for name, each in value.items()}
        return (
            None
            if value is None
            else type(value)(*(each[rows] for each in value))
            if isinstance(value, tuple)
            else value[rows]
        )

    peers = batch.peers
    part_of_peers = None if peers is None else lambda: peers()[:, rows]
    maps = ("student_maps", "teacher_maps")
    names = ("index", "inputs", "labels", "student", "teacher", "weights", "mix", *maps)
    parts = {name: cut(getattr(batch, name)) for name in names}
    return replace(batch, peers=part_of_peers, mean=mean, ranks=WORLD, **parts)


def without_batch_norm(method: Method) -> Method:
    """Return the method without batch norms, which use the batch of a rank."""
    for module in list(method.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return method


def gradients(loss: Tensor, method: Method, logits: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(
        loss, [logits, *method.parameters()], allow_unused=True, materialize_grads=True
    )
    return list(found)


@pytest.mark.parametrize(("name", "settings", "mix"), CASES)
def test_ranks_follow_together_the_gradient_of_one(
    name: str, settings: dict[str, Any], mix: bool, prepare: Any, make_batch: Any
) -> None:
    batch = unevenly_labelled(
        make_batch(prepare(name, **settings), SIZE), mix and not issubclass(METHODS[name], KDAIF)
    )
    logits = batch.student.logits
    method = without_batch_norm(prepare(name, **settings))
    objective = method(batch)
    expected = gradients(objective.loss, method, logits)
    ranks, terms = Ranks(), dict[str, list[Tensor]]()

    def work(rank: int) -> Tensor:
        mine = without_batch_norm(prepare(name, **settings))
        for module in mine.modules():  # modules that use the task's mean
            if isinstance(getattr(module, "task", None), Task):
                module.task = replace(module.task, mean=ranks.mean, gather=ranks.gather)  # type: ignore[type-var, assignment]
        found = mine(part(batch, rank, ranks.mean))
        terms[str(rank)] = [value.detach() for value in found.terms.values()]
        return torch.cat([value.flatten() for value in gradients(found.loss, mine, logits)])

    found = torch.stack(ranks.play(work)).mean(0)
    torch.testing.assert_close(
        found, torch.cat([value.flatten() for value in expected]), rtol=1e-4, atol=1e-6
    )
    tracked = torch.stack([torch.stack(values) for values in terms.values()]).mean(0)
    torch.testing.assert_close(
        tracked, torch.stack(list(objective.terms.values())), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("settings", [{}, HARD], ids=["labels", "pseudo"])
def test_ranks_update_the_teacher_as_one_does(
    settings: dict[str, Any], prepare: Any, make_batch: Any
) -> None:
    method = prepare("kd_aif", **settings)
    batch, ranks = unevenly_labelled(make_batch(method, SIZE), mix=False), Ranks()
    logits = batch.student.logits
    expected = gradients(method.teacher_loss(batch, 0.7), method, logits)
    found = ranks.play(
        lambda rank: gradients(
            method.teacher_loss(part(batch, rank, ranks.mean), 0.7), method, logits
        )[0]
    )
    torch.testing.assert_close(torch.stack(found).mean(0), expected[0])


def test_mean_over_no_samples_is_zero() -> None:
    empty = torch.zeros(3)
    batch = Batch(
        torch.arange(3), empty, torch.full((3,), -1), Output(torch.zeros(3, 2), torch.zeros(3, 2))
    )
    assert (
        batch.mean_over(empty, empty).item()
        == batch.cross_entropy().item()
        == batch.labelled.item()
        == 0
    )


def test_all_labelled_batches_need_no_communication(make_batch: Any, prepare: Any) -> None:
    def refuse(value: Tensor) -> Tensor:
        raise AssertionError("a step of labelled samples needs no communication")

    batch = make_batch(prepare("cross_entropy"))
    torch.testing.assert_close(
        replace(batch, mean=refuse, all_labelled=True).cross_entropy(), batch.cross_entropy()
    )
    assert Task(2, 3, 1).mean(torch.ones(())) == 1
