"""Test `run.py doctor`: each check on simulated conditions, and all of them with Ray."""

import importlib.metadata
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import filelock
import pytest
import torch
from typer.testing import CliRunner

import run
from orchestrator.cli import _checks as doctor
from orchestrator.cli._checks import CHECKS, examine
from orchestrator.cli._findings import Conditions, Finding
from orchestrator.config.loader import load
from tests.refusal import refused

OK, UNFIT, INTERRUPTED = 0, 3, 130
LOTS = 10**12
Make = Callable[..., Conditions]


class Usage(NamedTuple):
    """Result of `shutil.disk_usage`."""

    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_TMPDIR",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def given(tmp_path: Path) -> Make:
    """Return a function that makes conditions with an own store and settings."""

    def make(*pairs: str, store: Path = tmp_path / "store") -> Conditions:
        return Conditions(store, load(None, list(pairs)))

    return make


def project(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *needs: str,
    python: str = ">=3.11",
    pinned: str = "",
) -> None:
    """Replace the project by one with these dependencies."""
    listed = ", ".join(f'"{need}"' for need in needs)
    (folder / "pyproject.toml").write_text(
        f'[project]\nrequires-python = "{python}"\ndependencies = [{listed}]\n'
    )
    (folder / "constraints.txt").write_text(pinned)
    monkeypatch.setattr(doctor, "PROJECT", folder)


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and everything printed."""
    result = CliRunner().invoke(run.app, ["doctor", *arguments])
    return result.exit_code, result.output


def test_python_is_the_one_that_is_asked_for(
    given: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.python(given()).fitness == "ok"
    project(tmp_path, monkeypatch, python=">=9.1")
    found = doctor.python(given())
    assert (
        found.fitness == "bad"
        and ">=9.1 is needed" in found.said
        and "make install PYTHON=" in found.said
    )


def test_our_own_packages_fit(given: Make) -> None:
    found = doctor.packages(given())
    assert found.fitness == "ok" and "as pyproject.toml asks" in found.said


@pytest.mark.parametrize(
    ("need", "said"),
    [
        ("numpy>=99", r"numpy \d.* \(>=99 is needed\)"),
        ("no-such-package>=1", r"no-such-package is missing \(>=1 is needed\)"),
    ],
)
def test_a_package_is_too_old_or_missing(
    need: str, said: str, given: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, monkeypatch, "rich>=1", need)
    found = doctor.packages(given())
    assert found.fitness == "bad" and "make install" in found.said and "rich" not in found.said
    assert re.search(said, found.said), found.said


def test_other_versions_than_the_tested_ones_are_named(
    given: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version("rich")
    project(
        tmp_path,
        monkeypatch,
        "rich",
        "torch",
        pinned=f"rich==0.1\ntorch=={importlib.metadata.version('torch')}\n",
    )
    found = doctor.packages(given())
    assert found == Finding(
        "ok", f"2 as pyproject.toml asks, of other versions than those tested: rich {version} (0.1)"
    )


def test_a_torchvision_of_another_torch(given: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", "torch (==1.2.3)"])
    found = doctor.packages(given())
    assert (
        found.fitness == "bad"
        and "made for torch ==1.2.3" in found.said
        and "make install" in found.said
    )


def test_ray_here_has_its_authentication(
    given: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert doctor.ray_address(given()) == Finding(
        "ok", "a cluster of our own, on loopback, with token authentication"
    )
    token.write_text("abc")
    token.chmod(0o600)
    assert doctor.ray_address(given()).fitness == "ok"
    token.chmod(0o644)
    found = doctor.ray_address(given())
    assert (
        found.fitness == "warn" and f"chmod 600 {token}" in found.said and "abc" not in found.said
    )
    token.unlink()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    found = doctor.ray_address(given())
    assert found.fitness == "warn" and "unset it" in found.said and "with token" not in found.said


def test_a_cluster_that_does_not_answer(given: Make) -> None:
    findings = dict(
        examine(
            Conditions(given().store, load(None, ["resources.address=127.0.0.1:1"]), quick=True)
        )
    )
    assert findings["Ray"].fitness == "bad" and "nobody answers there" in findings["Ray"].said
    assert len(findings) == len(CHECKS) - 1, "the others are made nevertheless"


def cards(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let torch report these GPUs."""
    properties = [SimpleNamespace(name=name, total_memory=8 * 2**30) for name in names]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(properties))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties[number])


def test_processors_are_those_that_may_be_used(
    given: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch)
    monkeypatch.setattr(doctor, "DRIVER", Path("/nowhere"))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(
        "orchestrator.config.resources.local_resources", lambda: {"CPU": 2.0, "GPU": 0.0}
    )
    assert doctor.devices(given()) == Finding(
        "ok", "2 CPU of 64 (bound, or the container's quota), no GPU"
    )
    found = doctor.devices(given("resources.gpus_per_worker=1"))
    assert found.fitness == "bad" and "resources.gpus_per_worker = 1: leave that out" in found.said


