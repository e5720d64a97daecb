"""Fixtures of the fault tests: undisturbed sweeps, and the table of faults and losses."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from orchestrator.store.records import Sweep
from tests.faults.broken import (
    LEFTOVER_TIMEOUT_S,
    check_all,
    kill_leftovers,
    load_sweep,
    start_sweep,
)

Row = tuple[str, str, int, str]
AddRow = Callable[..., None]
ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture
def add_row(request: pytest.FixtureRequest) -> AddRow:
    """Return a function that adds a row to the table, after all comparisons.

    A row holds the fault, its number and targets, the number of trials, and the losses.
    """

    def add(fault: str, made: str, trials: int, lost: str = "nothing") -> None:
        request.config.stash.setdefault(ROWS, []).append((fault, made, trials, lost))

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table in the format of docs/results.md."""
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.write_line("\n| fault | made | trials | lost |\n|---|---|---|---|")
        for row in rows:
            terminalreporter.write_line(f"| {' | '.join(map(str, row))} |")


UNDISTURBED_SETTINGS = ("training.epochs=12", "search.trials=6")


@pytest.fixture(autouse=True)
def no_process_remains(request: pytest.FixtureRequest) -> Iterator[None]:
    """Assert that Ray ends after its driver's death.

    It does not end at once, so that a resume meets leftovers. A quick test does not wait.
    """
    yield
    patient = request.node.get_closest_marker("faults") is not None
    left = kill_leftovers(LEFTOVER_TIMEOUT_S if patient else 0.0)
    assert not (left and patient), (
        f"their driver is gone, and {LEFTOVER_TIMEOUT_S:g} s later these are not: {left}"
    )


@pytest.fixture(scope="session")
def run_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Sweep]:
    """Return a function that runs an undisturbed sweep, once for the same settings."""

    @cache
    def run(*pairs: str) -> Sweep:
        store: Path = tmp_path_factory.mktemp("unbroken") / "store"
        with start_sweep(store, *pairs) as driver:
            assert driver.wait_until_ended() == 0, driver.output
        found = load_sweep(store)
        assert found is not None
        check_all(store, found)
        return found

    return run


@pytest.fixture
def undisturbed(run_undisturbed: Callable[..., Sweep]) -> Sweep:
    """Return the undisturbed sweep of `WHOLE`."""
    return run_undisturbed(*UNDISTURBED_SETTINGS)
