"""Test trials that end because they no longer improve: when, with which results, and resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trials_run import Interrupted, records_of, saved, specification, untimed

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.store.progress import PROGRESS, PROGRESS_FILE, read_progress
from orchestrator.training import _student as student
from orchestrator.training._evaluation import Evaluation, evaluate
from orchestrator.training._trainer import train
from tests.process_group import on_every_rank

EPOCHS = 8
SMALL = (
    *("data.limit.train=128", "data.limit.validation=60", "data.limit.test=60", "teacher=null"),
    *(f"training.epochs={EPOCHS}", "training.batch_size=32", "student.name=mlp", "student.width=8"),
)
PLAIN = (*SMALL, "method.name=cross_entropy")
PEERS = (*SMALL, "method.name=dml", "peers.b.network.name=mlp", "peers.b.network.width=6")
Specify = Callable[..., TrialSpec]
Accuracies = Callable[[dict[str, list[float]]], None]


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> Accuracies:
    """Return a function that replaces the validation accuracies by epoch, given by student."""

    def replace_accuracies(values: dict[str, list[float]]) -> None:
        original = student.TrainedStudent.end_epoch

        def end_epoch(self: Any, epoch: int, validation: dict[str, float], *rest: Any) -> Any:
            validation["validation/accuracy"] = values[self.letter][epoch - 1]
            return original(self, epoch, validation, *rest)

        monkeypatch.setattr(student.TrainedStudent, "end_epoch", end_epoch)

    return replace_accuracies


@pytest.mark.parametrize(
    ("patience", "values", "last"),
    [
        (1, [0.3, 0.3], 2),
        (2, [0.3, 0.5, 0.4, 0.5], 4),
        (2, [0.3, 0.2, 0.4, 0.3, 0.5, 0.4, 0.3], 7),
        (3, [0.9, 0.1, 0.1, 0.1], 4),
        (3, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5], 8),
        (8, [0.5] * EPOCHS, 8),
    ],
)
def test_a_trial_ends_after_so_many_epochs_without_a_higher_accuracy(
    specify: Specify, accuracies: Accuracies, patience: int, values: list[float], last: int
) -> None:
    accuracies({"a": values})
    records = records_of(specify(*PLAIN, f"training.patience={patience}"))
    assert [record.epoch for record in records] == list(range(1, last + 1))
    assert [record.done for record in records] == [False] * (last - 1) + [True]
    metrics = records[-1].metrics
    assert metrics["best_epoch"] == 1 + values.index(max(values[:last])) and records[-1].done
    assert metrics.get("stopped_epoch") == (None if last == EPOCHS else last)
    assert ("training.patience" in " ".join(records[-1].notes)) == (last < EPOCHS)
    assert {"test/last/accuracy", "test/best/accuracy"} <= set(metrics)


def test_epochs_before_the_end_are_those_of_a_whole_training(
    specify: Specify, accuracies: Accuracies, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[str] = []

    def recording(module: Any, batches: Any, part: Any, *rest: Any) -> Evaluation:
        parts.append(part)
        return evaluate(module, batches, part, *rest)

    whole = records_of(specify(*PLAIN, folder="whole"))
    monkeypatch.setattr(student, "evaluate", recording)
    high = max(record.metrics["validation/accuracy"] for record in whole)
    accuracies({"a": [high] * EPOCHS})
    spec = specify(*PLAIN, "training.patience=3", folder="short")
    short = records_of(spec)
    assert [record.epoch for record in short] == [1, 2, 3, 4]
    for mine, full in zip(short, whole[:4], strict=True):
        names = {name for name in full.metrics if name.startswith("train/")}
        names -= {"train/images_per_second"}
        assert names and all(mine.metrics[name] == full.metrics[name] for name in names)
    assert parts == ["validation"] * 4 + ["test"] * 2
    assert saved(spec).shown.keys() == saved(specify(*PLAIN, folder="whole")).shown.keys()


def test_a_resumed_trial_ends_at_the_same_epoch_with_the_same_bits(
    specify: Specify, accuracies: Accuracies
) -> None:
    accuracies({"a": [0.3, 0.4, 0.35, 0.4, 0.1]})
    pairs = (*PLAIN, "training.patience=3")
    whole = records_of(specify(*pairs, folder="whole"))
    assert len(whole) == 5
    for epoch in (1, 4, 5):
        broken = specify(*pairs, folder=f"broken-{epoch}")
        records_of(broken, dies_after=epoch)
        after = records_of(broken)
        assert [record.epoch for record in after] == list(range(epoch, 6)), "the last one again"
        assert untimed(after[-1].metrics) == untimed(whole[-1].metrics) and after[-1].done
        same = saved(broken).student.items()
        assert all(
            torch.equal(value, saved(specify(*pairs, folder="whole")).student[key])
            for key, value in same
        )
    assert [record.done for record in records_of(broken)] == [True], "nothing is trained again"


def test_a_record_that_ends_early_without_patience_does_not_fit(
    specify: Specify, accuracies: Accuracies
) -> None:
    accuracies({"a": [0.3] * EPOCHS})
    spec = specify(*PLAIN, "training.patience=2")
    record = records_of(spec)[-1]
    folder = spec.folder / "checkpoint"
    progress = read_progress(folder)
    metrics = {name: value for name, value in record.metrics.items() if name != "stopped_epoch"}
    changed = replace(record, metrics=metrics)
    kept = replace(progress, record=changed, records=[*progress.records[:-1], changed])
    (folder / PROGRESS_FILE).write_text(PROGRESS.text(kept.plain()))
    assert [record.epoch for record in records_of(spec)] == [1, 2, 3], "the trial starts again"


@pytest.mark.parametrize(
    ("first", "second", "last"),
    [
        ([0.5] * 8, [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4], 6),
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3], [0.5] * 8, 5),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0.5] * 8, 8),
    ],
)
def test_students_end_together_when_none_improves(
    specify: Specify, accuracies: Accuracies, first: list[float], second: list[float], last: int
) -> None:
    accuracies({"a": first, "b": second})
    records = records_of(specify(*PEERS, "training.patience=2"))
    assert [record.epoch for record in records] == list(range(1, last + 1)) and records[-1].done
    assert {"a/test/last/accuracy", "b/test/last/accuracy"} <= set(records[-1].metrics)


def on_ranks(rank: int, world_size: int, root: str) -> list[int]:
    records: list[Any] = []
    spec = specification(
        *(Path(root), "trial", *PLAIN, "training.patience=1", "training.learning_rate=0.3"),
        f"resources.workers={world_size}",
    )
    train(spec, TrialContext(rank=rank, world_size=world_size, report=records.append))
    return [record.epoch for record in records]


@pytest.mark.slow
def test_ranks_end_together(tmp_path: Path) -> None:
    first, second = on_every_rank(2, on_ranks, str(tmp_path))
    assert 1 < len(first) < EPOCHS and not second


def test_an_interrupted_report_is_sent_again(specify: Specify, accuracies: Accuracies) -> None:
    accuracies({"a": [0.3] * EPOCHS})
    spec = specify(*PLAIN, "training.patience=1")
    sent: list[EpochRecord] = []

    def report(record: Any) -> None:
        if record.done:
            raise Interrupted
        sent.append(replace(record))

    with pytest.raises(Interrupted):
        train(spec, TrialContext(report=report))
    again = records_of(spec.model_copy(update={"known": 1}))
    assert [record.epoch for record in sent + again] == [1, 2] and again[0].done
