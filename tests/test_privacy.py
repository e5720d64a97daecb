"""Test the privacy of a run: its files, its output and logs, and folders named by users."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import run
from orchestrator.cli import methods as command
from orchestrator.config.loader import build
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.privacy import keep_private, private_files, sanitize
from orchestrator.core.reports import EpochRecord
from tests.seen import open_to_others

OK, UNEXPECTED, BAD_CONFIGURATION = 0, 1, 2
SECRET = "hunter2hunter2"
ADDRESS = f"https://me:{SECRET}@tracking.example.org"
AWAY = ["..", "../out", "/tmp/out", "a/../../out", "a/b", "a\\b", "~", ".hidden", "a\n", ""]


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and everything printed."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.output


@pytest.fixture
def open_mask() -> Iterator[None]:
    """Act as a user whose files are readable by all."""
    before = os.umask(0)
    yield
    assert os.umask(before) == 0, "a command gives the mask back"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a trained and exported run of a user whose files are readable by all."""
    root = tmp_path_factory.mktemp("parent") / "store"
    settings = [
        "training.epochs=1",
        "teacher.training.epochs=1",
        "method.name=kd",
        "project=../../out",
        "data.limit.train=200",
    ]
    before = os.umask(0)
    try:
        arguments = [part for pair in settings for part in ("--set", pair)]
        code, output = call("train", "--local", "--store", str(root), "--name", "mine", *arguments)
        assert code == OK, output
        code, output = call("export", "mine", "--store", str(root))
        assert code == OK, output
    finally:
        os.umask(before)
    return root


def test_files_are_private_to_their_owner(store: Path) -> None:
    names = {path.name for path in store.rglob("*")}
    assert {
        "mlflow.db",
        "sweep.json",
        "optimizer.pt",
        "student.safetensors",
        "model.safetensors",
        "driver.lock",
    } <= names
    assert {"train_inputs.npy", "configuration.json", "README.md"} <= names
    assert any(path.suffix == ".npy" for path in (store / "knowledge").rglob("*")), (
        "the cache is looked at too"
    )
    assert not open_to_others(store)


def test_nothing_was_written_outside_the_store(store: Path) -> None:
    assert [path.name for path in store.parent.iterdir()] == ["store"], (
        "whatever the project is called"
    )


def test_an_export_outside_the_store_is_private(
    store: Path, tmp_path: Path, open_mask: None
) -> None:
    code, output = call(
        "export", "mine", "--store", str(store), "--to", str(tmp_path / "a" / "student")
    )
    assert code == OK, output
    assert not open_to_others(tmp_path / "a")


@pytest.mark.parametrize("name", AWAY)
@pytest.mark.parametrize("command", ["status", "importance", "export", "resume", "name"])
def test_a_name_cannot_leave_the_store(command: str, name: str, store: Path) -> None:
    before = sorted(store.parent.rglob("*"))
    arguments = {
        "resume": ["sweep", "--resume", name],
        "name": ["train", "--name", name or ".", "--dry-run"],
    }
    code, output = call(*arguments.get(command, [command, name]), "--store", str(store))
    assert code == BAD_CONFIGURATION and "is not allowed: give letters, digits" in output, output
    assert sorted(store.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"name": "../out"}},
        {"data": {"name": "__class__"}},
        {"method": {"name": "../kd"}},
        {"student": {"name": "../mlp"}},
        {"student": {"name": "mlp", "weights": "../out"}},
        {"peers": {"../b": {"network": {"name": "cnn"}}}},
    ],
)
def test_a_name_in_a_setting_cannot_leave_the_store(values: dict[str, Any], tmp_path: Path) -> None:
    from orchestrator.store.store import Store
    from orchestrator.sweep.preflight.preflight import prepare_run

    with pytest.raises(ConfigurationError):
        prepare_run(
            Store(tmp_path),
            build({"teacher": None, "method": {"name": "cross_entropy"}} | values),
            "train",
            local_processes=1,
        )
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and path.parent.parent.name != "data"
    ]


