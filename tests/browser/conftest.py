"""A real small sweep, its report, MLflow's interface on it, and a browser that looks: once for all tests of pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, chromium
from tests.browser.serving import Interface, ran, serving

NAME = "shown"
SETTINGS = (
    "search.methods=[cross_entropy, akd]", "search.trials=4", "training.epochs=4", "search.grace_epochs=2",
    "teacher.training.epochs=3", "project=pages",
)  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    if not chromium():
        pytest.skip("there is no Chromium on this machine: install the package `chromium`")
    with Chromium() as begun:
        yield begun


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what was seen is kept; `--basetemp` says where that is."""
    return tmp_path_factory.mktemp("pictures", numbered=False)


@pytest.fixture(scope="session")
def swept(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished sweep."""
    store = tmp_path_factory.mktemp("swept") / "store"
    ran("sweep", "--name", NAME, *(word for pair in SETTINGS for word in ("--set", pair)), store=store)
    return store


@pytest.fixture(scope="session")
def reported(swept: Path) -> Path:
    """The report of the sweep, which MLflow has too."""
    assert "logged to the run" in ran("report", NAME, store=swept)
    return swept / "reports" / f"{NAME}.html"


@pytest.fixture(scope="session")
def interface(swept: Path) -> Iterator[Interface]:
    """MLflow's interface on the store."""
    with serving(swept, NAME) as begun:
        yield begun
