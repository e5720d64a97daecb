"""Test precomputed caches: each view is assigned and computed once, shown, and ended on errors."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import Folders, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError, TrialError, UserError
from orchestrator.core.reports import EpochRecord, Report, SampleProgress, TrialFailure
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.teacher import _shared_pass
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.precompute import distribute_views, precompute_views, views_to_precompute
from orchestrator.training import _precompute as precompute
from orchestrator.training.execute import execute
from tests.refusal import refused

SAMPLES, LONGEST_S, BROKEN_S = 140, 60.0, 5.0  # 140 samples do not go up in batches of 32
SMALL = (
    f"data.limit.train={SAMPLES}",
    "data.limit.validation=20",
    "data.limit.test=20",
    "data.augmentation=crop",
    "training.epochs=3",
    "training.batch_size=32",
    "teacher.dtype=float32",
)
VIEWS: list[int | None] = [None, 0, 1, 2]
FILES = {"clean.npy", "view-00000.npy", "view-00001.npy", "view-00002.npy"}

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


class Here:
    """A dispatcher that runs jobs immediately in this process, each with its own queue."""

    def __init__(self) -> None:
        self.jobs: dict[str, TrialSpec] = {}
        self.lines: dict[str, queue.Queue[Any]] = {}
        self.silences: set[float] = set()
        self.stopped: list[str] = []

    def submit(self, spec: TrialSpec) -> None:
        """Run the job, and keep its records."""
        self.jobs[spec.name], line = spec, queue.Queue[Any]()
        self.lines[spec.name] = line
        try:
            execute(spec, TrialContext(report=line.put))
        except UserError as error:
            line.put(TrialFailure(str(error)))

    def next_report(self, trial: str, heartbeat_timeout_s: float) -> Report:
        """Return the next record."""
        self.silences.add(heartbeat_timeout_s)
        if self.lines[trial].empty():
            raise PreflightError("its job has ended, and nothing more will come")
        report: Report = self.lines[trial].get()
        return report

    def stop(self, trial: str) -> None:
        """Record the stop."""
        self.stopped.append(trial)


class ScriptedDispatcher(Here):
    """A dispatcher whose jobs return given records, and block afterwards until they are stopped."""

    def __init__(self, records: dict[str, list[Report | Exception]]) -> None:
        super().__init__()
        self.left, self.ends = records, {job: threading.Event() for job in records}

    def submit(self, spec: TrialSpec) -> None:
        """Accept the job without running it."""
        self.jobs[spec.name] = spec

    def next_report(self, trial: str, heartbeat_timeout_s: float) -> Report:
        """Return the next given record."""
        if not self.left[trial]:
            assert self.ends[trial].wait(LONGEST_S)
            raise PreflightError("it was stopped")
        record = self.left[trial].pop(0)
        if isinstance(record, Exception):
            raise record
        return record

    def stop(self, trial: str) -> None:
        """Record the stop, and release the job."""
        super().stop(trial)
        self.ends[trial].set()


class Shown:
    """Display that records its values."""

    def __init__(self) -> None:
        self.views: list[int | None] = []
        self.metrics: list[dict[str, float]] = []
        self.notes: list[str] = []
        self.done: dict[int, int] = {}
        self.sums: list[int] = []

    def begin(self, views: int, samples: int) -> None:
        """Ignore the event."""

    def progress(self, job: int, views: int, samples: int) -> None:
        """Record the samples of all jobs, as a progress bar adds them up."""
        self.done[job] = views * SAMPLES + samples
        self.sums.append(sum(self.done.values()))

    def view_precomputed(
        self, view: int | None, metrics: dict[str, float], notes: list[str]
    ) -> None:
        """Record a view."""
        self.views.append(view)
        self.metrics.append(metrics)
        self.notes += notes


@pytest.fixture
def spec(specify: Specify, make_teacher: MakeTeacher) -> TrialSpec:
    made = specify(*SMALL)
    return made.model_copy(update={"teacher": make_teacher(made.data, width=16), "role": "fill"})


@pytest.fixture(autouse=True)
def report_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precompute, "PROGRESS_INTERVAL_S", -1.0)


def filled(
    spec: TrialSpec, groups: int = 1, dispatcher_client: Here | None = None, features: bool = False
) -> tuple[Here, Shown]:
    assert spec.teacher is not None and spec.knowledge is not None
    folders = Folders(spec.folder, spec.data, spec.teacher, spec.knowledge)
    dispatcher_client, show = dispatcher_client or Here(), Shown()
    precompute_views(
        spec.configuration,
        folders,
        distribute_views(VIEWS, groups, everywhere=False),
        features,
        (),
        dispatcher_client,
        show,
    )
    return dispatcher_client, show


def cache_of(spec: TrialSpec) -> dict[str, Path]:
    assert spec.knowledge is not None
    return {file.name: file for file in spec.knowledge.glob("*/*.npy")}


def order(views: list[int | None]) -> list[int]:
    return sorted(-1 if view is None else view for view in views)


@pytest.mark.parametrize(
    ("pairs", "augmentation", "views"),
    [
        ([], "crop", VIEWS),
        (["data.views=2"], "crop", [None, 0, 1]),
        (["data.views=9"], "crop", VIEWS),
        ([], "none", [None]),
        (["data.mixing=mixup"], "none", VIEWS),
    ],
)
def test_views_to_fill_are_the_clean_one_and_the_varying_ones(
    pairs: list[str], augmentation: str, views: list[int | None]
) -> None:
    configuration: Configuration = load(None, ["training.epochs=3", *pairs])
    assert views_to_precompute(configuration, augmentation) == views


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 7])
def test_every_view_is_distributed_once(spec: TrialSpec, groups: int) -> None:
    dispatcher_client, show = filled(spec, groups)
    shares = [list(job.views) for job in dispatcher_client.jobs.values()]
    assert (
        len(shares) == min(groups, len(VIEWS))
        and max(map(len, shares)) - min(map(len, shares)) <= 1
    )
    assert order([view for share in shares for view in share]) == order(show.views) == [-1, 0, 1, 2]
    assert all(
        (job.role, job.knowledge, job.configuration) == ("fill", spec.knowledge, spec.configuration)
        for job in dispatcher_client.jobs.values()
    )
    assert set(cache_of(spec)) == FILES
    assert set(dispatcher_client.stopped) == set(
        dispatcher_client.jobs
    ) and dispatcher_client.silences == {spec.configuration.resources.heartbeat_timeout_s}


def test_a_second_precomputation_finds_all_files(spec: TrialSpec) -> None:
    _, first = filled(spec, 2)
    assert first.metrics == [{"cache/hits": 0.0, "cache/misses": 1.0}] * 4
    before = {name: file.read_bytes() for name, file in cache_of(spec).items()}
    _, second = filled(spec, 3)
    assert second.metrics == [{"cache/hits": 1.0, "cache/misses": 0.0}] * 4
    assert order(second.views) == [-1, 0, 1, 2] and not first.notes + second.notes
    assert {name: file.read_bytes() for name, file in cache_of(spec).items()} == before


def test_the_cache_holds_the_teacher_outputs_of_each_view(spec: TrialSpec) -> None:
    filled(spec, 2, features=True)
    assert spec.teacher is not None
    files, dataset, teacher = (
        cache_of(spec),
        Dataset.open(spec.data),
        FrozenTeacher.open(spec.teacher, torch.device("cpu")),
    )
    assert set(files) == FILES | {"clean-features.npy"}, (
        "features are cached for the clean view only"
    )
    batches = Batches(dataset, Views.from_config(dataset, spec.configuration.data, 0), 20, 0)
    for view in VIEWS:
        answers = [teacher(batch.inputs) for batch in batches.iterate_in_order("train", view)]
        logits = np.load(files["clean.npy" if view is None else f"view-{view:05d}.npy"])
        np.testing.assert_allclose(
            logits, torch.cat([answer.logits for answer in answers]), atol=1e-5
        )
        if view is None:
            features = torch.cat([answer.features for answer in answers])
            np.testing.assert_allclose(np.load(files["clean-features.npy"]), features, atol=1e-5)


def test_features_are_added_to_a_cache_without_features(spec: TrialSpec) -> None:
    filled(spec)
    before = cache_of(spec)["clean.npy"].read_bytes()
    _, show = filled(spec, features=True)
    computed = {
        view: metrics["cache/misses"]
        for view, metrics in zip(show.views, show.metrics, strict=True)
    }
    assert computed == {None: 1, 0: 0, 1: 0, 2: 0}
    assert (
        set(cache_of(spec)) == FILES | {"clean-features.npy"}
        and cache_of(spec)["clean.npy"].read_bytes() == before
    )


@pytest.fixture
def single_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute one block of the teacher at a time."""
    monkeypatch.setattr(_shared_pass, "TOGETHER_BYTES", 1)