def test_cards_are_named_and_tried(given: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, "Card", "Card")
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    assert doctor.devices(given()).said.endswith("2 GPU: Card with 8 GiB, Card with 8 GiB")

    def fail(*shape: int, device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch, "ones", fail)
    found = doctor.devices(given())
    assert (
        found.fitness == "bad"
        and "no kernel image" in found.said
        and "CUDA_VISIBLE_DEVICES" in found.said
    )


@pytest.mark.parametrize(("wanted", "fitness"), [("null", "warn"), ("1", "bad")])
@pytest.mark.parametrize(
    ("cuda", "said"), [(None, "a build without CUDA"), ("13.0", "driver on your system is too old")]
)
def test_a_driver_that_torch_cannot_use(
    wanted: str,
    fitness: str,
    cuda: str | None,
    said: str,
    given: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards(monkeypatch)
    driver = tmp_path / "version"
    driver.touch()

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040)")

    monkeypatch.setattr(doctor, "DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", fail)
    found = doctor.devices(given(f"resources.gpus_per_worker={wanted}"))
    assert found.fitness == fitness and said in found.said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert said not in doctor.devices(given(f"resources.gpus_per_worker={wanted}")).said


def test_a_store_that_can_be_made_is_not_made(given: Make, tmp_path: Path) -> None:
    found = doctor.store(given(store=tmp_path / "a" / "b"))
    assert found.fitness == "ok" and "can be made" in found.said
    assert list(tmp_path.iterdir()) == [], "nothing stays"


def test_a_store_that_is_named_by_a_uri_is_not_made_either(given: Make, tmp_path: Path) -> None:
    found = doctor.store(replace(given(), uri=(tmp_path / "a" / "b").as_uri()))
    assert found.fitness == "ok" and list(tmp_path.iterdir()) == []


