"""Test that neighbours are searched once, cached by all inputs, and equal to a search by hand."""

import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import Knowledge
from methods.retrieval import ByClass, Neighbours
from orchestrator.config.trial import TrialSpec
from orchestrator.core import disk
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.teacher import retrieval
from orchestrator.teacher._rank_shared_files import RankSharedFiles
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher
from orchestrator.teacher.retrieval import Retrieval
from orchestrator.training._trainer import train
from orchestrator.training.process_cache import build_retrieval, compute_clean_knowledge
from tests.retrieving import Retrieving, retrieving_method

CPU = torch.device("cpu")
SMALL = ("data.limit.train=101", "data.limit.validation=40", "data.limit.test=40")
POSITIVES, NEGATIVES = 3, 5

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


def knowledge_of(samples: int = 60, seed: int = 0) -> Knowledge:
    """Return random features with labels of four classes.

    Some labels are unknown, and one class has one member.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    labels[:5], labels[7] = -1, 3
    features = torch.randn(samples, 6, generator=generator)
    return Knowledge(torch.randn(samples, 4, generator=generator), features, labels)


def by_hand(
    knowledge: Knowledge, positives: int, negatives: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return positions, most similar first, by a double loop."""
    assert knowledge.features is not None
    unit = knowledge.features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    labels = knowledge.labels.tolist()
    found: tuple[list[list[int]], list[list[int]]] = ([], [])
    for query, label in enumerate(labels):
        others = [
            other
            for other in range(len(labels))
            if other != query and labels[other] >= 0 and label >= 0
        ]
        others.sort(key=lambda other: -float(unit[query] @ unit[other]))
        for rows, own, count in ((found[0], True, positives), (found[1], False, negatives)):
            row = [other for other in others if (labels[other] == label) is own][:count]
            rows.append(row + [-1] * (count - len(row)))
    return found


def kept(
    root: Path, context: TrialContext | None = None, wait_s: float = 5, teacher: str = "one"
) -> Retrieval:
    context = context or TrialContext()
    return Retrieval(
        context,
        False,
        RankSharedFiles(Cache(root, 2**24), context, wait_s),
        {"teacher": teacher, "data": "these"},
    )