@pytest.mark.usefixtures("single_blocks")
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_the_progress_never_decreases_and_ends_with_all_samples(
    spec: TrialSpec, groups: int
) -> None:
    _, show = filled(spec, groups)
    assert show.sums == sorted(show.sums) and show.sums[-1] == len(VIEWS) * SAMPLES
    assert len(set(show.sums)) > len(VIEWS), "there is progress within a view"


@pytest.mark.usefixtures("single_blocks")
def test_a_job_reports_samples_then_views_and_finally_done(spec: TrialSpec) -> None:
    records: list[Any] = []
    job = spec.model_copy(update={"views": (None, 1)})
    precompute.precompute_view(job, TrialContext(report=records.append))
    within = [SampleProgress(samples) for samples in (32, 64, 96, 128, SAMPLES)]
    computed = {"cache/hits": 0.0, "cache/misses": 1.0}
    ends: list[Any] = [EpochRecord(number, computed, done=number == 2) for number in (1, 2)]
    assert records == [*within, ends[0], *within, ends[1]]
    records.clear()
    precompute.precompute_view(job, TrialContext(report=records.append))
    assert [record.metrics for record in records] == [{"cache/hits": 1.0, "cache/misses": 0.0}] * 2


def test_progress_within_a_view_is_reported_at_intervals(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    # at the start, at each block, and once more at a report
    clock = iter([0.0, 0.2, 0.31, 0.31, 0.5, 0.62, 0.62, 9.0])
    monkeypatch.setattr(precompute, "PROGRESS_INTERVAL_S", 0.3)
    monkeypatch.setattr(precompute, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    reports: list[Any] = []
    reporter = precompute._ProgressReporter(TrialContext(report=reports.append))
    for samples in (32, 64, 96, 128):
        reporter(samples)
    assert reports == [SampleProgress(64), SampleProgress(128)]
    reporter.context = TrialContext(rank=1, report=reports.append)
    reporter(140)
    assert len(reports) == 2, "only the first rank reports"


def test_a_stop_request_ends_a_job_after_its_view(spec: TrialSpec) -> None:
    records: list[Any] = []
    job = spec.model_copy(update={"views": (0, 1, 2)})
    precompute.precompute_view(
        job, TrialContext(report=records.append, stop_requested=lambda: True)
    )
    (record,) = (each for each in records if isinstance(each, EpochRecord))
    assert record.epoch == 1 and not record.done
    assert set(cache_of(spec)) == {"view-00000.npy"}


@pytest.fixture
def mended(spec: TrialSpec) -> Shown:
    """Return the second fill of a cache with a truncated file."""
    filled(spec)
    damaged = cache_of(spec)["view-00001.npy"]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    return filled(spec)[1]


def test_notes_of_the_cache_are_forwarded(mended: Shown) -> None:
    assert mended.notes and all("view-00001.npy is damaged" in note for note in mended.notes)
    assert [metrics["cache/misses"] for metrics in mended.metrics] == [0, 0, 1, 0]


def test_a_damaged_file_is_reported_once(mended: Shown) -> None:
    assert len(mended.notes) == 1, mended.notes


VIEW = EpochRecord(1, {"cache/hits": 1.0, "cache/misses": 0.0})


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (TrialFailure("the disk is full"), TrialError),
        (
            PreflightError("the disk is full").with_details("teacher", "the disk is full"),
            PreflightError,
        ),
    ],
)
def test_a_job_that_fails_stops_the_others(
    spec: TrialSpec, failure: Report | UserError, kind: type[UserError]
) -> None:
    dispatcher_client = ScriptedDispatcher(
        {"fill-0": [VIEW], "fill-1": [SampleProgress(32), failure], "fill-2": []}
    )
    with refused("teacher", "the disk is full", error=kind) as raised:
        filled(spec, 3, dispatcher_client)
    assert type(raised.value) is kind and "the disk is full" in str(raised.value)
    assert dispatcher_client.stopped == ["fill-0", "fill-1", "fill-2"] and set(
        dispatcher_client.jobs
    ) == set(dispatcher_client.stopped)


