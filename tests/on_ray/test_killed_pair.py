"""Test a pair of workers of which one is killed: the trial equals an undisturbed one."""

import functools
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ray import cloudpickle

from orchestrator.cluster import _worker as worker
from orchestrator.cluster import groups
from orchestrator.cluster.dispatcher_client import DispatcherClient
from orchestrator.config.loader import load
from orchestrator.config.plan import Groups
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.data.prepare import prepare
from orchestrator.store.store import Store
from orchestrator.teacher import fit
from orchestrator.teacher.acquire import acquire_teacher
from orchestrator.training import checkpoint
from orchestrator.training.execute import execute
from tests.on_ray.shared import SharedRay

pytestmark = pytest.mark.ray
EPOCHS, STEPS = 3, 5
PAIRS = (
    "data.limit.train=160",
    "data.limit.validation=61",
    "data.limit.test=61",
    "data.augmentation=crop",
    "data.views=2",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "teacher.network.width=24",
    "teacher.training.epochs=2",
    "teacher.training.batch_size=32",
    "student.width=8",
    "method.name=dual_student",
    "method.lambda_peer=0.3",
    "method.peer_warmup=0.1",
    "peers.b.network.name=mlp",
    "peers.b.network.width=6",
    "peers.b.training.optimizer=adamw",
    "peers.b.training.learning_rate=0.01",
    "resources.workers=2",
)
TIMED = ("seconds/", "train/images_per_second", "cache/")
DEATH, DIED = "death.json", "died"


class Death(NamedTuple):
    """Death of a worker at a call of a function, given as `module:name`.

    Attributes:
        rank: Rank of the worker.
        function: Function at whose call the worker dies.
        call: Number of the call, from 1.
        resumed: Epoch of the checkpoint from which the trial continues.
        done: Whether the call is executed before the worker dies.
        first: End of the first argument of the calls that count.
    """

    rank: int
    function: str
    call: int
    resumed: int = 1
    done: bool = True
    first: str = ""


EPOCH_TWO = STEPS + 3  # a step within the second epoch
DEATHS = {
    "a-has-published": Death(0, "orchestrator.cluster._pair:Pair.publish", EPOCH_TWO),
    "b-has-not-published": Death(
        1, "orchestrator.cluster._pair:Pair.publish", EPOCH_TWO, done=False
    ),
    "b-before-any-checkpoint": Death(1, "orchestrator.cluster._pair:Pair.end_step", 2, resumed=0),
    "b-has-written-its-part": Death(1, "orchestrator.training.checkpoint:_write", 2),
    "a-between-the-renames": Death(
        0, "orchestrator.store.store:os.replace", 1, first=f"/{CHECKPOINT}"
    ),
    "a-has-saved-and-not-reported": Death(0, "orchestrator.training.checkpoint:save", 2, resumed=2),
}
# one death of each student, one of them within the writing of a checkpoint
QUICK_DEATHS = ("b-before-any-checkpoint", "a-between-the-renames")


def serve(settings: dict[str, Any]) -> None:
    """Serve trials, and die as the trial's folder specifies.

    The worker that resumes the trial writes the epoch of the checkpoint there.
    """

    def work_until_death(spec: TrialSpec, context: TrialContext) -> None:
        note = spec.folder / DEATH
        death = Death(*json.loads(note.read_text())) if note.exists() else None
        context.all_gather_object(None)  # both have read the file
        if death and death.rank == context.rank:
            _die_at_call(death, note)
        if context.is_main_process and (spec.folder / DIED).exists():
            found = checkpoint.load(spec.folder, "ab", context.device)
            (spec.folder / DIED).write_text(str(found["a"].progress.record.epoch if found else 0))
        execute(spec, context)

    worker.execute = work_until_death  # type: ignore[attr-defined]
    worker.serve(settings)


def _die_at_call(death: Death, note: Path) -> None:
    """Replace the function by one that kills this process at the call."""
    module, _, name = death.function.partition(":")
    *path, name = name.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    function, calls = getattr(owner, name), 0

    def called(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += str(arguments[0]).endswith(death.first)
        if calls < death.call:
            return function(*arguments, **named)
        note.rename(note.with_name(DIED))
        if death.done:
            setattr(owner, name, function)
            function(*arguments, **named)
        return os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, called)


class Pair(NamedTuple):
    """Two warm workers, and the inputs that their trials share.

    Attributes:
        fitted: Metrics of the teacher's epochs.
        folders: Folders in the checkpoints of the teacher's training.
    """

    dispatcher_client: DispatcherClient
    root: Path
    configuration: Configuration
    data: Path
    teacher: Path
    fitted: list[dict[str, float]]
    folders: set[str]