def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of queries of each further exact search."""
    searched_sizes, exact = list[int](), ByClass.nearest

    def counted(
        bank: ByClass,
        positives: int,
        negatives: int,
        queries: Tensor,
        heartbeat: Callable[[], None],
    ) -> Neighbours:
        searched_sizes.append(len(queries))
        return exact(bank, positives, negatives, queries, heartbeat)

    monkeypatch.setattr(ByClass, "nearest", counted)
    return searched_sizes


@pytest.mark.parametrize("queries", [7, 60, 2048])
@pytest.mark.parametrize("cached", [True, False])
def test_neighbours_are_those_of_a_search_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool, queries: int
) -> None:
    monkeypatch.setattr(retrieval, "QUERIES", queries)
    knowledge = knowledge_of()
    find = kept(tmp_path) if cached else Retrieval(TrialContext(), False)
    found = find(knowledge, POSITIVES, NEGATIVES)
    positives, negatives = by_hand(knowledge, POSITIVES, NEGATIVES)
    assert found.positives.tolist() == positives and found.negatives.tolist() == negatives
    assert found.positives.dtype == found.negatives.dtype == torch.int32 and found.recall == 1
    assert knowledge.features is not None
    unit = torch.nn.functional.normalize(knowledge.features, dim=1)
    cosine = (
        (unit[:, None] * unit[found.negatives.long()])
        .sum(dim=2)
        .where(found.negatives >= 0, torch.zeros(()))
    )
    torch.testing.assert_close(found.negative_similarity, cosine)


def test_a_second_user_does_not_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched_sizes, knowledge = searches(monkeypatch), knowledge_of()
    first = kept(tmp_path)(knowledge, POSITIVES, NEGATIVES)
    again = kept(tmp_path)(knowledge, POSITIVES, NEGATIVES)
    assert searched_sizes == [60]
    assert all(
        torch.equal(torch.as_tensor(one), torch.as_tensor(other))
        for one, other in zip(first, again, strict=True)
    )


def test_the_bank_is_sorted_once_for_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "QUERIES", 7)
    searched_sizes, sorted_banks = searches(monkeypatch), list[int]()

    def counted(features: Tensor, labels: Tensor) -> ByClass:
        sorted_banks.append(len(labels))
        return ByClass(features, labels)

    monkeypatch.setattr(retrieval, "ByClass", counted)
    Retrieval(TrialContext(), False)(knowledge_of(), POSITIVES, NEGATIVES)
    assert searched_sizes == [7] * 9 and sorted_banks == [60], (
        "the last block repeats the last sample"
    )


def test_the_next_student_of_a_trial_does_not_search(monkeypatch: pytest.MonkeyPatch) -> None:
    searched_sizes, find = searches(monkeypatch), Retrieval(TrialContext(), False)
    knowledge = knowledge_of()
    assert find(knowledge, 1, 2) is find(knowledge, 1, 2) and searched_sizes == [60]


@pytest.mark.parametrize("change", ["labels", "positives", "negatives", "teacher", "approximate"])
def test_everything_that_determines_the_neighbours_changes_the_folder(
    tmp_path: Path, change: str
) -> None:
    knowledge = knowledge_of()
    kept(tmp_path)(knowledge, POSITIVES, NEGATIVES)
    find = kept(tmp_path, teacher="another" if change == "teacher" else "one")
    find.approximate = change == "approximate"
    if change == "labels":
        knowledge.labels[10] = (knowledge.labels[10] + 1) % 3
    find(knowledge, POSITIVES + (change == "positives"), NEGATIVES + (change == "negatives"))
    assert len(list(tmp_path.glob("*/negatives.npy"))) == 2


@pytest.mark.parametrize(("positives", "negatives"), [(0, 4), (3, 0), (0, 0)])
def test_unrequested_positives_or_negatives_have_no_columns(
    tmp_path: Path, positives: int, negatives: int
) -> None:
    found = kept(tmp_path)(knowledge_of(), positives, negatives)
    assert found.positives.shape == found.positive_similarity.shape == (60, positives)
    assert found.negatives.shape == found.negative_similarity.shape == (60, negatives)


def test_a_damaged_table_is_computed_again(tmp_path: Path) -> None:
    knowledge = knowledge_of()
    kept(tmp_path)(knowledge, POSITIVES, NEGATIVES)
    (file,) = tmp_path.glob("*/positives.npy")
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))
    again = kept(tmp_path)
    assert (
        again(knowledge, POSITIVES, NEGATIVES).positives.tolist()
        == by_hand(knowledge, POSITIVES, 0)[0]
    )
    assert again.sharing and "damaged" in again.sharing.cache.take_notes()[0]


def test_only_one_of_concurrent_trials_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched_sizes, knowledge, start = searches(monkeypatch), knowledge_of(), threading.Barrier(3)
    found: list[Neighbours] = []

    def trial() -> None:
        start.wait(timeout=30)
        found.append(kept(tmp_path, wait_s=30)(knowledge, POSITIVES, NEGATIVES))

    threads = [threading.Thread(target=trial) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 3 and searched_sizes == [60]
    assert all(torch.equal(each.negatives, found[0].negatives) for each in found)


def test_a_stop_request_is_obeyed_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "QUERIES", 16)
    signs: list[None] = []
    stopping = TrialContext(
        stop_requested=lambda: len(signs) >= 2, heartbeat=lambda: signs.append(None)
    )
    with pytest.raises(Stopped):
        kept(tmp_path, stopping)(knowledge_of(), POSITIVES, NEGATIVES)
    assert not list(tmp_path.glob("*/*.npy")) and not list(tmp_path.glob("*/.*.npy.*"))
    kept(tmp_path)(knowledge_of(), POSITIVES, NEGATIVES)


def test_a_waiting_process_observes_the_heartbeat_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "QUERIES", 16)
    shown: list[str] = []
    monkeypatch.setattr(
        "orchestrator.teacher.cache.Lock.update_heartbeat",
        lambda lock: shown.append(lock.file.name),
    )
    kept(tmp_path)(knowledge_of(), POSITIVES, NEGATIVES)
    assert shown.count("positives.npy") >= 4, "60 queries in blocks of 16"


def test_a_full_disk_is_reported_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    refusals, take = iter(range(2)), os.posix_fallocate

    def full(file: int, start: int, length: int) -> None:
        if next(refusals, None) is not None:
            raise OSError(28, "No space left on device")
        take(file, start, length)

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(disk, "POLL_S", 0.0)
    found = kept(tmp_path, TrialContext(note=notes.append))(knowledge_of(), POSITIVES, NEGATIVES)
    assert len(notes) == 2 and "full" in notes[0] and "has free space again" in notes[1]
    again = kept(tmp_path)(knowledge_of(), POSITIVES, NEGATIVES)
    assert torch.equal(found.positives, again.positives)


def opened(
    spec: TrialSpec, make_teacher: MakeTeacher, dtype: str | None
) -> tuple[CachedTeacher | OnlineTeacher, Batches]:
    assert spec.knowledge is not None
    dataset = Dataset.open(spec.data)
    batches = Batches(dataset, Views("none", 0, len(dataset.train), 0), 32, 0)
    teacher = FrozenTeacher.open(make_teacher(spec.data, width=16), CPU)
    if dtype is None:
        return OnlineTeacher(teacher), batches
    return CachedTeacher(
        teacher, batches, Cache(spec.knowledge, 2**24), dtype, TrialContext(), 5
    ), batches


@pytest.mark.parametrize("dtype", ["float16", "float32", None])
def test_a_teachers_bank_is_mapped_and_searched(
    specify: Specify, make_teacher: MakeTeacher, dtype: str | None
) -> None:
    spec = specify(*SMALL)
    source, batches = opened(spec, make_teacher, dtype)
    find = build_retrieval(spec, source, batches, TrialContext())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        knowledge = compute_clean_knowledge(source, batches, TrialContext(), True, find)
        found = knowledge.neighbours(POSITIVES, NEGATIVES)
    assert knowledge.features is not None and knowledge.logits.dtype == torch.float32
    if isinstance(source, CachedTeacher):
        array = source.arrays["features"]
        assert isinstance(array, np.memmap) and str(knowledge.features.dtype) == f"torch.{dtype}"
        assert knowledge.features.data_ptr() == array.ctypes.data, "features are not copied"
    assert found.negatives.tolist() == by_hand(knowledge, POSITIVES, NEGATIVES)[1]
    assert spec.knowledge is not None
    assert len(list(spec.knowledge.glob("*/negatives.npy"))) == (dtype is not None)


def test_the_labels_in_use_determine_the_cached_results(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    """Noise and hidden labels change no image and no teacher output, but all retrieved samples."""
    for changes in ((), ("data.label_noise=0.2",), ("data.labelled=50",)):
        spec = specify(*SMALL, *changes)
        source, batches = opened(spec, make_teacher, "float32")
        knowledge = compute_clean_knowledge(
            source,
            batches,
            TrialContext(),
            True,
            build_retrieval(spec, source, batches, TrialContext()),
        )
        assert (
            knowledge.neighbours(POSITIVES, NEGATIVES).positives.tolist()
            == by_hand(knowledge, POSITIVES, 0)[0]
        )
    assert spec.knowledge is not None
    assert len(list(spec.knowledge.glob("*/clean-features.npy"))) == 1
    assert len(list(spec.knowledge.glob("*/positives.npy"))) == 3


@pytest.mark.parametrize(
    ("chosen", "limit", "approximate"),
    [("auto", 101, False), ("auto", 100, True), ("exact", 1, False), ("approximate", 999, True)],
)
def test_auto_is_exact_up_to_a_limit(
    specify: Specify,
    make_teacher: MakeTeacher,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    limit: int,
    approximate: bool,
) -> None:
    monkeypatch.setattr("orchestrator.config.sizes.EXACT_SAMPLES", limit)
    spec = specify(*SMALL, f"resources.retrieval={chosen}")
    assert (
        build_retrieval(spec, *opened(spec, make_teacher, None), TrialContext()).approximate
        is approximate
    )


@pytest.mark.parametrize(
    ("pairs", "searched"),
    [((), 1), (("peers.b.network.name=mlp",), 1), (("teacher.mode=online",), 2)],
)
def test_trials_and_students_with_equal_settings_search_once(
    specify: Specify,
    make_teacher: MakeTeacher,
    monkeypatch: pytest.MonkeyPatch,
    pairs: tuple[str, ...],
    searched: int,
) -> None:
    """Trials of one student, of two in one worker, and of one with an online teacher."""
    retrieving_method(monkeypatch)
    searched_sizes, seen = searches(monkeypatch), []
    reports: list[dict[str, float]] = []

    def update_bank(method: Retrieving, knowledge: Knowledge) -> None:
        chosen = method.settings
        seen.append(knowledge.neighbours(chosen.positives, chosen.negatives))

    monkeypatch.setattr(Retrieving, "update_bank", update_bank)

    def report(record: Any) -> None:
        reports.append(record.metrics)

    for trial in ("first", "second"):
        own = ("method.name=retrieving", "training.epochs=1", "training.batch_size=32", *pairs)
        spec = specify(*SMALL, *own, folder=trial)
        spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=16)})
        train(spec, TrialContext(report=report))
    assert len(searched_sizes) == searched
    assert len(seen) == 2 * (1 + ("peers.b.network.name=mlp" in pairs))
    assert all(torch.equal(each.negatives, seen[0].negatives) for each in seen)
    assert all(metrics["seconds/retrieval"] > 0 for metrics in reports)