def test_a_store_that_others_may_look_into(given: Make, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    assert doctor.store(given()).fitness == "ok"
    (tmp_path / "store").chmod(0o750)
    found = doctor.store(given())
    assert found.fitness == "warn" and f"chmod 700 {tmp_path / 'store'}" in found.said
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o750, (
        "what a person has made stays as it is"
    )
    assert not list((tmp_path / "store").iterdir())


def test_a_store_of_somebody_else(
    given: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "not to you" in doctor.store(given()).said


def test_a_store_that_is_a_file_or_cannot_be_written(
    given: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        found = doctor.store(given(store=place))
        assert found.fitness == "bad" and "give another --store" in found.said

    def refuse(*arguments: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    found = doctor.store(given())
    assert (
        found.fitness == "bad"
        and "(Read-only file system): give a --store that you may write" in found.said
    )


def test_locks_that_do_not_hold(given: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FileLock", filelock.SoftFileLock)
    monkeypatch.setattr(
        filelock.SoftFileLock, "_acquire", lambda self: setattr(self._context, "lock_file_fd", 0)
    )
    monkeypatch.setattr(
        filelock.SoftFileLock, "_release", lambda self: setattr(self._context, "lock_file_fd", None)
    )
    found = doctor.store(given())
    assert found.fitness == "bad" and "locks do not hold" in found.said and "flock" in found.said


@pytest.mark.parametrize(
    ("store_free", "temporary_free", "shared_free", "fitness", "said"),
    [
        (LOTS, LOTS, LOTS, "ok", "store 931.3 GiB free"),
        (
            2**20,
            LOTS,
            LOTS,
            "bad",
            "store 1 MiB free, 200 MiB are needed: free some space, or give another --store",
        ),
        (2**30, LOTS, LOTS, "warn", "--dry-run"),
        (LOTS, 2**20, LOTS, "bad", "RAY_TMPDIR"),
        (LOTS, 10 * 2**30, LOTS, "warn", "more than 95% full"),
        (LOTS, LOTS, 64 * 2**20, "warn", "--shm-size"),
    ],
)
def test_space(
    store_free: int,
    temporary_free: int,
    shared_free: int,
    fitness: str,
    said: str,
    given: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = tmp_path / "shm"
    shared.mkdir()
    free = {tmp_path: store_free, shared: shared_free}
    monkeypatch.setattr(doctor, "SHARED_MEMORY", shared)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda at: Usage(2 * LOTS, LOTS, free.get(at, temporary_free))
    )
    found = doctor.space(given())
    assert found.fitness == fitness and said in found.said, found


def test_sqlite_can_be_made_or_written(given: Make, tmp_path: Path) -> None:
    assert doctor.tracking(given()) == Finding("ok", "SQLite, can be made in the store")
    database = tmp_path / "store" / "mlflow.db"
    database.parent.mkdir()
    with sqlite3.connect(database) as made:
        made.execute("CREATE TABLE runs (number INTEGER)")
    assert doctor.tracking(given()) == Finding("ok", f"SQLite, {database} can be written")
    made.close()
    database.write_bytes(b"no database, but long enough to look like one" * 100)
    found = doctor.tracking(given())
    assert found.fitness == "bad" and "not a database" in found.said


def test_a_server_that_is_away_refuses_or_answers(
    given: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Error(Exception):
        def __init__(self, status: int, text: str = "") -> None:
            super().__init__(text)
            self.status = status

        def get_http_status_code(self) -> int:
            return self.status

    class Client:
        error: Exception | None = None

        def search_experiments(self, max_results: int) -> list[str]:
            if self.error:
                raise self.error
            return []

    monkeypatch.setattr("orchestrator.tracking._client.connect", lambda uri: Client())
    conditions, before = given("tracking.uri=http://127.0.0.1:1"), dict(os.environ)
    assert doctor.tracking(conditions) == Finding("ok", "http://127.0.0.1:1 answers")
    for Client.error, said in (
        (Error(401), "refuses the credentials (401): set MLFLOW_TRACKING_USERNAME"),
        (Error(503, "down for a while"), "does not answer (down for a while): start it"),
        (ConnectionError("refused"), "does not answer (refused)"),
    ):
        found = doctor.tracking(conditions)
        assert found.fitness == "bad" and said in found.said
    assert dict(os.environ) == before


def test_workers_that_do_not_add_up(given: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cluster import smoke_test
    from orchestrator.core.errors import PreflightError

    def wrong(total: torch.Tensor) -> None:
        total[7] += 1

    monkeypatch.setattr(torch.distributed, "all_reduce", wrong)
    with refused("workers", 8.0, 7.0, PreflightError):
        smoke_test.sum_over_workers(0, 1)
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda total: total.mul_(3)
    )  # 1 and 2 times
    smoke_test.sum_over_workers(0, 2)


def test_workers_that_fail_or_never_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from orchestrator.cluster import smoke_test
    from orchestrator.core.errors import PreflightError

    never = threading.Event()
    monkeypatch.setattr(smoke_test, "POLL_S", 0.01)
    monkeypatch.setattr(smoke_test, "_trainer", lambda folder: SimpleNamespace(fit=never.wait))
    with refused("workers", None, "an answer within 0.02 s", PreflightError):
        smoke_test.run_two_workers(tmp_path, 0.02)
    never.set()

    def fail() -> None:
        raise RuntimeError("a worker\nis gone")

    monkeypatch.setattr(smoke_test, "_trainer", lambda folder: SimpleNamespace(fit=fail))
    with refused("workers", "a worker is gone", None, PreflightError):
        smoke_test.run_two_workers(tmp_path, 60)


def checks(monkeypatch: pytest.MonkeyPatch, **made: Any) -> None:
    """Replace the checks by these."""
    monkeypatch.setattr(doctor, "CHECKS", made)


def test_a_line_for_each_and_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ["--store", str(tmp_path)]
    checks(monkeypatch, one=lambda _: Finding("ok", "fine"), two=lambda _: Finding("warn", "hm"))
    assert call(*store) == (OK, "one          ok    fine\ntwo          warn  hm\n")
    checks(
        monkeypatch,
        one=lambda _: Finding("bad", "broken: mend it"),
        two=lambda _: Finding("ok", "fine"),
    )
    assert call(*store) == (UNFIT, "one          bad   broken: mend it\ntwo          ok    fine\n")


def test_no_secret_is_shown_and_no_terminal_is_commanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks(monkeypatch, one=lambda _: Finding("ok", "http://me:hunter22@host/ \x1b[2J"))
    code, output = call("--store", str(tmp_path))
    assert code == OK and "hunter22" not in output and "\x1b" not in output and "@host" in output


def test_a_check_that_breaks_is_a_finding_and_an_interruption_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Conditions) -> Finding:
        raise PermissionError(13, "Permission denied")

    def interrupt(_: Conditions) -> Finding:
        raise KeyboardInterrupt

    checks(monkeypatch, one=fail, two=lambda _: Finding("ok", "fine"))
    code, output = call("--store", str(tmp_path))
    assert code == UNFIT and "Permission denied" in output and "two          ok" in output
    checks(monkeypatch, one=interrupt)
    assert call("--store", str(tmp_path))[0] == INTERRUPTED


def test_settings_are_read_as_by_every_command(tmp_path: Path) -> None:
    code, output = call("--quick", "--set", "resources.adress=here", "--store", str(tmp_path))
    assert code == 2 and "did you mean 'address'" in output
    code, output = call("--quick", "--address", "127.0.0.1:1", "--store", str(tmp_path))
    assert (
        code == UNFIT
        and "'127.0.0.1:1': nobody answers there" in output
        and "two workers" not in output
    )


@pytest.mark.ray
def test_two_workers_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GROUP_S", 250.0)  # on a busy machine
    code, output = call("--store", str(tmp_path / "store"))
    assert code == OK, output
    assert [line.split("  ")[0] for line in output.splitlines()] == list(CHECKS)
    assert "two workers  ok    two workers added up a tensor" in output
    assert list(tmp_path.iterdir()) == [], "nothing stays"
