"""Test jobs of a cluster against a simulated job server: requests and error messages."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

import run
from orchestrator.cluster import jobs
from orchestrator.cluster.jobs import Cluster, Job, server_address
from orchestrator.core.errors import PreflightError
from tests.refusal import refused

Answer = tuple[int, Any]
VERSION: dict[str, list[Answer]] = {
    "/api/version": [
        (200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})
    ]
}


def details(name: str, status: str, **more: Any) -> dict[str, Any]:
    """Return a job as the server describes it."""
    return {
        "type": "SUBMISSION",
        "submission_id": name,
        "status": status,
        "entrypoint": "python run.py sweep",
    } | more


@contextmanager
def server(answers: dict[str, list[Answer]]) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Run a job server that gives the answers of each path in turn, and repeats the last one.

    Yields:
        Its address, and the requests that it received.
    """
    requests: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            requests.append(
                (
                    f"{self.command} {self.path}",
                    self.rfile.read(int(self.headers.get("Content-Length", 0))),
                )
            )
            left = answers.get(self.path, [(200 if self.command == "PUT" else 404, "not found")])
            status, body = left.pop(0) if len(left) > 1 else left[0]
            text = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{listening.server_address[1]}", requests
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove token and address of the test machine, and disable waiting."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jobs, "load_token", lambda: None)
    monkeypatch.setattr(jobs, "POLL_S", 0.0)


def call(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.output


def test_precedence_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # the cluster's own port
    assert server_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    assert server_address(None) == "http://10.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://ray.example/")
    assert server_address(None) == "https://ray.example"
    assert server_address("head:8265") == "http://head:8265"


@pytest.mark.parametrize(
    "address", ["head", "ray://head:10001", "head:port", "auto", "http://", ":8265"]
)
def test_an_invalid_address_is_refused(address: str) -> None:
    with refused("--address", address, "HOST:PORT of the head's dashboard"):
        server_address(address)


@pytest.mark.parametrize("address", ["http://me:hunter22@head:8265", "me:hunter22@head:port"])
def test_an_address_with_a_password_is_not_repeated(address: str) -> None:
    with refused("--address") as refusal:
        server_address(address)
    assert "hunter22" not in f"{refusal.value} {refusal.value.value}"


def test_an_address_without_a_server_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        for command in (["status"], ["status", "mine"], ["stop", "mine"], ["submit", "--detach"]):
            words = ["--", "teacher", "--store", "/s"] if command[0] == "submit" else []
            code, output = call(*command, "--address", address, *words)
            assert (code, output.count("\n")) == (
                3,
                1,
            ) and f"http://{address}: no Ray job server responds there" in output


def test_a_server_that_never_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WORK_S", 0.01)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with refused("--address", address, "a Ray job server", PreflightError):
            Cluster(address)


@pytest.mark.parametrize(
    "answer", [(404, "no such page"), (200, "<html>"), (200, {"other": "server"}), (500, "broken")]
)
def test_a_server_that_is_not_ray_is_refused(answer: Answer) -> None:
    refusal = refused("--address", allowed="a Ray job server", error=PreflightError)
    with server({"/api/version": [answer]}) as (address, _), refusal:
        Cluster(address)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the cluster requires a token, and none is set"),
        (403, "the cluster rejects the token"),
    ],
)
def test_a_missing_or_wrong_token_is_refused(status: int, message: str) -> None:
    with server({"/api/version": [(status, "Unauthorized")]}) as (address, _):
        code, output = call("status", "--address", address)
        assert (
            (code, output.count("\n")) == (3, 1)
            and message in output
            and "RAY_AUTH_TOKEN_PATH" in output
        )


