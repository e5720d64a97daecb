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
from orchestrator.cli._checks import CHECKS, run_checks
from orchestrator.cli._findings import Conditions, Finding
from orchestrator.config.loader import load
from tests.refusal import refused

OK, UNFIT, INTERRUPTED = 0, 3, 130
AMPLE_BYTES = 10**12
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
def make_conditions(tmp_path: Path) -> Make:
    """Return a function that creates conditions with a temporary store and given settings."""

    def make(*pairs: str, store: Path = tmp_path / "store") -> Conditions:
        return Conditions(store, load(None, list(pairs)))

    return make


def write_project(
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


def test_python_must_satisfy_requires_python(
    make_conditions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.check_python(make_conditions()).fitness == "ok"
    write_project(tmp_path, monkeypatch, python=">=9.1")
    finding = doctor.check_python(make_conditions())
    assert (
        finding.fitness == "bad"
        and ">=9.1 is needed" in finding.message
        and "make install PYTHON=" in finding.message
    )


def test_installed_packages_satisfy_the_project(make_conditions: Make) -> None:
    finding = doctor.check_packages(make_conditions())
    assert finding.fitness == "ok" and "satisfy pyproject.toml" in finding.message


@pytest.mark.parametrize(
    ("need", "message"),
    [
        ("numpy>=99", r"numpy \d.* \(>=99 is needed\)"),
        ("no-such-package>=1", r"no-such-package is missing \(>=1 is needed\)"),
    ],
)
def test_too_old_or_missing_package_is_bad(
    need: str, message: str, make_conditions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, monkeypatch, "rich>=1", need)
    finding = doctor.check_packages(make_conditions())
    assert (
        finding.fitness == "bad"
        and "make install" in finding.message
        and "rich" not in finding.message
    )
    assert re.search(message, finding.message), finding.message


def test_an_installed_program_is_repaired_by_pip(
    make_conditions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, monkeypatch, "numpy>=99")
    monkeypatch.setattr(doctor, "IS_INSTALLED", True)
    finding = doctor.check_packages(make_conditions())
    command = f"`pip install --constraint {tmp_path / 'constraints.txt'} 'numpy>=99'`"
    assert finding.fitness == "bad" and finding.message.endswith(command)


def test_untested_versions_are_listed(
    make_conditions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version("rich")
    write_project(
        tmp_path,
        monkeypatch,
        "rich",
        "torch",
        pinned=f"rich==0.1\ntorch=={importlib.metadata.version('torch')}\n",
    )
    finding = doctor.check_packages(make_conditions())
    assert finding == Finding(
        "ok",
        f"2 packages satisfy pyproject.toml; not the tested version: rich {version} (tested "
        "with 0.1)",
    )


def test_torchvision_built_for_another_torch_is_bad(
    make_conditions: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["numpy", "torch (==1.2.3)"])
    finding = doctor.check_packages(make_conditions())
    assert (
        finding.fitness == "bad"
        and "requires torch ==1.2.3" in finding.message
        and "make install" in finding.message
    )


def test_local_ray_uses_token_authentication(
    make_conditions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert doctor.check_ray(make_conditions()) == Finding(
        "ok", "a local cluster on the loopback address, with token authentication"
    )
    token.write_text("abc")
    token.chmod(0o600)
    assert doctor.check_ray(make_conditions()).fitness == "ok"
    token.chmod(0o644)
    finding = doctor.check_ray(make_conditions())
    assert (
        finding.fitness == "warn"
        and f"chmod 600 {token}" in finding.message
        and "abc" not in finding.message
    )
    token.unlink()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    finding = doctor.check_ray(make_conditions())
    assert (
        finding.fitness == "warn"
        and "unset it" in finding.message
        and "with token" not in finding.message
    )


def test_unreachable_cluster_is_bad(make_conditions: Make) -> None:
    findings = dict(
        run_checks(
            Conditions(
                make_conditions().store, load(None, ["resources.address=127.0.0.1:1"]), quick=True
            )
        )
    )
    assert findings["Ray"].fitness == "bad" and "127.0.0.1:1" in findings["Ray"].message
    assert len(findings) == len(CHECKS) - 1, "the remaining checks must still run"


def replace_gpus(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make torch report GPUs with these names."""
    properties = [SimpleNamespace(name=name, total_memory=8 * 2**30) for name in names]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(properties))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties[number])


def test_only_usable_cpus_are_counted(
    make_conditions: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_gpus(monkeypatch)
    monkeypatch.setattr(doctor, "DRIVER", Path("/nowhere"))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(
        "orchestrator.config.resources.local_resources", lambda: {"CPU": 2.0, "GPU": 0.0}
    )
    assert doctor.check_devices(make_conditions()) == Finding(
        "ok", "2 CPU of 64 (limited by CPU affinity or the container's quota), no GPU"
    )
    finding = doctor.check_devices(make_conditions("resources.gpus_per_worker=1"))
    assert finding.fitness == "bad" and "but resources.gpus_per_worker = 1" in finding.message


def test_gpus_are_listed_and_tested(make_conditions: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_gpus(monkeypatch, "Card", "Card")
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    assert doctor.check_devices(make_conditions()).message.endswith(
        "2 GPU: Card with 8 GiB, Card with 8 GiB"
    )

    def fail(*shape: int, device: str) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch, "ones", fail)
    finding = doctor.check_devices(make_conditions())
    assert (
        finding.fitness == "bad"
        and "no kernel image" in finding.message
        and "CUDA_VISIBLE_DEVICES" in finding.message
    )


@pytest.mark.parametrize(("wanted", "fitness"), [("null", "warn"), ("1", "bad")])
@pytest.mark.parametrize(
    ("cuda", "message"),
    [(None, "built without CUDA"), ("13.0", "driver on your system is too old")],
)
def test_nvidia_driver_without_usable_cuda_is_reported(
    wanted: str,
    fitness: str,
    cuda: str | None,
    message: str,
    make_conditions: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace_gpus(monkeypatch)
    driver = tmp_path / "version"
    driver.touch()

    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040)")

    monkeypatch.setattr(doctor, "DRIVER", driver)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "init", fail)
    finding = doctor.check_devices(make_conditions(f"resources.gpus_per_worker={wanted}"))
    assert finding.fitness == fitness and message in finding.message
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert (
        message
        not in doctor.check_devices(make_conditions(f"resources.gpus_per_worker={wanted}")).message
    )


def test_missing_store_is_not_created(make_conditions: Make, tmp_path: Path) -> None:
    finding = doctor.check_store(make_conditions(store=tmp_path / "a" / "b"))
    assert finding.fitness == "ok" and "can be created" in finding.message
    assert list(tmp_path.iterdir()) == [], "doctor must leave no files"


def test_missing_store_at_a_uri_is_not_created(make_conditions: Make, tmp_path: Path) -> None:
    finding = doctor.check_store(replace(make_conditions(), uri=(tmp_path / "a" / "b").as_uri()))
    assert finding.fitness == "ok" and list(tmp_path.iterdir()) == []


def test_store_accessible_to_other_users_is_a_warning(
    make_conditions: Make, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    assert doctor.check_store(make_conditions()).fitness == "ok"
    (tmp_path / "store").chmod(0o750)
    finding = doctor.check_store(make_conditions())
    assert finding.fitness == "warn" and f"chmod 700 {tmp_path / 'store'}" in finding.message
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o750, "doctor must not change the mode"
    assert not list((tmp_path / "store").iterdir())


def test_store_owned_by_another_user_is_a_warning(
    make_conditions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert "not to you" in doctor.check_store(make_conditions()).message


def test_store_that_is_a_file_or_read_only_is_bad(
    make_conditions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        finding = doctor.check_store(make_conditions(store=place))
        assert finding.fitness == "bad" and "choose another --store" in finding.message

    def refuse(*arguments: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    finding = doctor.check_store(make_conditions())
    assert finding.fitness == "bad" and "is not writable (Read-only file system)" in finding.message


def test_file_system_without_locks_is_bad(
    make_conditions: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "FileLock", filelock.SoftFileLock)
    monkeypatch.setattr(
        filelock.SoftFileLock, "_acquire", lambda self: setattr(self._context, "lock_file_fd", 0)
    )
    monkeypatch.setattr(
        filelock.SoftFileLock, "_release", lambda self: setattr(self._context, "lock_file_fd", None)
    )
    finding = doctor.check_store(make_conditions())
    assert (
        finding.fitness == "bad"
        and "locks do not work" in finding.message
        and "flock" in finding.message
    )


@pytest.mark.parametrize(
    ("store_free", "temporary_free", "shared_free", "fitness", "message"),
    [
        (AMPLE_BYTES, AMPLE_BYTES, AMPLE_BYTES, "ok", "store 931.3 GiB free"),
        (2**20, AMPLE_BYTES, AMPLE_BYTES, "bad", "store 1 MiB free, but 200 MiB are needed"),
        (2**30, AMPLE_BYTES, AMPLE_BYTES, "warn", "--dry-run"),
        (AMPLE_BYTES, 2**20, AMPLE_BYTES, "bad", "RAY_TMPDIR"),
        (AMPLE_BYTES, 10 * 2**30, AMPLE_BYTES, "warn", "more than 95% full"),
        (AMPLE_BYTES, AMPLE_BYTES, 64 * 2**20, "warn", "--shm-size"),
    ],
)
def test_free_disk_space(
    store_free: int,
    temporary_free: int,
    shared_free: int,
    fitness: str,
    message: str,
    make_conditions: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = tmp_path / "shm"
    shared.mkdir()
    free = {tmp_path: store_free, shared: shared_free}
    monkeypatch.setattr(doctor, "SHARED_MEMORY", shared)
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: Usage(2 * AMPLE_BYTES, AMPLE_BYTES, free.get(path, temporary_free)),
    )
    finding = doctor.check_disk_space(make_conditions())
    assert finding.fitness == fitness and message in finding.message, finding


def test_sqlite_database_can_be_created_or_written(make_conditions: Make, tmp_path: Path) -> None:
    assert doctor.check_tracking(make_conditions()) == Finding(
        "ok", "SQLite, can be created in the store"
    )
    database = tmp_path / "store" / "mlflow.db"
    database.parent.mkdir()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs (number INTEGER)")
    assert doctor.check_tracking(make_conditions()) == Finding(
        "ok", f"SQLite, {database} is writable"
    )
    connection.close()
    database.write_bytes(b"no database, but long enough to look like one" * 100)
    finding = doctor.check_tracking(make_conditions())
    assert finding.fitness == "bad" and "not a database" in finding.message


def test_tracking_server_that_refuses_or_does_not_answer_is_bad(
    make_conditions: Make, monkeypatch: pytest.MonkeyPatch
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
    conditions, before = make_conditions("tracking.uri=http://127.0.0.1:1"), dict(os.environ)
    assert doctor.check_tracking(conditions) == Finding("ok", "http://127.0.0.1:1 answers")
    for Client.error, message in (
        (Error(401), "refuses the credentials (401): set MLFLOW_TRACKING_USERNAME"),
        (Error(503, "down for a while"), "does not answer (down for a while): start it"),
        (ConnectionError("refused"), "does not answer (refused)"),
    ):
        finding = doctor.check_tracking(conditions)
        assert finding.fitness == "bad" and message in finding.message
    assert dict(os.environ) == before


def test_wrong_all_reduce_is_refused(
    make_conditions: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def replace_checks(monkeypatch: pytest.MonkeyPatch, **replacements: Any) -> None:
    """Replace the checks of doctor."""
    monkeypatch.setattr(doctor, "CHECKS", replacements)


def test_one_line_per_check_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ["--store", str(tmp_path)]
    replace_checks(
        monkeypatch, one=lambda _: Finding("ok", "fine"), two=lambda _: Finding("warn", "hm")
    )
    assert call(*store) == (OK, "one          ok    fine\ntwo          warn  hm\n")
    replace_checks(
        monkeypatch,
        one=lambda _: Finding("bad", "broken: repair it"),
        two=lambda _: Finding("ok", "fine"),
    )
    assert call(*store) == (
        UNFIT,
        "one          bad   broken: repair it\ntwo          ok    fine\n",
    )


def test_secrets_and_control_characters_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_checks(monkeypatch, one=lambda _: Finding("ok", "http://me:hunter22@host/ \x1b[2J"))
    code, output = call("--store", str(tmp_path))
    assert code == OK and "hunter22" not in output and "\x1b" not in output and "@host" in output


def test_failing_check_is_a_finding_and_an_interrupt_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Conditions) -> Finding:
        raise PermissionError(13, "Permission denied")

    def interrupt(_: Conditions) -> Finding:
        raise KeyboardInterrupt

    replace_checks(monkeypatch, one=fail, two=lambda _: Finding("ok", "fine"))
    code, output = call("--store", str(tmp_path))
    assert code == UNFIT and "Permission denied" in output and "two          ok" in output
    replace_checks(monkeypatch, one=interrupt)
    assert call("--store", str(tmp_path))[0] == INTERRUPTED


def test_settings_are_validated(tmp_path: Path) -> None:
    code, output = call("--quick", "--set", "resources.adress=here", "--store", str(tmp_path))
    assert code == 2 and "did you mean 'address'" in output
    code, output = call("--quick", "--address", "127.0.0.1:1", "--store", str(tmp_path))
    assert code == UNFIT and "'127.0.0.1:1'" in output and "two workers" not in output
