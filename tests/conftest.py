"""Fixtures of all tests: one thread, and configurations that run in a second."""

import contextlib
import os
import shutil
import sqlite3

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare
from orchestrator.models.build import build
from orchestrator.models.weights import network_fingerprint, save_weights
from orchestrator.store.store import write_json
from orchestrator.teacher.card import CARD
from orchestrator.teacher.frozen import WEIGHTS
from orchestrator.tracking import _writer, model_registry, overrides, schema
from tests.writer_thread import WriterThread

torch.set_num_threads(1)

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]
Initialize = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the registration of models, which takes seconds each; tests of models enable it."""
    monkeypatch.setattr(model_registry, "KINDS", ())


@pytest.fixture(autouse=True)
def writer_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to MLflow from a thread: a process imports MLflow for seconds; its tests start one."""
    monkeypatch.setattr(_writer, "start_process", WriterThread)


@pytest.fixture(autouse=True)
def no_variables_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the unused MLflow variables.

    Importing MLflow's server sets a database in the environment, which sweeps within a test would
    report.
    """
    for name in overrides.UNUSED:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def initialize_schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Initialize]:
    """Copy MLflow's schema into new databases, and return the function that creates one.

    The creation takes seconds for each store. Tests of it put this function back.
    """
    template, initialize = tmp_path_factory.mktemp("schema") / "mlflow.db", schema._initialize

    def copy(database: Path, artifacts: Path) -> None:
        if database.is_file() and database.stat().st_size:
            initialize(database, artifacts)
            return
        if not template.exists():
            initialize(template, template.parent)
        shutil.copyfile(template, database)
        default = "UPDATE experiments SET artifact_location = ?"  # that of the only experiment
        with contextlib.closing(sqlite3.connect(database)) as known, known:
            known.execute(default, (f"{artifacts.as_uri()}/0",))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "_initialize", copy)
        yield initialize


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store for the prepared digits; tests only add to it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def specify(digits_store: Path, tmp_path: Path) -> Specify:
    """Return a function that specifies a trial on digits by `key=value` pairs."""

    def make(*pairs: str, folder: str = "trial", teacher: Path | None = None) -> TrialSpec:
        configuration: Configuration = load(None, list(pairs))
        data = prepare(configuration.data, digits_store, configuration.data.seed)
        return TrialSpec(
            name="trial",
            configuration=configuration,
            folder=tmp_path / folder,
            data=data,
            teacher=teacher,
            knowledge=tmp_path / "knowledge",
        )

    return make


@pytest.fixture
def make_teacher(tmp_path: Path) -> MakeTeacher:
    """Return a function that writes a teacher with random weights for the data in a folder."""

    def make(data: Path, network: str = "mlp", **settings: int) -> Path:
        dataset, folder = Dataset.open(data), tmp_path / f"teacher-{network}"
        torch.manual_seed(11)
        made = build(network, len(dataset.classes), dataset.shape, settings)
        save_weights(made, folder / WEIGHTS)
        card = {
            "weights": network_fingerprint(made.state_dict()),
            "network": {"name": network, **settings},
        }
        write_json(
            folder / CARD, card | {"classes": len(dataset.classes), "shape": list(dataset.shape)}
        )
        return folder

    return make


@pytest.fixture
def distil(specify: Specify, make_teacher: MakeTeacher) -> Specify:
    """Return a function that builds the specification of a trial on digits with a teacher."""

    def make(*pairs: str, folder: str = "trial") -> TrialSpec:
        spec = specify(*pairs, folder=folder)
        return spec.model_copy(update={"teacher": make_teacher(spec.data, width=32)})

    return make
