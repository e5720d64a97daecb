"""Test the MLflow writer on a failing fake: order, outages, refusals, kills, the end."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking import _client as client_module
from orchestrator.tracking import _outbox
from orchestrator.tracking import _sender as sending
from orchestrator.tracking import _writer as writing
from orchestrator.tracking._client import classify_error
from orchestrator.tracking._sender import REFUSED, Sender
from orchestrator.tracking._writer import Writer
from orchestrator.tracking._writer_messages import Message, Setup
from orchestrator.tracking._writes import LogPoints, LogText, SetTags, Write
from tests.writer_thread import WriterThread


class Answer(Exception):
    """MLflow's exception for an HTTP status."""

    def __init__(self, status: int, error_code: str = "") -> None:
        super().__init__(f"status {status}, password=abc")
        self.status, self.error_code = status, error_code

    def get_http_status_code(self) -> int:
        return self.status


class Server:
    """A server that stores writes; `fails` gives the error of a write, or None to accept it."""

    def __init__(self, fails: Callable[[Write], Exception | None] = lambda write: None) -> None:
        self.fails, self.up = fails, True
        self.taken: list[Write] = []
        self.again: list[bool] = []

    def perform(self, client: Any, writes: Sequence[Write], again: bool) -> None:
        if not self.up:
            raise ConnectionError("down")
        for write in writes:
            error = self.fails(write)
            if error:
                raise error
        self.taken += writes
        self.again += [again] * len(writes)

    def is_open(self, write: Write) -> bool:
        return True

    def search_experiments(self, max_results: int) -> list[Any]:
        if not self.up:
            raise ConnectionError("down")
        return []

    @property
    def numbers(self) -> list[int]:
        return [int(write.run) for write in self.taken]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_S", "LONGEST_RETRY_S", "FLUSH_S"):
        monkeypatch.setattr(sending, name, 0.0)
    monkeypatch.setattr(sending, "POLL_S", 0.01)
    for name in ("STALL_S", "INTERRUPTED_STALL_S", "RESTART_S"):
        monkeypatch.setattr(writing, name, 0.0)


class Fixed(Writer):
    """Writer to a fake server; `sender` is the last one that was started."""

    sender: Sender


@pytest.fixture
def writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[Fixed, list[str]]]]:
    made: list[Writer] = []
    folder = tmp_path / "mine"

    def make(server: Server, uri: str = "http://server") -> tuple[Fixed, list[str]]:
        def build(setup: Setup, objects: Any, report: Callable[[Message], None]) -> Sender:
            made_here.sender = Sender(
                setup.uri,
                folder,
                server.perform,
                report,
                server.is_open,
                setup.resume,
                recovered=setup.recovered,
            )
            return made_here.sender

        def start() -> WriterThread:
            return WriterThread(build)

        monkeypatch.setattr(sending, "connect", lambda uri: server)
        monkeypatch.setattr(writing, "start_process", start)
        made_here = Fixed(folder, setup_of(folder, uri))
        notes: list[str] = []
        made_here.notify = notes.append
        made.append(made_here)
        return made_here, notes

    yield make
    for each in made:
        each.close(timeout=0.0)


def setup_of(folder: Path, uri: str) -> Setup:
    return Setup(
        root=str(folder.parent),
        store_uri="",
        folder=str(folder),
        record="",
        uri=uri,
        classes=[],
        sources={},
        plugins=[],
        has_objects=False,
        registers_model=False,
        program="run.py",
        resume="sweep --resume mine",
    )


def write(number: int) -> Write:
    return SetTags(run=str(number), tags={})


def points(number: int) -> Write:
    return LogPoints(run=str(number), points={})


