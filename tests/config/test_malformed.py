"""Test that malformed values of every key give a plan or one sentence, never a traceback."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from methods import METHODS
from orchestrator.config.loader import load
from orchestrator.core.errors import UserError
from orchestrator.models.build import MODELS
from orchestrator.store.store import Store
from orchestrator.sweep.preflight.preflight import show_plan
from tests.config.test_capacity import NUMBERS

VALUES = [
    "",
    "true",
    "0",
    "1e308",
    "9" * 400,
    "''",
    "x",
    '"a\\0b"',
    "[1, null]",
    "{1: 2}",
    "{name: 5}",
    "{student.width: [1]}",
    "&a [*a]",
]
TEXTS = [
    "project",
    "data",
    "data.name",
    "data.path",
    "data.mixing",
    "data.download",
    "teacher",
    "teacher.network",
    "teacher.cache",
    "teacher.mode",
    "teacher.network.weights",
    "student",
    "student.name",
    "student.weights",
    "peers",
    "peers.b",
    "peers.b.network",
    "method",
    "method.name",
    "training",
    "training.schedule",
    "search",
    "search.methods",
    "search.freeze",
    "search.objective",
    "search.objectives",
    "search.extra_space",
    "search.configurations",
    "search.students",
    "resources.peer_placement",
    "tracking.uri",
]
NETWORKS = [
    f"{part}.{name}"
    for part in ("student", "teacher.network")
    for name in MODELS["mlp"].settings.model_fields
]
METHOD_SETTINGS = [
    (name, setting) for name, method in METHODS.items() for setting in method.Settings.model_fields
]
KEYS = [*TEXTS, *NUMBERS, *NETWORKS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("store"))


def planned(store: Store, pairs: list[str], kind: str) -> None:
    """Print the plan, or assert that the refusal is a sentence."""
    try:
        show_plan(store, load(None, pairs), kind, False, Console(file=io.StringIO()))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500, str(error)


@pytest.mark.parametrize("key", KEYS)
def test_a_malformed_value_is_planned_or_refused_in_one_sentence(
    key: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    companions = (
        ["peers.b.network.name=mlp", "method.name=dml", "teacher=null"]
        if key.startswith("peers.b.")
        else []
    )
    # numbers have one parser, and test_capacity.py tests their bounds: each gets a third of these
    first, step = (KEYS.index(key) % 3, 3) if key in NUMBERS else (0, 1)
    for value in VALUES[first::step]:
        planned(store, [*companions, f"{key}={value}"], "sweep")


@pytest.mark.parametrize(("name", "setting"), METHOD_SETTINGS)
def test_a_malformed_setting_is_planned_or_refused_in_one_sentence(
    name: str, setting: str, store: Store
) -> None:
    for value in ("", "true", "1e308", "9" * 400, "x", "[1, null]"):
        planned(store, [f"method.name={name}", f"method.{setting}={value}"], "train")