def test_an_output_that_cannot_be_cached_fails_the_precomputation_with_its_message(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "os.posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    )
    with refused("teacher", error=TrialError) as raised:
        filled(spec, 2)
    assert "Input/output error" in str(raised.value)
    assert "\n" not in str(raised.value) and not cache_of(spec)


def test_an_interrupt_stops_every_job(spec: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Shown, "view_precomputed", interrupted)
    dispatcher_client = ScriptedDispatcher({"fill-0": [VIEW], "fill-1": []})
    with pytest.raises(KeyboardInterrupt):
        filled(spec, 2, dispatcher_client)
    assert dispatcher_client.stopped == ["fill-0", "fill-1"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_dispatcher_ends_the_precomputation(spec: TrialSpec) -> None:
    """Errors of Ray other than those of a dispatcher; a waiting job would wait forever."""
    dispatcher_client = ScriptedDispatcher(
        {"fill-0": [VIEW], "fill-1": [RuntimeError("an object of Ray was lost")]}
    )
    ended: list[BaseException] = []

    def driver() -> None:
        try:
            filled(spec, 2, dispatcher_client)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=driver, daemon=True)
    thread.start()
    thread.join(BROKEN_S)
    assert (
        ended
        and "an object of Ray was lost" in str(ended[0])
        and dispatcher_client.stopped == ["fill-0", "fill-1"]
    )


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_every_group_opens_all_views_if_each_node_has_a_cache(groups: int) -> None:
    shares = distribute_views(VIEWS, groups, everywhere=True)
    assert len(shares) == groups and all(
        set(share) == set(VIEWS) and len(share) == len(VIEWS) for share in shares
    )
    assert len({share[0] for share in shares}) == min(groups, len(VIEWS)), (
        "the jobs start at different views"
    )