def hand_over(writer: Writer, *writes: Write) -> None:
    for each in writes:
        writer.add(each)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, ten seconds at most."""
    turn = threading.Event()
    for _ in range(1000):
        if condition():
            return
        turn.wait(0.01)
    raise AssertionError("it did not come to pass")


def test_writes_are_done_in_order_and_points_together(writer: Any) -> None:
    calls: list[int] = []
    server = Server()
    perform = server.perform

    def count(client: Any, writes: Sequence[Write], again: bool) -> None:
        calls.append(len(writes))
        perform(client, writes, again)

    server.perform = count  # type: ignore[method-assign]
    sender, notes = writer(server)
    hand_over(sender, *(points(number) if number % 10 else write(number) for number in range(50)))
    assert server.numbers == [], "it has not started"
    assert sender.close() == 0 and notes == []
    assert server.numbers == list(range(50)) and not any(server.again)
    assert calls == [1, 9] * 5


def test_outage_loses_nothing_and_is_reported_once(writer: Any) -> None:
    server = Server()
    server.up = False
    sender, notes = writer(server, uri="http://ann:secret@server")
    hand_over(sender, write(0), write(1))
    sender.begin()
    until(lambda: sender.failing and sender.sender.writes.tries > 20)
    assert (
        len(notes) == 1
        and "trials continue" in notes[0]
        and "secret" not in notes[0]
        and server.taken == []
    )
    server.up = True
    hand_over(sender, write(2))
    assert sender.close() == 0 and server.numbers == [0, 1, 2]
    assert server.again == [True, False, False], "the outcome of the first one is unknown"
    assert len(notes) == 2 and "answers again" in notes[1]


def test_files_alone_that_cannot_be_sent_hold_nothing_else_up(writer: Any) -> None:
    server = Server(lambda given: PermissionError("/srv") if isinstance(given, LogText) else None)
    sender, notes = writer(server)
    sender.add(LogText(run="0", text="", file="a"), files=True)
    hand_over(sender, write(1), write(2))
    sender.begin()
    until(lambda: server.numbers == [1, 2] and sender.sender.files.tries > 1)
    until(lambda: bool(notes))
    assert len(notes) == 1 and notes[0].startswith("files cannot be sent")
    server.fails = lambda given: None
    assert sender.close() == 0 and server.numbers == [1, 2, 0]


def test_a_file_waits_until_its_run_was_opened(writer: Any) -> None:
    server = Server()
    server.is_open = lambda write: "0" in {taken.run for taken in server.taken}  # type: ignore[method-assign]
    sender, _ = writer(server)
    sender.add(write(9), files=True)
    hand_over(sender, write(0), write(1))
    assert sender.close() == 0 and server.numbers[0] == 0


def test_what_is_refused_is_set_aside_and_the_others_go_on(writer: Any, tmp_path: Path) -> None:
    server = Server(lambda given: Answer(400) if given.run in ("0", "4") else None)
    sender, notes = writer(server)
    hand_over(sender, write(0), write(1), *(points(number) for number in range(2, 7)), write(7))
    assert sender.close() == 0 and server.numbers == [1, 2, 3, 5, 6, 7]
    assert len(notes) == 1 and "refuses a write" in notes[0] and "abc" not in notes[0]
    kept = [json.loads(line) for line in (tmp_path / "mine" / REFUSED).read_text().splitlines()]
    assert [each["write"]["run"] for each in kept] == ["0", "4"]
    assert "status 400" in kept[0]["error"]
    assert (tmp_path / "mine" / REFUSED).stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_for_ever_on_a_server_that_answers_is_set_aside(
    writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "STUBBORN", 3)
    server = Server(lambda given: Answer(500) if given.run == "1" else None)
    sender, notes = writer(server)
    hand_over(sender, points(0), points(1), points(2))
    sender.begin()
    until(lambda: server.numbers == [0, 2])
    assert sender.close() == 0 and any("refuses a write" in text for text in notes)


def test_refusal_by_an_unreachable_server_is_an_outage(writer: Any, tmp_path: Path) -> None:
    server = Server(lambda given: Answer(400))  # as from a proxy
    server.search_experiments = lambda max_results: (_ for _ in ()).throw(Answer(400))  # type: ignore[method-assign]
    sender, _ = writer(server)
    hand_over(sender, write(0))
    assert sender.close() == 1 and not (tmp_path / "mine" / REFUSED).exists()


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_reported_once_and_writes_stay_queued(
    status: int, writer: Any
) -> None:
    server = Server(lambda given: Answer(status))
    sender, notes = writer(server)
    hand_over(sender, write(0), write(1))
    assert sender.close() == 2 and server.taken == []
    assert sum("MLFLOW_TRACKING_USERNAME" in text for text in notes) == 1 and "abc" not in "".join(
        notes
    )
    assert "2 writes to MLflow were not sent" in notes[-1] and "sweep --resume mine" in notes[-1]
    server.fails = lambda given: None
    again, notes = writer(server)
    assert (
        again.close() == 0
        and server.numbers == [0, 1]
        and notes == []
        and server.again == [True, True]
    )


def test_a_kill_at_any_write_loses_none_and_repeats_one_at_most(writer: Any) -> None:
    """MLflow has the write, and both processes end before the answer."""
    for killed in range(6):
        server = Server()
        sender, _ = writer(server)
        hand_over(sender, *map(write, range(6)))

        def die(
            client: Any,
            writes: Sequence[Write],
            again: bool,
            at: int = killed,
            server: Server = server,
            sender: Writer = sender,
        ) -> None:
            Server.perform(server, client, writes, again)
            if int(writes[0].run) == at and not sender.given_up.is_set():
                sender.given_up.set()
                raise SystemExit

        server.perform = die  # type: ignore[method-assign]
        sender.begin()
        sender.thread.join(10)
        again, _ = writer(server)
        assert again.unsent == 6 - killed and again.close() == 0
        assert server.numbers == [*range(killed + 1), *range(killed, 6)], killed
        assert server.again[killed + 1], "the write with an unknown outcome is checked"
        sender.close()


def test_a_process_that_dies_is_started_again_and_repeats_one_write_at_most(writer: Any) -> None:
    server, perform = Server(), Server.perform

    def die(client: Any, writes: Sequence[Write], again: bool) -> None:
        perform(server, client, writes, again)
        if int(writes[0].run) in (1, 3) and not again:
            raise SystemExit

    server.perform = die  # type: ignore[method-assign]
    sender, notes = writer(server)
    hand_over(sender, *map(write, range(3)))
    sender.begin()
    until(lambda: server.numbers == [0, 1, 1, 2])
    hand_over(sender, *map(write, range(3, 5)))
    assert sender.close() == 0
    assert server.numbers == [0, 1, 1, 2, 3, 3, 4] and server.again == [
        *(False, False, True, True),
        *(False, True, True),
    ]
    assert len(notes) == 2 and all("signal 9" in text for text in notes)


def test_a_process_that_always_dies_is_started_a_limited_number_of_times(writer: Any) -> None:
    server, starts = Server(), list[Write]()

    def die(client: Any, writes: Sequence[Write], again: bool) -> None:
        starts.extend(writes)
        raise SystemExit

    server.perform = die  # type: ignore[method-assign]
    sender, notes = writer(server)
    hand_over(sender, write(0))
    assert sender.close() == 1 and len(starts) == writing.STARTS
    assert len(notes) == writing.STARTS + 1 and f"ended {writing.STARTS} times" in notes[-2]


def test_a_process_that_cannot_be_started_loses_nothing(
    writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    sender, notes = writer(server)
    start = writing.start_process

    def refuse() -> WriterThread:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(writing, "start_process", refuse)
    hand_over(sender, write(0))
    assert sender.close() == 1 and "Cannot allocate memory" in notes[0]
    again, notes = writer(server)
    monkeypatch.setattr(writing, "start_process", start)
    assert again.close() == 0 and server.numbers == [0] and notes == []


def test_a_server_that_never_answers_is_given_up(
    writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "INTERRUPTED_S", 0.3)
    monkeypatch.setattr(writing, "NOTICE_S", 0.0)
    hangs = threading.Event()
    server = Server()

    def hang(client: Any, writes: Sequence[Write], again: bool) -> None:
        hangs.wait(20)
        raise SystemExit  # as of SIGKILL

    server.perform = hang  # type: ignore[method-assign]
    sender, notes = writer(server)
    hand_over(sender, write(0), write(1))
    assert sender.close(hurried=True) == 2
    assert notes[0] == "waiting for MLflow: 2 writes unsent" and notes[1].startswith(
        "2 writes to MLflow were not sent"
    )
    del server.perform
    again, _ = writer(server)
    again.begin()
    hangs.set()  # the second process waits for the end of the first
    assert again.close() == 0 and server.numbers == [0, 1], (
        "what an abandoned process did is not believed"
    )


def test_a_full_disk_is_waited_for_at_the_end(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    sender, _ = writer(server)
    store_held, full = sender.writes._store_held, [True]
    monkeypatch.setattr(sender.writes, "_store_held", lambda: full[0] or store_held())
    hand_over(sender, write(0))
    sender.begin()
    threading.Timer(0.2, lambda: full.__setitem__(0, False)).start()
    assert sender.close() == 0 and server.numbers == [0]


def test_a_large_queue_is_compacted_while_it_is_sent(
    writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_outbox, "LARGE", 1000)
    server = Server()
    sender, _ = writer(server)
    sender.begin()
    for number in range(100):
        hand_over(sender, write(number))
        until(lambda number=number: server.numbers == list(range(number + 1)))  # type: ignore[misc]
    until(lambda: sender.writes.file.stat().st_size < 1500)
    assert sender.close() == 0 and server.numbers == list(range(100))


def test_nothing_to_send_starts_nothing(writer: Any) -> None:
    sender, notes = writer(Server())
    assert sender.close() == 0 and not sender.started and notes == []


def test_errors_are_classified() -> None:
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, Response
    from requests.exceptions import ConnectionError as Refused

    response = Response()
    response.status_code = 403
    expected = {
        "away": [
            ConnectionError(),
            TimeoutError(),
            Refused(),
            OSError(28, "full"),
            Answer(503),
            Answer(429),
            MlflowException("any"),
            Answer(404, "ENDPOINT_NOT_FOUND"),
        ],
        "denied": [
            Answer(401),
            HTTPError(response=response),
            RestException({"error_code": "PERMISSION_DENIED"}),
        ],
        "refused": [
            KeyError("run"),
            RestException({"error_code": "INVALID_PARAMETER_VALUE"}),
            Answer(404, "RESOURCE_DOES_NOT_EXIST"),
        ],
    }
    for kind, errors in expected.items():
        assert {classify_error(error) for error in errors} == {kind}, kind


def test_failed_request_is_shortened_to_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "sesame-42")
    pool = (
        "API request to http://h/api failed with exception HTTPConnectionPool(host='h'): "
        "Max retries exceeded with url: /api/"
    )
    for caused, expected in {
        "(Caused by NewConnectionError('<x at 0x1>: Failed: [Errno 111] Connection "
        "refused'))": "[Errno 111] Connection refused",
        "(Caused by ResponseError('too many 503 error responses'))": "too many 503 error responses",
        "Read timed out. (read timeout=10)": "timed out",
    }.items():
        assert client_module.short_message(OSError(f"{pool} {caused}")) == expected
    assert client_module.short_message(ValueError("sesame-42 is\nwrong")) == "*** is wrong"
    assert (
        client_module.short_message(ValueError()) == "ValueError"
        and len(client_module.short_message(ValueError("x" * 1000))) == 200
    )


def test_client_retries_briefly_unless_the_environment_sets_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (*client_module.PATIENCE, *client_module.QUIET):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    client_module.connect("http://127.0.0.1:1")
    assert (
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        and os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    )
    assert all(os.environ[name] == value for name, value in client_module.QUIET.items())