def test_ray_processes_create_private_files() -> None:
    before, factory = os.umask(0), logging.getLogRecordFactory()
    try:
        keep_private()
        once = logging.getLogRecordFactory()
        keep_private()
        assert logging.getLogRecordFactory() is once is not factory, "once in the life of a process"
        assert os.umask(0) == 0o077
    finally:
        os.umask(before)
        logging.setLogRecordFactory(factory)


def test_a_log_names_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    factory = logging.getLogRecordFactory()
    with private_files():
        logging.getLogger("library").warning("MLflow at %s is away", ADDRESS)
        try:
            raise ConnectionError(f"no answer from {ADDRESS}")
        except ConnectionError:
            logging.getLogger("library").exception("it failed")
    assert logging.getLogRecordFactory() is factory
    assert SECRET not in caplog.text
    assert "MLflow at https://***@tracking.example.org is away" in caplog.text
    assert "ConnectionError: no answer from" in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_an_error_names_no_secret(debug: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str | None) -> int:
        raise ConfigurationError(f"{ADDRESS} is not allowed, \x1b[31mgive another")

    monkeypatch.setattr(command, "methods", fail)
    code, output = call("methods", *debug)
    assert code == BAD_CONFIGURATION and SECRET not in output
    assert r"@tracking.example.org is not allowed, \x1b[31mgive another" in output
    assert ("Traceback" in output) == bool(debug)


def test_an_error_of_the_program_itself_names_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str | None) -> int:
        raise RuntimeError(f"server {ADDRESS} says {os.environ['MY_API_TOKEN']}")

    monkeypatch.setenv("MY_API_TOKEN", "abcdefghijkl")
    monkeypatch.setattr(command, "methods", fail)
    code, output = call("methods")
    assert code == UNEXPECTED and "RuntimeError: server" in output and "in fail" in output
    assert SECRET not in output and "abcdefghijkl" not in output


def test_a_record_names_no_secret(tmp_path: Path) -> None:
    from orchestrator.store.records import Sweep, Trial
    from orchestrator.store.store import Store
    from orchestrator.sweep.events import Events

    sweep = Sweep.create(Store(tmp_path).sweep("mine"), build({}), "sweep")
    events, trial = Events(sweep, []), Trial(0, {})
    events.note(f"waiting for {ADDRESS}")
    events.start(trial)
    events.report(trial, EpochRecord(1, {"validation/accuracy": 0.5}, notes=(f"asked {ADDRESS}",)))
    events.end(trial, "failed", f"no answer from {ADDRESS}")
    written = "".join(file.read_text() for file in sweep.folder.rglob("*.json"))
    # sweep.json has two copies
    assert SECRET not in written and written.count("tracking.example.org") == 4


def test_sanitized_text_stays_readable() -> None:
    assert sanitize("größer als 3 µs: “yes”, 図\n\tnext") == "größer als 3 µs: “yes”, 図\n\tnext"
    assert sanitize("a\x1b]0;title\x07\r\x9b") == r"a\x1b]0;title\x07\r\x9b"


def test_no_setting_is_named_like_a_secret() -> None:
    """A configuration is stored with every run."""
    assert not [
        name
        for name in keys(build({}).model_json_schema())
        if any(word in name for word in ("token", "password", "secret"))
    ]


def keys(schema: Any) -> Iterator[str]:
    """Yield the names of all settings of a schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from keys(value)


def test_a_plan_names_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "abcdefghijkl")
    code, output = call(
        "train",
        "--local",
        "--dry-run",
        "--store",
        str(tmp_path / "abcdefghijkl"),
        "--set",
        "teacher=null",
        "--set",
        "method.name=cross_entropy",
    )
    assert (
        code == OK
        and f"{tmp_path}/***; checkpoints take" in output
        and "abcdefghijkl" not in output
    )
