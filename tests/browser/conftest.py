"""Fixtures of the page tests: a small real sweep, its report, MLflow's interface and a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, chromium
from tests.browser.serving import Interface, ran, serving

NAME = "shown"
SETTINGS = (
    "search.methods=[cross_entropy, akd]",
    "search.trials=4",
    "training.epochs=4",
    "search.grace_epochs=2",
    "teacher.training.epochs=3",
    "project=pages",
    "tracking.figures=all",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    if not chromium():
        pytest.skip("there is no Chromium on this machine: install the package `chromium`")
    with Chromium() as chromium_browser:
        yield chromium_browser


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the pictures; `--basetemp` sets its location."""
    return tmp_path_factory.mktemp("pictures", numbered=False)


@pytest.fixture(scope="session")
def swept(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a finished sweep."""
    store = tmp_path_factory.mktemp("swept") / "store"
    ran(
        "sweep",
        "--name",
        NAME,
        *(word for pair in SETTINGS for word in ("--set", pair)),
        store=store,
    )
    return store


@pytest.fixture(scope="session")
def reported(swept: Path) -> Path:
    """Return the report of the sweep, which is also logged to MLflow."""
    assert "logged to the run" in ran("report", NAME, store=swept)
    return swept / "reports" / f"{NAME}.html"


@pytest.fixture(scope="session")
def interface(swept: Path) -> Iterator[Interface]:
    """Serve MLflow's interface on the store."""
    with serving(swept, NAME) as interface:
        yield interface
