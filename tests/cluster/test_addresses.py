"""Test the choice of a running cluster, its reachability, and the environment of its workers."""

import json
import socket
from pathlib import Path

import pytest
from ray._private import services
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from orchestrator.cli import train as train_command
from orchestrator.cli._options import cluster_address as cluster_option
from orchestrator.cluster.connect import PACKAGES, runtime_environment
from orchestrator.config.loader import load
from orchestrator.config.resources import accepts_connections, cluster_address, require_answer
from orchestrator.config.schema import Resources
from orchestrator.core.allocator import allocator
from orchestrator.core.errors import PreflightError
from orchestrator.core.proxies import NAMES
from tests.refusal import refused

LISTENING = "host:port of a running Ray cluster, or local"


@pytest.fixture
def nothing_listens() -> str:
    """Return an address without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_listening_address_is_accepted_and_others_are_refused(nothing_listens: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert accepts_connections(address)
        require_answer(address)
    assert not accepts_connections(nothing_listens)
    for address in (nothing_listens, "nowhere", "127.0.0.1:", "127.0.0.1:99999999"):
        with refused("resources.address", address, LISTENING, PreflightError):
            require_answer(address)
    with refused(
        "resources.address", "ray://127.0.0.1:10001", "host:port of the cluster", PreflightError
    ):
        require_answer("ray://127.0.0.1:10001")


def test_auto_without_a_cluster_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, nothing_listens: str
) -> None:
    """No cluster, and an ended one, to which Ray itself would try to connect for minutes."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    with refused(
        "resources.address", "auto", "a Ray cluster that runs on this machine", PreflightError
    ):
        require_answer("auto")
    monkeypatch.setattr(
        services,
        "find_bootstrap_address",
        lambda folder: nothing_listens.replace("127.0.0.1", "127.0.0.2"),
    )
    with refused("resources.address", "auto", LISTENING, PreflightError) as refusal:
        require_answer("auto")
    assert "127.0.0.2" in str(refusal.value), "the last known address"


@pytest.mark.parametrize(
    "job", [None, {}, {"runtime_env": {"env_vars": {"MALLOC_TRIM_THRESHOLD_": "1"}}}]
)
def test_the_runtime_environment_contains_the_program(
    job: dict[str, object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    if job is not None:
        monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps(job))
    sent = runtime_environment()
    assert sent["py_modules"] == PACKAGES and all(
        (Path(folder) / "__init__.py").is_file() for folder in PACKAGES
    )
    theirs = {"MALLOC_TRIM_THRESHOLD_"} if job else set()
    assert {name: value for name, value in sent["env_vars"].items() if name not in NAMES} == {
        name: value for name, value in allocator().items() if name not in theirs
    }
    assert all(
        sent["env_vars"][name].endswith(f",${{{name}}}") and "127.0.0.1" in sent["env_vars"][name]
        for name in NAMES
    )


def test_settings_of_a_submitted_job_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses two settings of the same variable."""
    job = {
        "runtime_env": {
            "working_dir": "gcs://package.zip",
            "env_vars": {"MALLOC_TRIM_THRESHOLD_": "1", "no_proxy": "a", "NO_PROXY": "a"},
        }
    }
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps(job))
    assert runtime_environment() == {
        "env_vars": {"MALLOC_MMAP_THRESHOLD_": allocator()["MALLOC_MMAP_THRESHOLD_"]}
    }


def test_an_address_with_local_is_refused(tmp_path: Path) -> None:
    with refused("--address", "auto", "without --local"):
        train_command.train(
            tmp_path, [], tmp_path, None, None, dry_run=True, local=True, address="auto"
        )


@pytest.mark.parametrize(
    ("configured", "in_job", "expected"),
    [
        (None, False, "10.0.0.1:6379"),
        ("10.0.0.2:6379", False, "10.0.0.2:6379"),
        ("local", False, None),
        (None, True, "10.0.0.1:6379"),
        ("10.0.0.2:6379", True, "10.0.0.1:6379"),
    ],
)
def test_the_configured_address_takes_precedence_except_in_a_job(
    configured: str | None, in_job: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    if in_job:
        monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert cluster_address(Resources(address=configured)) == expected


def test_the_option_local_reaches_the_configuration() -> None:
    assert load(None, [], cluster_option("local")).resources.address == "local"
    assert load(None, [], cluster_option("")).resources.address is None
