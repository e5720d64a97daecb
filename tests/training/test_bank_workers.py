"""Test banks that several processes fill (gloo): all equal that of one process."""

from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from remembering import METHODS_WITH_IT, SMALL, Remembering, brute_force
from torch import Tensor
from trials_run import specification, untimed

from methods import METHODS, Knowledge
from orchestrator.cluster._pair import Pair
from orchestrator.core.context import TrialContext
from orchestrator.training._trainer import train
from orchestrator.training.capabilities import _student_bank as bank
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
# 141 is odd
COMMON = (*SMALL, "data.limit.train=141", "student.name=mlp", "student.width=8", "method.queue=70")
PEER = ("method.source=peers", "peers.b.network.name=mlp", "peers.b.network.width=6")
FILLS = ("epoch", "ema", "momentum")
LABELLED = ("data.labelled=40", "data.labelled_share=0.5", "method.fill=momentum")
OWN = {fill: (*COMMON, f"method.fill={fill}") for fill in FILLS}
PEERS = {f"peers-{fill}": (*COMMON, *PEER, f"method.fill={fill}") for fill in FILLS}
STOPPED = {f"stopped-{name}": {**OWN, **PEERS}[name] for name in ("momentum", "peers-ema")}
TRIALS = {**OWN, **PEERS, **STOPPED, "labelled": (*COMMON, *LABELLED)}


def trials(rank: int, world_size: int, root: str, names: list[str]) -> dict[str, list[Any]]:
    """Return each trial's metrics and bank updates at this rank; one is stopped and resumed."""
    found = {}
    with patch.dict(METHODS, METHODS_WITH_IT), patch.object(bank, "nearest", brute_force):
        for name in names:
            records: list[Any] = []
            Remembering.bank_updates.clear()
            spec = specification(Path(root), f"{name}-{world_size}", *TRIALS[name]).model_copy(
                update={"teacher": None}
            )
            for stop_requested in (
                (lambda done=records: len(done) == 2, lambda: False)
                if "stopped" in name
                else (lambda: False,)
            ):
                train(
                    spec,
                    TrialContext(rank, world_size, CPU, records.append, stop_requested, pair=Pair),
                )
            found[name] = [
                [record.metrics for record in records],
                [bank_content(each) for each in Remembering.bank_updates],
            ]
    return found


def bank_content(knowledge: Knowledge) -> dict[str, Tensor]:
    """Return everything that a method can read from the bank."""
    assert knowledge.features is not None and knowledge.members is not None
    neighbours = knowledge.neighbours(2, 3)._asdict()
    tables = {name: value for name, value in neighbours.items() if isinstance(value, Tensor)}
    return {
        "logits": knowledge.logits,
        "features": knowledge.features,
        "members": knowledge.members,
        **tables,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("banks")
    for pairs in (COMMON, TRIALS["labelled"]):
        specification(folder, "prepared", *pairs)
    return str(folder)


@cache
def of_one(root: str, *names: str) -> dict[str, list[Any]]:
    return trials(0, 1, root, list(names))


@pytest.fixture(scope="module")
def of_two(root: str) -> list[dict[str, list[Any]]]:
    """Return the results of all trials with two workers."""
    return on_every_rank(2, trials, root, list(TRIALS))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", [*OWN, "labelled"])
def test_replicas_have_bit_identical_banks(of_two: list[dict[str, list[Any]]], name: str) -> None:
    first, second = (of_rank[name][1] for of_rank in of_two)
    assert len(first) == 3 and all(
        same(one, other) for one, other in zip(first, second, strict=True)
    )
    assert len({float(one["logits"].sum()) for one in first}) == 3, (
        "the bank changes after each epoch"
    )


@pytest.mark.parametrize("name", OWN)
def test_two_workers_have_the_bank_of_a_single_worker(
    root: str, of_two: list[dict[str, list[Any]]], name: str
) -> None:
    (theirs, banks), (ours, banks_of_two) = of_one(root, *OWN)[name], of_two[0][name]
    for one, other in zip(banks_of_two, banks, strict=True):
        assert torch.equal(one["members"], other["members"])
        torch.testing.assert_close(one["logits"], other["logits"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one["features"], other["features"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            one["negative_similarity"], other["negative_similarity"], rtol=1e-4, atol=1e-4
        )
    assert len(ours) == 4
    for mine, one_has in zip(ours, theirs, strict=True):
        assert untimed(mine) == pytest.approx(untimed(one_has), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", PEERS)
def test_students_in_separate_workers_have_the_banks_of_colocated_ones(
    root: str, of_two: list[dict[str, list[Any]]], name: str
) -> None:
    together = of_one(root, *PEERS)[name][1]
    for position, of_rank in enumerate(of_two):
        apart = of_rank[name][1]
        assert len(apart) == 3
        assert apart[0]["features"].shape[1] == (6 if position == 0 else 8), (
            "the features are those of the other student"
        )
        for one, other in zip(apart, together[position::2], strict=True):
            assert torch.equal(one["members"], other["members"])
            for table in ("logits", "features", "positive_similarity"):
                torch.testing.assert_close(one[table], other[table], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STOPPED)
def test_resume_with_several_workers_is_bit_identical(
    of_two: list[dict[str, list[Any]]], name: str
) -> None:
    """Stopped in the third epoch: the bank after the second one is published again."""
    for of_rank in of_two:
        broken, whole = of_rank[name], of_rank[name.removeprefix("stopped-")]
        assert all(
            same(one, other)
            for one, other in zip(
                broken[1], [whole[1][place] for place in (0, 1, 1, 2)], strict=True
            )
        )
    found, expected = (of_two[0][each][0] for each in (name, name.removeprefix("stopped-")))
    assert [untimed(each) for each in found[:2] + found[3:]] == [untimed(each) for each in expected]
