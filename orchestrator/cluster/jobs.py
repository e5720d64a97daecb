"""Submit, follow and stop jobs of a running cluster through its job server.

Authentication is Ray's own (RAY_AUTH_MODE with RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or
~/.ray/auth_token): no token passes through this module. Every request has a time limit.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from orchestrator.cluster.connect import load_token
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.program import program_name
from orchestrator.core.proxies import bypass_proxies
from orchestrator.core.redact import redact
from orchestrator.store.store import NAME

SERVER = "RAY_API_SERVER_ADDRESS"
DEFAULT_SERVER = "http://127.0.0.1:8265"
ANSWER_S, WORK_S = 5.0, 60.0  # to connect, and to receive the response
STOP_S = 30  # for a stopped run to finish its writes; Ray would kill it after 3 s
END_TIMEOUT_S = 30.0  # for Ray to notice that a job has ended
RESPONSE_TIMEOUT_S = 60.0  # without a response, after which a job is no longer followed
POLL_S = 0.5
TERMINAL_STATES = ("succeeded", "failed", "stopped")


@dataclass(frozen=True)
class Job:
    """Job as the cluster reports it.

    `state` is pending, running, succeeded, failed or stopped.
    """

    name: str
    state: str
    entrypoint: str
    started: datetime | None = None
    ended: datetime | None = None
    returned: int | None = None
    message: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Return whether the job has ended, in any way."""
        return self.state in TERMINAL_STATES

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that waited for the job.

        It is the code of the job's program if the program failed with one.
        """
        if self.state == "stopped":
            return errors.INTERRUPTED
        if self.state == "succeeded":
            return errors.OK
        return self.returned if self.returned and self.returned > 0 else errors.NO_USABLE_TRIAL


def server_address(address: str | None) -> str:
    """Return the URL of the job server.

    Args:
        address: Address of the server; None: that of the environment, or else this machine.

    Raises:
        ConfigurationError: The address is not that of a job server, or it holds a user or a
            password.
    """
    field = "--address"
    if not address:
        field = SERVER if os.environ.get(SERVER) else "RAY_ADDRESS"
        address = os.environ.get(field, "")
        if field == "RAY_ADDRESS" and not address.startswith(("http://", "https://")):
            address = (
                DEFAULT_SERVER  # RAY_ADDRESS names the cluster's own port, not the job server's
            )
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        is_valid = (
            parts.scheme in ("http", "https")
            and parts.hostname
            and (parts.port or "://" in address)
        )
    except ValueError:  # the port is not a number
        parts, is_valid = urlsplit(""), None
    displayed = redact(url) if "@" in address else address
    if parts.username or parts.password:
        raise ConfigurationError(
            f"{field} contains a user or a password: remove them; Ray reads its token from "
            f"the file that RAY_AUTH_TOKEN_PATH names"
        ).with_details(field, displayed, "an address without a user and a password")
    if not is_valid:
        raise ConfigurationError(
            f"{field} = {displayed!r} is not the address of a job server: give HOST:PORT of the "
            f"head's dashboard, such as 127.0.0.1:8265"
        ).with_details(field, displayed, "HOST:PORT of the head's dashboard")
    return url.rstrip("/")


class Cluster:
    """Client of the job server at an address.

    Raises:
        PreflightError: No server responds there, or it requires another token.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = server_address(address)
        bypass_proxies(self.address)
        load_token()
        for logger_name in ("dashboard_sdk", "job.sdk"):
            logging.getLogger(f"ray.dashboard.modules.{logger_name}").setLevel(logging.ERROR)
        with self._convert_errors():
            try:
                self._client = _client(self.address)
            except (RuntimeError, ValueError, KeyError) as error:  # the server is not Ray's
                raise ConnectionError(str(error)) from error

    def submit(self, name: str, entrypoint: str, archive: Path, labels: dict[str, str]) -> None:
        """Submit a job.

        Args:
            name: Name of the job.
            entrypoint: Command line of the job.
            archive: Archive whose files become the job's working folder on every node.
            labels: Metadata of the job.
        """
        environment = {
            "working_dir": str(archive),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
        }
        with self._convert_errors(name):
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=name, runtime_env=environment, metadata=labels
            )

    def jobs(self) -> list[Job]:
        """Return all jobs that were ever submitted, the oldest first."""
        with self._convert_errors():
            jobs = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(jobs, key=lambda job: (job.started is not None, job.started, job.name))

    def job(self, name: str) -> Job:
        """Return one job.

        Raises:
            ConfigurationError: No job has this name.
        """
        with self._convert_errors(name):
            return _job(self._client.get_job_info(name))

    def log(self, name: str) -> str:
        """Return the output of the job so far."""
        with self._convert_errors(name):
            return str(self._client.get_job_logs(name))

    def follow(self, name: str, write: Callable[[str], None]) -> Job:
        """Write the output of a job from its beginning to its end, then return the job.

        A broken connection is resumed.

        Raises:
            PreflightError: The server has not responded for `RESPONSE_TIMEOUT_S`.
        """
        log_writer, last_response = _LogWriter(write), time.monotonic()
        while True:
            position = 0
            for text in self._pieces(name):
                log_writer.add(position, text)
                position += len(text)
            try:
                job, last_response = self.job(name), time.monotonic()
            except PreflightError:
                if time.monotonic() - last_response > RESPONSE_TIMEOUT_S:
                    raise
            else:
                if job.has_ended:
                    log_writer.add(0, self.log(name))
                    return job
            time.sleep(POLL_S)

    def stop(self, name: str) -> tuple[Job, bool]:
        """Stop a job and wait for its end.

        Returns:
            The job, and whether it was running until now.

        Raises:
            PreflightError: The job has not ended after `STOP_S` and `END_TIMEOUT_S`.
        """
        job = self.job(name)
        if job.has_ended:
            return job, False
        with self._convert_errors(name):
            self._client.stop_job(name)
        until = time.monotonic() + STOP_S + END_TIMEOUT_S
        while not (job := self.job(name)).has_ended:
            if time.monotonic() > until:
                raise PreflightError(
                    f"{name} has not ended {STOP_S + END_TIMEOUT_S:.0f} s after the stop request: "
                    f"check it with `{program_name()} status {name} --address {self.address}`"
                ).with_details("name", name, f"an end within {STOP_S + END_TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        return job, True

    def _pieces(self, name: str) -> Iterator[str]:
        """Yield the log from its beginning, until it ends or its connection breaks.

        The job's state shows which of the two happened.
        """
        pieces = self._client.tail_job_logs(name)

        async def next_piece() -> str | None:
            return await anext(pieces, None)

        with asyncio.Runner() as runner:
            while True:
                try:
                    text = runner.run(next_piece())
                except Exception:
                    return
                if text is None:
                    return
                yield text

    @contextlib.contextmanager
    def _convert_errors(self, name: str = "") -> Iterator[None]:
        """Convert the errors of a request to messages for the user.

        Check the name of the job first, which is a part of the request's URL.
        """
        if name and not NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} is not a valid job name: use letters, digits, '.', '_' or '-'"
            ).with_details("name", name, "letters, digits, '.', '_' or '-'")
        try:
            yield
        except AuthenticationError as error:
            if "failed" in str(error):
                problem = "rejects the token"
            else:
                problem = "requires a token, and none is set"
            raise PreflightError(
                f"--address {self.address}: the cluster {problem}: put the cluster's token into "
                "~/.ray/auth_token or the file that RAY_AUTH_TOKEN_PATH names, and set "
                "RAY_AUTH_MODE=token (`ray get-auth-token` prints it on the head)"
            ).with_details("--address", self.address, "the cluster's token") from error
        except OSError as error:  # from Python or from requests
            raise PreflightError(
                f"--address {self.address}: no Ray job server responds there: give HOST:PORT "
                f"of the head's dashboard, usually "
                "port 8265, or open a tunnel to it with `ssh -L 8265:127.0.0.1:8265 HEAD`"
            ).with_details("--address", self.address, "a Ray job server") from error
        except (RuntimeError, ValueError, KeyError) as error:
            raise self._refusal(name, error) from error

    def _refusal(self, name: str, error: Exception) -> errors.UserError:
        error_text = str(error)
        if name and "does not exist" in error_text and "404" in error_text:
            return ConfigurationError(
                f"the cluster at {self.address} has no job {name!r}: "
                f"`{program_name()} status --address {self.address}` lists its jobs"
            ).with_details("name", name, f"a job of {self.address}")
        if name and "already exists" in error_text:
            return ConfigurationError(
                f"--name {name!r} is already a job of {self.address}: use another name, or "
                f"omit the option"
            ).with_details("--name", name, "a name that no job has")
        return PreflightError(
            f"--address {self.address}: the job server failed ({shorten_error(error)}): check "
            f"the head's logs"
        ).with_details("--address", self.address)


class _LogWriter:
    """Writer of a text that arrives in pieces and restarts after each break.

    Every part of the text is written once.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._end = write, 0

    def add(self, position: int, text: str) -> None:
        """Write what is new in a piece that begins at character `at`."""
        new = text[max(self._end - position, 0) :]
        if new:
            self._write(new)
            self._end = position + len(text)


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Client of Ray with time limits; its requests would wait without a limit."""

    def _do_request(self, method: str, endpoint: str, **arguments: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": (ANSWER_S, WORK_S)} | arguments)


def _client(address: str) -> JobSubmissionClient:
    before = os.environ.get(SERVER)
    os.environ[SERVER] = address  # it takes precedence over the client's argument
    try:
        return _Client(address)
    finally:
        if before is None:
            del os.environ[SERVER]
        else:
            os.environ[SERVER] = before


def _job(details: Any) -> Job:
    return Job(
        name=details.submission_id or details.job_id,
        state=str(details.status.value).lower(),
        entrypoint=details.entrypoint,
        started=_time(details.start_time),
        ended=_time(details.end_time),
        returned=details.driver_exit_code,
        message=details.message or "",
        labels=details.metadata or {},
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000) if milliseconds else None


def shorten_error(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