@pytest.fixture(scope="module")
def pair(shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    root, configuration = tmp_path_factory.mktemp("pair"), load(None, list(PAIRS))
    store = Store.open(root / "store")
    data = prepare(configuration.data, store.root, 0)
    fitted: list[dict[str, float]] = []
    folders: set[str] = set()

    def record_epoch(epoch: int, metrics: dict[str, float]) -> None:
        fitted.append(metrics)
        folders.update(
            path.name for path in store.teachers.glob(f"*.fitting/{CHECKPOINT}/*") if path.is_dir()
        )

    shared_ray.connect()
    with pytest.MonkeyPatch.context() as patch:
        cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find this file
        patch.setattr(groups, "serve", serve)
        plan = Groups(1, ({"CPU": 1.0}, {"CPU": 1.0}), "")
        with groups.worker_groups(
            plan, root / "groups", max_failures=1, own_cluster=True
        ) as dispatcher_client:
            teacher, _, _ = acquire_teacher(
                store, configuration, data, dispatcher_client, record_epoch
            )
            yield Pair(dispatcher_client, root, configuration, data, teacher, fitted, folders)


def trained(
    pair: Pair, name: str, death: Death | None = None
) -> tuple[list[EpochRecord], dict[str, checkpoint.Checkpoint]]:
    """Return the records of a trial of the pair, and its last checkpoint."""
    spec = TrialSpec(
        name=name,
        configuration=pair.configuration,
        folder=pair.root / name,
        data=pair.data,
        teacher=pair.teacher,
        knowledge=pair.root / name / "knowledge",
    )
    spec.folder.mkdir()
    if death:
        (spec.folder / DEATH).write_text(json.dumps(death))
    pair.dispatcher_client.submit(spec)
    records: list[Any] = []
    while not records or not records[-1].done:
        records.append(pair.dispatcher_client.next_report(name, 120))
        assert isinstance(records[-1], EpochRecord), records[-1]
    if death:
        assert (spec.folder / DIED).read_text() == str(death.resumed)
    saved = checkpoint.load(spec.folder, "ab", torch.device("cpu"))
    assert saved is not None
    return records, saved


@pytest.fixture(scope="module")
def undisturbed(pair: Pair) -> tuple[list[EpochRecord], dict[str, checkpoint.Checkpoint]]:
    """Return the undisturbed trial."""
    return trained(pair, "undisturbed")


def untimed(record: EpochRecord) -> EpochRecord:
    """Return the record without metrics that depend on time."""
    kept = {name: value for name, value in record.metrics.items() if not name.startswith(TIMED)}
    return replace(record, metrics=kept)


def bits(value: Any) -> Any:
    """Return the value with its tensors as bytes, which differ for -0.0 and 0.0."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(one) for key, one in value.items()}
    return [bits(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK_DEATHS else pytest.mark.slow) for name in DEATHS],
)
def test_pair_with_a_killed_worker_equals_an_undisturbed_pair(
    name: str, pair: Pair, undisturbed: tuple[list[EpochRecord], dict[str, checkpoint.Checkpoint]]
) -> None:
    (expected, kept), (found, saved) = undisturbed, trained(pair, name, DEATHS[name])
    assert [record.epoch for record in found] == list(range(1, EPOCHS + 1))
    assert [untimed(record) for record in found] == [untimed(record) for record in expected]
    for letter, part in saved.items():
        assert part.optimizer["optimizer"]["state"], "the optimizer has no state to compare"
        for state in ("student", "best", "method", "optimizer", "trace", "shown"):
            assert bits(getattr(part, state)) == bits(getattr(kept[letter], state)), (
                f"{state} of {letter}"
            )
        values = [
            (each.progress.best_value, each.progress.best_epoch) for each in (part, kept[letter])
        ]
        assert values[0] == values[1]
        assert (
            untimed(part.progress.record)
            == untimed(kept[letter].progress.record)
            == untimed(expected[-1])
        )


def test_workers_of_a_pair_fit_the_teacher_together(pair: Pair) -> None:
    """Each worker has half of every batch; the result is that of a single process."""
    assert not pair.folders and len(pair.fitted) == 2
    records: list[Any] = []
    alone = fit.specification(pair.root / "alone", pair.configuration, pair.data)
    execute(alone, TrialContext(report=records.append))
    for found, expected in zip(pair.fitted, records, strict=True):
        assert {name for name in found if not name.startswith(TIMED)} == {
            name for name in expected.metrics if not name.startswith(TIMED)
        }
        for name in ("train/loss", "validation/nll"):
            assert found[name] == pytest.approx(expected.metrics[name], rel=1e-3)