def test_the_package_and_the_job_are_sent() -> None:
    package = "/api/packages/gcs/_ray_pkg_"
    with server(VERSION | {"/api/jobs/": [(200, {"submission_id": "mine", "job_id": "mine"})]}) as (
        address,
        requests,
    ):
        code, output = call(
            "submit",
            "--address",
            address,
            "--detach",
            "--name",
            "mine",
            "--",
            "teacher",
            "--store",
            "/s",
        )
    assert code == 0, output
    assert f"python run.py status mine --address http://{address} --follow" in output
    assert f"python run.py stop mine --address http://{address}" in output
    sent = {line: body for line, body in requests if not line.startswith("GET")}
    (archive,) = [body for line, body in sent.items() if line.startswith(f"PUT {package}")]
    assert archive[:2] == b"PK" and b"orchestrator/cli/_submission.py" in archive
    request = json.loads(sent["POST /api/jobs/"])
    assert (
        request["entrypoint"] == "python run.py teacher --store /s"
        and request["submission_id"] == "mine"
    )
    assert request["runtime_env"]["working_dir"].startswith("gcs://_ray_pkg_")
    assert request["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "30"}
    assert request["metadata"] == {"command": "teacher", "store": "/s"}


def test_a_package_over_the_limit_is_not_sent() -> None:
    with server(VERSION) as (address, requests):
        code, output = call(
            "submit", "--address", address, "--limit-mib", "0.1", "--", "teacher", "--store", "/s"
        )
    assert (code, output.count("\n"), requests) == (
        2,
        1,
        [],
    ) and "--limit-mib 0.1: the project's" in output


def test_a_taken_name_is_refused() -> None:
    refused = (
        "ValueError: Job with submission_id mine already exists. Please use a different "
        "submission_id."
    )
    with server(VERSION | {"/api/jobs/": [(400, refused)]}) as (address, _):
        code, output = call(
            "submit", "--address", address, "--name", "mine", "--", "teacher", "--store", "/s"
        )
    assert code == 2 and "--name 'mine' is already a job of http" in output


def test_jobs_are_listed_without_secrets() -> None:
    found = [
        details(
            "late",
            "RUNNING",
            start_time=2_000_000,
            entrypoint="python run.py sweep --set password=hunter22",
        ),
        details("early", "FAILED", start_time=1_000_000, end_time=1_500_000, driver_exit_code=2),
        # a driver without a submitted job
        details("x", "RUNNING", type="DRIVER", submission_id=None, job_id="01"),
    ]
    with server(VERSION | {"/api/jobs/": [(200, found)]}) as (address, _):
        code, output = call("status", "--address", address)
        assert code == 0 and [line.split()[0] for line in output.splitlines()] == [
            "job",
            "early",
            "late",
        ]
        code, text = call("status", "--address", address, "--json")
    assert "hunter22" not in output + text and json.loads(text)[0]["returned"] == 2


def test_one_job_and_the_end_of_its_log() -> None:
    log = "\n".join(f"line {number}" for number in range(100))
    answers: dict[str, list[Answer]] = VERSION | {
        "/api/jobs/mine": [(200, details("mine", "RUNNING"))],
        "/api/jobs/mine/logs": [(200, {"logs": log})],
        "/api/jobs/other": [(404, "Job other does not exist")],
    }
    with server(answers) as (address, _):
        code, output = call("status", "mine", "--address", address)
        assert (
            code == 0
            and "mine: running" in output
            and "line 80\n" in output
            and "line 79\n" not in output
        )
        code, output = call("status", "other", "--address", address)
        assert code == 2 and f"the cluster at http://{address} has no job 'other'" in output


@pytest.mark.parametrize(
    ("status", "returned", "code", "resume"),
    [
        ("SUCCEEDED", 0, 0, False),
        ("FAILED", 2, 2, False),
        ("FAILED", 130, 130, True),
        ("FAILED", -9, 1, True),
        ("FAILED", None, 1, True),
        ("STOPPED", None, 130, True),
    ],
)
def test_a_job_is_followed_and_its_status_returned(
    status: str, returned: int | None, code: int, resume: bool
) -> None:
    """The log arrives completely and once although the connection for it is never established."""
    labels = {"run": "kd", "store": "/my store"}
    end = details(
        "mine", status, driver_exit_code=returned, metadata=labels, message="it went wrong"
    )
    answers: dict[str, list[Answer]] = VERSION | {
        "/api/jobs/mine": [(200, details("mine", "RUNNING")), (500, "for a moment"), (200, end)],
        "/api/jobs/mine/logs": [(200, {"logs": "one\ntwo\n"})],
    }
    with server(answers) as (address, _):
        found, output = call("status", "mine", "--address", address, "--follow")
    assert found == code and output.startswith(f"one\ntwo\nmine: {status.lower()}")
    assert (
        f"submit --address http://{address} -- sweep --resume kd --store '/my store'" in output
    ) == resume


def test_an_interrupt_ends_the_log_and_the_job_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Job:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cluster, "follow", interrupted)
    with server(VERSION | {"/api/jobs/": [(200, {"submission_id": "mine", "job_id": "mine"})]}) as (
        address,
        requests,
    ):
        code, output = call(
            "submit", "--address", address, "--name", "mine", "--", "teacher", "--store", "/s"
        )
    assert code == 130 and "mine continues" in output
    # the commands that follow and stop it
    assert output.count(f"mine --address http://{address}") == 2
    assert not [line for line, _ in requests if line.endswith("/stop")]


