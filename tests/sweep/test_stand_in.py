"""Test the stand-in between Tune and the dispatcher: submissions, reports, checkpoint sources."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import SNAPSHOTS
from orchestrator.core.errors import PreflightError
from orchestrator.sweep import _snapshots as snapshots
from orchestrator.sweep import _trainable as stand_ins
from orchestrator.sweep._trainable import ProxyTrainable
from tests.sweep.test_snapshots import read, save

METRICS = {"validation/accuracy": 0.5}


class Workers:
    """A dispatcher whose only group trains a submitted trial immediately from its checkpoint.

    It trains up to the epoch `until`.
    """

    def __init__(self, epochs: int = 6) -> None:
        self.epochs = epochs
        self.done: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.busy = False

    def wait_until_released(self, trial: str, wait_s: float) -> None:
        if self.busy:
            raise PreflightError(f"{trial} was not given back within {wait_s:g} s")
        self.done.append(f"released {trial}")

    def submit(self, trial: str, specification: dict[str, Any]) -> None:
        folder, until = Path(specification["folder"]), specification["until"] or self.epochs
        self.done.append(f"submit {trial} until {until}")
        owner, epoch = (
            read(folder / "checkpoint").split()
            if (folder / "checkpoint").is_dir()
            else (folder.name, "0")
        )
        first = max(int(epoch), 1)
        for each in range(specification["known"] + 1, first):  # which were not received
            self.records.append({"epoch": each, "metrics": METRICS, "done": False, "behind": True})
        for each in range(first, max(min(until, self.epochs), int(epoch)) + 1):
            save(folder, f"{owner} {each}")
            self.records.append({"epoch": each, "metrics": METRICS, "done": each == self.epochs})

    def next_report(self, trial: str, silence_s: float) -> dict[str, Any]:
        return self.records.pop(0)


@pytest.fixture
def dispatcher_client() -> Workers:
    return Workers()


@pytest.fixture
def stand_in(tmp_path: Path, dispatcher_client: Workers) -> ProxyTrainable:
    made = ProxyTrainable.__new__(ProxyTrainable)  # as Tune would make it, without an actor
    folders = {"trials": str(tmp_path), "data": "data", "teacher": None, "knowledge": None}
    made.shared = {
        "folders": folders,
        "heartbeat_timeout_s": 5.0,
        "objective": "validation/accuracy",
    }
    made.dispatcher_client = cast(Any, dispatcher_client)
    return made


def config(number: int, until: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "number": number,
        "configuration": Configuration().model_dump_json(),
        "until": until,
        **more,
    }


def epochs(stand_in: ProxyTrainable, steps: int) -> list[int]:
    return [stand_in.step()["epoch"] for _ in range(steps)]


def checkpoint(stand_in: ProxyTrainable, folder: Path) -> Path:
    folder.mkdir()
    stand_in.save_checkpoint(str(folder))
    return folder


def test_nothing_is_submitted_before_the_first_step(
    stand_in: ProxyTrainable, dispatcher_client: Workers
) -> None:
    assert stand_in.reset_config(config(0)) and not dispatcher_client.done
    assert epochs(stand_in, 6) == [1, 2, 3, 4, 5, 6]
    assert dispatcher_client.done == ["submit trial-00000 until 6"]


def test_paused_trial_continues_and_reports_no_epoch_twice(
    stand_in: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    stand_in.begin(config(0, until=2))
    assert epochs(stand_in, 2) == [1, 2]
    kept = checkpoint(stand_in, tmp_path / "tune")
    assert [path.name for path in kept.iterdir()] == ["pointer.json"], "weights stay where they are"
    stand_in.begin(config(1, until=2))  # the stand-in serves another trial in between
    assert epochs(stand_in, 2) == [1, 2]
    stand_in.reset_config(config(0, until=4))
    stand_in.load_checkpoint(str(kept))
    assert epochs(stand_in, 2) == [3, 4]
    assert dispatcher_client.done[-2:] == ["released trial-00000", "submit trial-00000 until 4"]


def test_a_trial_takes_over_another_ones_weights(
    stand_in: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    stand_in.begin(config(0, until=2))
    epochs(stand_in, 2)
    kept = checkpoint(stand_in, tmp_path / "tune")
    stand_in.begin(config(1, until=2))
    epochs(stand_in, 2)
    stand_in.reset_config(config(1, until=4))
    stand_in.load_checkpoint(str(kept))
    assert epochs(stand_in, 2) == [3, 4]
    assert (
        read(tmp_path / "00001" / "checkpoint") == "00000 4"
        and read(tmp_path / "00000" / "checkpoint") == "00000 2"
    )
    assert sorted(path.name for path in (tmp_path / "00001" / SNAPSHOTS).iterdir()) == [
        "epoch-2",
        "epoch-4",
    ]


def test_the_last_epoch_is_no_pause(stand_in: ProxyTrainable, tmp_path: Path) -> None:
    stand_in.begin(config(0, until=6))
    assert epochs(stand_in, 5) == [1, 2, 3, 4, 5]
    assert stand_in.step()["done"] and not (tmp_path / "00000" / SNAPSHOTS).exists()


def test_steps_after_the_worker_stopped_return_the_remaining_epochs(
    stand_in: ProxyTrainable, dispatcher_client: Workers
) -> None:
    stand_in.begin(config(0, until=2))
    assert epochs(stand_in, 6) == [1, 2, 3, 4, 5, 6]
    assert dispatcher_client.done == [
        "submit trial-00000 until 2",
        "released trial-00000",
        "submit trial-00000 until 6",
    ]


def test_resumed_trial_reports_its_last_epoch_and_completes_the_copy(
    stand_in: ProxyTrainable, tmp_path: Path
) -> None:
    save(tmp_path / "00003", "00003 2")
    kept = snapshots.keep(tmp_path / "00003", 2)
    save(tmp_path / "00000", "00000 2")
    stand_in.begin(config(0, until=4, snapshot=str(kept), known=1))
    assert epochs(stand_in, 3) == [2, 3, 4], (
        "the driver may have died before it heard of the second epoch"
    )
    assert read(tmp_path / "00000" / "checkpoint") == "00003 4"


def test_a_resumed_trial_goes_on_from_its_own_where_nothing_is_left(
    stand_in: ProxyTrainable, tmp_path: Path
) -> None:
    save(tmp_path / "00000", "00000 2")
    stand_in.begin(
        config(0, until=4, snapshot=str(tmp_path / "00003" / "snapshots" / "epoch-2"), known=2)
    )
    assert epochs(stand_in, 3) == [2, 3, 4]
    assert read(tmp_path / "00000" / "checkpoint") == "00000 4"


def test_epochs_that_a_dead_driver_missed_are_reported_one_by_one(
    stand_in: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    save(tmp_path / "00000", "00000 4")
    stand_in.begin(config(0, known=1))
    assert epochs(stand_in, 5) == [2, 3, 4, 5, 6]


def test_synchronous_trial_reports_missed_epochs_with_its_current_epoch(
    stand_in: ProxyTrainable, dispatcher_client: Workers, tmp_path: Path
) -> None:
    save(tmp_path / "00000", "00000 4")
    stand_in.begin(config(0, until=2, known=1))
    result = stand_in.step()
    assert result["epoch"] == 4 and [record["epoch"] for record in result["missed"]] == [2, 3]
    assert not any("behind" in record for record in (result, *result["missed"]))
    assert (tmp_path / "00000" / SNAPSHOTS / "epoch-4").is_dir(), (
        "where it stands is kept, and nothing else"
    )
    assert "missed" not in stand_in.step()


@pytest.mark.parametrize(
    ("busy", "end", "message"),
    [(True, "unfit", "was not given back within 15 s"), (False, "failed", "could not be copied")],
)
def test_what_cannot_be_taken_over_fails_the_trial_alone(
    busy: bool,
    end: str,
    message: str,
    stand_in: ProxyTrainable,
    dispatcher_client: Workers,
    tmp_path: Path,
) -> None:
    stand_in.begin(config(0, until=2))
    epochs(stand_in, 2)
    kept = checkpoint(stand_in, tmp_path / "tune")
    snapshots.remove(tmp_path / "00000")
    dispatcher_client.busy = busy
    stand_in.begin(config(0, until=4))
    stand_in.load_checkpoint(str(kept))
    result = stand_in.step()
    assert result["done"] and message in result[end]


def test_trial_without_workers_has_not_failed(
    stand_in: ProxyTrainable, dispatcher_client: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unfit(trial: str, wait_s: float) -> dict[str, Any]:
        raise PreflightError("no worker group is left")

    monkeypatch.setattr(dispatcher_client, "next_report", unfit)
    stand_in.begin(config(0))
    assert stand_in.step() == {"unfit": "no worker group is left", "done": True}


def test_it_shows_life_whatever_its_trial_waits_for(
    stand_in: ProxyTrainable, monkeypatch: pytest.MonkeyPatch
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
        stand_ins, "get_runtime_context", lambda: SimpleNamespace(current_actor="this process")
    )
    stand_in.setup(
        config(3), stand_in.shared | {"dispatcher": "name", "heartbeat_timeout_s": 0.001}
    )
    assert enough.wait(60)
    stand_in.cleanup()
    assert {sign[1:] for sign in signs} == {("trial-00003", "this process")} and len(
        {sign[0] for sign in signs}
    ) == 1
    assert ended == [signs[0][0]], "it deregisters at its end"
