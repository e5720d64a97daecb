"""Test the proxy between Tune and the dispatcher: submissions, reports, checkpoint sources."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import SNAPSHOTS, Folders, TrialSpec
from orchestrator.core.errors import PreflightError
from orchestrator.core.reports import EpochRecord, NoWorkers
from orchestrator.sweep import _snapshots as snapshots
from orchestrator.sweep import _trainable as trainables
from orchestrator.sweep._trainable import ProxyTrainable
from orchestrator.sweep._tune_messages import SharedSettings
from tests.sweep.test_snapshots import read, save

METRICS = {"validation/accuracy": 0.5}


class Workers:
    """A dispatcher whose only group trains a submitted trial immediately from its checkpoint.

    It trains up to the epoch `until`.
    """

    def __init__(self, epochs: int = 6) -> None:
        self.epochs, self.together = epochs, 1
        self.done: list[str] = []
        self.records: list[EpochRecord] = []
        self.busy, self.token = False, ""

    def stop(self, trial: str) -> None:
        self.done.append(f"stop {trial}")

    def attach(self, spec: TrialSpec, token: str) -> bool:
        attached, self.token = token == self.token, ""
        return attached

    def wait_until_released(self, trial: str, wait_s: float) -> None:
        if self.busy:
            raise PreflightError(f"{trial} was not given back within {wait_s:g} s")
        self.done.append(f"released {trial}")

    def submit(self, spec: TrialSpec) -> None:
        folder, until = spec.folder, spec.until or self.epochs
        self.done.append(f"submit {spec.name} until {until}")
        owner, epoch = (
            read(folder / "checkpoint").split()
            if (folder / "checkpoint").is_dir()
            else (folder.name, "0")
        )
        first = max(int(epoch), 1)
        for each in range((spec.known or 0) + 1, first):  # which were not received
            self.records.append(EpochRecord(each, METRICS, behind=True))
        for each in range(first, max(min(until, self.epochs), int(epoch)) + 1):
            save(folder, f"{owner} {each}")
            self.records.append(EpochRecord(each, METRICS, done=each == self.epochs))

    def next_reports(self, *_: Any) -> list[Any]:
        reports, self.records = self.records[: self.together], self.records[self.together :]
        return list(reports)


@pytest.fixture
def dispatcher_client() -> Workers:
    return Workers()


@pytest.fixture
def proxy(tmp_path: Path, dispatcher_client: Workers) -> ProxyTrainable:
    trainable = ProxyTrainable.__new__(ProxyTrainable)  # as Tune would make it, without an actor
    folders = Folders(tmp_path, Path("data"))
    trainable.shared = SharedSettings("dispatcher", folders, "validation/accuracy", 5.0)
    trainable.dispatcher_client = cast(Any, dispatcher_client)
    return trainable


def config(number: int, until: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "number": number,
        "configuration": Configuration().model_dump_json(),
        "until": until,
        **more,
    }


def epochs(proxy: ProxyTrainable, steps: int) -> list[int]:
    return [proxy.step()["epoch"] for _ in range(steps)]


def checkpoint(proxy: ProxyTrainable, folder: Path) -> Path:
    folder.mkdir()
    proxy.save_checkpoint(str(folder))
    return folder


def test_nothing_is_submitted_before_the_first_step(
    proxy: ProxyTrainable, dispatcher_client: Workers
) -> None:
    assert proxy.reset_config(config(0)) and not dispatcher_client.done
    assert epochs(proxy, 6) == [1, 2, 3, 4, 5, 6]
    assert dispatcher_client.done == ["submit trial-00000 until 6"]


@pytest.mark.parametrize("is_new_process", [True, False])
def test_a_trial_that_the_driver_has_submitted_is_not_submitted_again(
    proxy: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path, is_new_process: bool
) -> None:
    proxy.begin(config(0, token="driver"))
    proxy.must_wait_for_release = is_new_process
    dispatcher_client.submit(proxy.specification)
    dispatcher_client.token = "driver"
    assert epochs(proxy, 6) == [1, 2, 3, 4, 5, 6]
    assert dispatcher_client.done == ["submit trial-00000 until 6"]


def test_a_proxy_that_died_submits_its_trial_again(
    proxy: ProxyTrainable, dispatcher_client: Workers
) -> None:
    proxy.begin(config(0, token="driver"))  # the first process has attached
    assert epochs(proxy, 1) == [1]
    assert dispatcher_client.done == [
        "stop trial-00000",
        "released trial-00000",
        "submit trial-00000 until 6",
    ]


def test_paused_trial_continues_and_reports_no_epoch_twice(
    proxy: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    proxy.begin(config(0, until=2))
    assert epochs(proxy, 2) == [1, 2]
    pointer = checkpoint(proxy, tmp_path / "tune")
    assert [path.name for path in pointer.iterdir()] == ["pointer.json"], (
        "weights stay where they are"
    )
    proxy.begin(config(1, until=2))  # the proxy serves another trial in between
    assert epochs(proxy, 2) == [1, 2]
    proxy.reset_config(config(0, until=4))
    proxy.load_checkpoint(str(pointer))
    assert epochs(proxy, 2) == [3, 4]
    assert dispatcher_client.done[-2:] == ["released trial-00000", "submit trial-00000 until 4"]


def test_trial_copies_the_weights_of_another(
    proxy: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    proxy.begin(config(0, until=2))
    epochs(proxy, 2)
    pointer = checkpoint(proxy, tmp_path / "tune")
    proxy.begin(config(1, until=2))
    epochs(proxy, 2)
    proxy.reset_config(config(1, until=4))
    proxy.load_checkpoint(str(pointer))
    assert epochs(proxy, 2) == [3, 4]
    assert (
        read(tmp_path / "00001" / "checkpoint") == "00000 4"
        and read(tmp_path / "00000" / "checkpoint") == "00000 2"
    )
    assert sorted(path.name for path in (tmp_path / "00001" / SNAPSHOTS).iterdir()) == [
        "epoch-2",
        "epoch-4",
    ]


def test_last_epoch_does_not_pause_the_trial(proxy: ProxyTrainable, tmp_path: Path) -> None:
    proxy.begin(config(0, until=6))
    assert epochs(proxy, 5) == [1, 2, 3, 4, 5]
    assert proxy.step()["done"] and not (tmp_path / "00000" / SNAPSHOTS).exists()


def test_steps_after_the_worker_stopped_return_the_remaining_epochs(
    proxy: ProxyTrainable, dispatcher_client: Workers
) -> None:
    proxy.begin(config(0, until=2))
    assert epochs(proxy, 6) == [1, 2, 3, 4, 5, 6]
    assert dispatcher_client.done == [
        "submit trial-00000 until 2",
        "released trial-00000",
        "submit trial-00000 until 6",
    ]


def test_resumed_trial_reports_its_last_epoch_and_completes_the_copy(
    proxy: ProxyTrainable, tmp_path: Path
) -> None:
    save(tmp_path / "00003", "00003 2")
    pointer = snapshots.keep(tmp_path / "00003", 2)
    save(tmp_path / "00000", "00000 2")
    proxy.begin(config(0, until=4, snapshot=str(pointer), known=1))
    assert epochs(proxy, 3) == [2, 3, 4], (
        "the driver may have died before it received the second epoch"
    )
    assert read(tmp_path / "00000" / "checkpoint") == "00003 4"


def test_resumed_trial_uses_its_own_checkpoint_without_a_snapshot(
    proxy: ProxyTrainable, tmp_path: Path
) -> None:
    save(tmp_path / "00000", "00000 2")
    proxy.begin(
        config(0, until=4, snapshot=str(tmp_path / "00003" / "snapshots" / "epoch-2"), known=2)
    )
    assert epochs(proxy, 3) == [2, 3, 4]
    assert read(tmp_path / "00000" / "checkpoint") == "00000 4"


def test_epochs_that_a_dead_driver_missed_are_reported_one_by_one(
    proxy: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    save(tmp_path / "00000", "00000 4")
    proxy.begin(config(0, known=1))
    assert epochs(proxy, 5) == [2, 3, 4, 5, 6]


def test_synchronous_trial_reports_missed_epochs_with_its_current_epoch(
    proxy: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    save(tmp_path / "00000", "00000 4")
    proxy.begin(config(0, until=2, known=1))
    result = proxy.step()
    assert result["epoch"] == 4 and [record.epoch for record in result["missed"]] == [2, 3]
    assert "behind" not in result
    assert (tmp_path / "00000" / SNAPSHOTS / "epoch-4").is_dir(), (
        "where it stands is kept, and nothing else"
    )
    assert "missed" not in proxy.step()


def test_epochs_that_arrive_together_are_results_of_one_call(
    proxy: ProxyTrainable, dispatcher_client: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "train", proxy.step)  # without the fields that Tune adds
    dispatcher_client.together = 4
    proxy.begin(config(0))
    first, second = proxy.train_buffered(1000), proxy.train_buffered(1000)
    assert [result["epoch"] for result in first] == [1, 2, 3, 4]
    assert [result.get("behind", False) for result in first] == [True, True, True, False]
    assert [(result["epoch"], result["done"]) for result in second] == [(5, False), (6, True)]
    assert not any("missed" in result for result in (*first, *second))


def test_epochs_before_the_last_group_was_lost_are_returned_first(
    proxy: ProxyTrainable, dispatcher_client: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "train", proxy.step)
    dispatcher_client.together = 9
    proxy.begin(config(0))
    monkeypatch.setattr(
        dispatcher_client,
        "next_reports",
        lambda *_: [EpochRecord(1, METRICS), EpochRecord(2, METRICS), NoWorkers("no group")],
    )
    *epochs, end = proxy.train_buffered(1000)
    assert [result["epoch"] for result in epochs] == [1, 2]
    assert end == {"unfit": "no group", "done": True}


def test_a_synchronous_trial_returns_one_result_of_epochs_that_arrive_together(
    proxy: ProxyTrainable, dispatcher_client: Workers
) -> None:
    dispatcher_client.together = 9
    proxy.begin(config(0, until=3))
    result = proxy.step()
    assert result["epoch"] == 3 and [record.epoch for record in result["missed"]] == [1, 2]


@pytest.mark.parametrize(
    ("busy", "end", "message"),
    [(True, "unfit", "was not given back within 15 s"), (False, "failed", "could not be copied")],
)
def test_failed_copy_fails_only_its_trial(
    busy: bool,
    end: str,
    message: str,
    proxy: ProxyTrainable,
    dispatcher_client: Workers,
    tmp_path: Path,
) -> None:
    proxy.begin(config(0, until=2))
    epochs(proxy, 2)
    pointer = checkpoint(proxy, tmp_path / "tune")
    snapshots.remove(tmp_path / "00000")
    dispatcher_client.busy = busy
    proxy.begin(config(0, until=4))
    proxy.load_checkpoint(str(pointer))
    result = proxy.step()
    assert result["done"] and message in result[end]


def test_trial_without_workers_has_not_failed(
    proxy: ProxyTrainable, dispatcher_client: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(*_: Any) -> list[EpochRecord]:
        raise PreflightError("no worker group is left")

    monkeypatch.setattr(dispatcher_client, "next_reports", unfit)
    proxy.begin(config(0))
    assert proxy.step() == {"unfit": "no worker group is left", "done": True}


def test_proxy_sends_heartbeats_while_waiting(
    proxy: ProxyTrainable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats come from a thread, because a step blocks within Ray; they name the process."""
    signs: list[tuple[str, str, Any]] = []
    ended: list[str] = []
    enough = threading.Event()

    class Attended(Workers):
        def send_reader_heartbeat(self, *sign: Any) -> None:
            signs.append(sign)
            if len(signs) == 1:
                raise RuntimeError("Ray is in trouble")
            enough.set()

        def deregister(self, reader: str) -> None:
            ended.append(reader)

    monkeypatch.setattr(
        "orchestrator.cluster.dispatcher_client.DispatcherClient.find", lambda name: Attended()
    )
    monkeypatch.setattr(
        trainables, "get_runtime_context", lambda: SimpleNamespace(current_actor="this process")
    )
    proxy.setup(config(3), replace(proxy.shared, heartbeat_timeout_s=0.001))
    assert enough.wait(60)
    proxy.cleanup()
    assert {sign[1:] for sign in signs} == {("trial-00003", "this process")} and len(
        {sign[0] for sign in signs}
    ) == 1
    assert ended == [signs[0][0]], "it deregisters at its end"