def test_a_head_without_python_is_reported() -> None:
    answers = VERSION | {"/api/jobs/mine": [(200, details("mine", "FAILED", driver_exit_code=127))]}
    with server(answers | {"/api/jobs/mine/logs": [(200, {"logs": ""})]}) as (address, _):
        code, output = call("status", "mine", "--address", address, "--follow")
    assert code == 127 and "the head node found no `python`" in output


@pytest.mark.parametrize("command", ["status", "stop"])
def test_a_name_that_changes_the_url_is_refused(command: str) -> None:
    with server(VERSION) as (address, requests):
        code, output = call(command, "../nodes?view=summary", "--address", address)
    assert code == 2 and "is not a valid job name" in output
    assert {line for line, _ in requests} == {"GET /api/version"}


def test_following_an_unresponsive_cluster_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RESPONSE_TIMEOUT_S", 0.0)
    answers: dict[str, list[Answer]] = VERSION | {"/api/jobs/mine": [(500, "gone")]}
    with (
        server(answers) as (address, _),
        refused("--address", f"http://{address}", None, PreflightError),
    ):
        Cluster(address).follow("mine", print)


def test_an_interrupted_log_is_written_once() -> None:
    written_texts: list[str] = []
    log_writer = jobs._LogWriter(written_texts.append)
    for at, text in [(0, "abc"), (3, "def"), (0, "abcd"), (4, "efgh"), (0, "abcdefghi"), (0, "")]:
        log_writer.add(at, text)
    assert written_texts == ["abc", "def", "gh", "i"]


def test_a_job_is_stopped_and_waited_for() -> None:
    labels = {"run": "kd", "store": "/s"}
    answers: dict[str, list[Answer]] = VERSION | {
        "/api/jobs/mine": [
            (200, details("mine", status, metadata=labels))
            for status in ("RUNNING", "RUNNING", "STOPPED")
        ],
        "/api/jobs/mine/stop": [(200, {"stopped": True})],
    }
    with server(answers) as (address, requests):
        code, output = call("stop", "mine", "--address", address)
        assert code == 0 and output.splitlines() == [
            "mine: stopped",
            f"  resume: python run.py submit --address http://{address} -- sweep --resume kd "
            f"--store /s",
        ]
        before = len(requests)
        code, output = call("stop", "mine", "--address", address)
        assert code == 0 and "mine: stopped, it had already ended" in output
    assert not [line for line, _ in requests[before:] if line.startswith("POST")]


def test_a_job_that_does_not_stop_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "STOP_S", 0)
    monkeypatch.setattr(jobs, "END_TIMEOUT_S", 0.0)
    answers: dict[str, list[Answer]] = VERSION | {
        "/api/jobs/mine": [(200, details("mine", "RUNNING"))],
        "/api/jobs/mine/stop": [(200, {"stopped": True})],
    }
    with (
        server(answers) as (address, _),
        refused("name", "mine", "an end within 0 s", PreflightError),
    ):
        Cluster(address).stop("mine")


def test_exit_codes_of_jobs() -> None:
    assert [
        Job("a", state, "", returned=code).exit_code
        for state, code in [("failed", 3), ("failed", -15), ("succeeded", 0)]
    ] == [3, 1, 0]
    assert not Job("a", "pending", "").has_ended


def test_follow_needs_a_name() -> None:
    code, output = call("status", "--follow")
    assert code == 2 and "--follow needs the name of a job" in output
