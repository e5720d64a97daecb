"""Test that local and Ray requests bypass a proxy of the environment, and other requests do not."""

import os
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from ray._private.utils import update_envs
from requests.utils import should_bypass_proxies
from typer.testing import CliRunner

import run
from orchestrator.cluster import jobs
from orchestrator.cluster.connect import runtime_environment
from orchestrator.cluster.jobs import Cluster
from orchestrator.core.proxies import (
    NAMES,
    bypass_proxies,
    direct_loopback,
    is_loopback,
    without_proxy,
)
from orchestrator.tracking.health import find_unreachable
from tests.cluster.test_jobs import VERSION, Answer, server

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bytes]]]:
    """Run a proxy for every request, and return the requests that it received."""
    for name in (*NAMES, "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that the test's changes are undone
        monkeypatch.delenv(name)
    with server({}) as (address, received):
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://{address}")
        yield received


def answering() -> dict[str, list[Answer]]:
    return VERSION | {"/api/jobs/": [(200, [])], "/health": [(200, "OK")]}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_requests_to_a_local_job_server_bypass_the_proxy(
    proxied: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(jobs, "load_token", lambda: None)
    with server(answering()) as (address, received):
        done = CliRunner().invoke(
            run.app, ["status", "--address", address.replace("127.0.0.1", host)]
        )
    assert done.exit_code == 0, done.output
    assert received[-1][0] == "GET /api/jobs/" and not proxied


def test_requests_to_the_head_of_a_cluster_bypass_the_proxy(
    proxied: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """127.0.0.2 represents another machine; only its role as cluster address bypasses the proxy."""
    monkeypatch.setattr(jobs, "load_token", lambda: None)
    monkeypatch.setattr("orchestrator.core.proxies.LOOPBACK", ())
    monkeypatch.setattr(
        jobs, "_client", lambda address: requests.get(f"{address}/api/version", timeout=5)
    )
    with server(answering()) as (address, received):
        Cluster(address)
    assert len(received) == 1 and not proxied


def test_requests_to_mlflow_on_loopback_bypass_the_proxy(proxied: list[tuple[str, bytes]]) -> None:
    with server(answering()) as (address, received), direct_loopback():
        assert find_unreachable(f"http://{address}") == ""
        # as MLflow's client does
        assert requests.get(f"http://{address}/health", timeout=5).text == "OK"
    assert [path for path, _ in received] == ["GET /health"] * 2 and not proxied


def test_other_requests_use_the_proxy(proxied: list[tuple[str, bytes]]) -> None:
    with direct_loopback():
        requests.get("http://mlflow.example.org/health", timeout=5)
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.build_opener().open(
                "http://mlflow.example.org/health", timeout=5
            )  # `urlopen` keeps an older proxy
    assert [path for path, _ in proxied] == ["GET http://mlflow.example.org/health"] * 2


@pytest.mark.parametrize("name", NAMES)
def test_entries_of_no_proxy_stay(
    monkeypatch: pytest.MonkeyPatch, proxied: list[tuple[str, bytes]], name: str
) -> None:
    monkeypatch.setenv(name, "intern.example.org, .other.org")
    with direct_loopback():
        bypass_proxies("head:6379", "10.1.2.3:8265", "http://[fd00::1]:8265/x", "")
        assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
        for url in (
            "http://intern.example.org",
            "http://a.other.org",
            "http://head:8265",
            "http://10.1.2.3",
            "http://[fd00::1]:1",
        ):
            assert should_bypass_proxies(url, None), url
        assert not should_bypass_proxies("http://example.org", None)
    assert (
        os.environ[name] == "intern.example.org, .other.org" and len({*NAMES} & {*os.environ}) == 1
    )


def test_a_star_stays_a_star(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    assert without_proxy("head:6379") == "*"


def test_a_server_of_the_web_is_left_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ray.example.org" not in without_proxy("https://ray.example.org")
    assert "ray.example.org" in without_proxy("http://ray.example.org")


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("http://127.0.0.2:5000", True),
        ("localhost:80", True),
        ("https://[::1]:5000", True),
        ("10.0.0.1:5000", False),
        ("::::", False),
    ],
)
def test_loopback_addresses(address: str, here: bool) -> None:
    assert is_loopback(address) == here


def test_a_node_keeps_its_own_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray inserts the node's own value when it starts a worker there."""
    monkeypatch.setenv("no_proxy", "of.the.driver")
    sent: dict[str, Any] = runtime_environment()["env_vars"]
    monkeypatch.setenv("no_proxy", "of.the.node")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    update_envs({name: sent[name] for name in NAMES})
    listed = os.environ["no_proxy"].split(",")
    assert {"of.the.driver", "127.0.0.1", "of.the.node"} <= set(listed)
