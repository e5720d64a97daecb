"""Kill a sweep without Ray: its processes end, and a resume continues it."""

from pathlib import Path

import psutil
import pytest

from tests.faults.broken import (
    DriverProcess,
    check_runs,
    check_study,
    compare,
    has_epochs,
    load_sweep,
    resume_sweep,
    start_sweep,
)

pytestmark = pytest.mark.slow
SETTINGS = ("training.epochs=12", "search.trials=4")
GONE_S = 60.0  # for the end of orphaned processes: many times their duration


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_sweep_is_resumed_with_identical_results(processes: int, tmp_path: Path) -> None:
    options = ("--local", "--processes", str(processes))
    undisturbed = tmp_path / "undisturbed" / "store"
    with start_sweep(undisturbed, *SETTINGS, options=("--local",)) as driver:
        assert driver.wait_until_ended() == 0, driver.output
    store = tmp_path / "disturbed" / "store"
    with start_sweep(store, *SETTINGS, options=options) as driver:
        driver.wait_for(has_epochs(store, 15), "15 epochs")
        children = workers(driver)
        assert len(children) == (processes if processes > 1 else 0)
        driver.kill()
    assert not psutil.wait_procs(children, GONE_S)[1], "its processes have ended"
    with resume_sweep(store, *options) as driver:
        driver.wait_for(has_epochs(store, 30), "30 epochs")
        for child in workers(driver)[:1]:
            child.kill()
        assert driver.wait_until_ended() == 0, driver.output
    found, expected = load_sweep(store), load_sweep(undisturbed)
    assert expected is not None and found is not None
    compare(found, expected)
    check_study(found)
    check_runs(found)
    if processes > 1:
        assert any("continues from its checkpoint" in note["text"] for note in found.notes)


def workers(driver: DriverProcess) -> list[psutil.Process]:
    """Return the processes that train for a driver."""
    children = psutil.Process(driver.process.pid).children(recursive=True)
    return [child for child in children if "_local_worker" in " ".join(child.cmdline())]
