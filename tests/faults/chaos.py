"""Run one sweep of many short trials under random failures, and compare it with an undisturbed one.

`python tests/faults/chaos.py --failures 50 --seed 1`, run again with another seed, continues the
sweep of its folder. The report is about all failures so far. The sweep uses random search and one
group, so that results are bit-identical. The program kills only processes that it started, by id.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for a run as a program

from orchestrator.store.records import Sweep
from tests.faults.broken import (
    LEFTOVER_TIMEOUT_S,
    NAME,
    DriverProcess,
    check_runs,
    check_study,
    compare,
    kill_leftovers,
    load_sweep,
    resume_sweep,
    start_sweep,
)
from tests.faults.chaos_report import Log, Made, summary, table
from tests.faults.chaos_schedule import OFFLINE, WEIGHTS, Failure, schedule
from tests.faults.chaos_targets import damage, damaged_file, fill, mount, processes
from tests.faults.mlflow_server import Server

WAIT_S, INFLUENCE_WAIT_S = 15.0, 10.0
# a group may take two minutes to restart, regardless of `resources.heartbeat_timeout_s`
LIMIT_S = 200.0
STOP_TIMEOUT_S = 20.0  # limit for the end of a driver after SIGTERM
TRIALS = 20  # initial number; the sweep grows by it whenever it has ended
SETTINGS = (
    "search.methods=[kd,kd_aif]",
    "data.label_noise=0.3",
    "training.epochs=6",
    "search.protect_initial_trials=false",
    "resources.max_failures=1000",
    "resources.heartbeat_warning_s=4",
    f"resources.heartbeat_timeout_s={WAIT_S:g}",
    "resources.influence_cpus=0.5",
    f"resources.influence_wait_s={INFLUENCE_WAIT_S:g}",
    "resources.cpus_per_worker=0.5",
    "search.max_failed_trials=3",
)
UNFIT, INTERRUPTED = 3, 130
MAX_WITHOUT_PROGRESS = 8  # consecutive drivers that ended by themselves before an epoch


def print_event(text: str) -> None:
    """Print the progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Progress:
    """Count of finished and of repeated epochs, from the checkpoints of the newest trials."""

    def __init__(self, store: Path) -> None:
        self.trials = store / "sweeps" / NAME / "trials"
        self.seen: dict[str, tuple[int, int]] = {}
        self.finished = self.repeated = 0

    def look(self) -> int:
        """Return the number of finished epochs so far, including repeated ones."""
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.trials), reverse=True)[:3]:
                with contextlib.suppress(OSError, ValueError, LookupError):
                    self._look(name)
        return self.finished

    def _look(self, name: str) -> None:
        file = self.trials / name / "checkpoint" / "progress.json"
        changed = file.stat().st_mtime_ns
        before, epoch = self.seen.get(name, (0, 0))
        if changed == before:
            return
        now = int(json.loads(file.read_text())["record"]["epoch"])
        self.seen[name] = (changed, now)
        self.finished += max(now - epoch, 1)
        self.repeated += max(epoch - now + 1, 0)


class Chaos:
    """One sweep and its failures."""

    def __init__(self, folder: Path, log: Log, server: Server) -> None:
        self.folder, self.log, self.server = folder, log, server
        self.store = folder / "store"
        self.progress = Progress(self.store)
        self.pending: list[tuple[float, Callable[[], None]]] = []
        self.driver: DriverProcess | None = None
        self.progress_at_start = self.without_progress = 0
        self.repaired = False  # study and records agree again after damage to one of them

    # the driver

    def start(self, trials: int | None = None) -> DriverProcess:
        """Start or resume the sweep, with `trials` if given."""
        self.log.drivers += 1
        self.progress_at_start = self.progress.look()
        if load_sweep(self.store) is None:
            settings = (*SETTINGS, f"search.trials={TRIALS}", f"tracking.uri={self.server.uri}")
            self.driver = start_sweep(self.store, *settings)
        else:
            self.driver = resume_sweep(self.store, *(("--trials", str(trials)) if trials else ()))
        return self.driver

    def running(self) -> DriverProcess:
        """Return the driver; an ended one is replaced, with more trials after a complete sweep."""
        if self.driver is None:
            return self.start()
        code = self.driver.process.poll()
        if code is None:
            return self.driver
        self.without_progress = (
            0 if self.progress.look() > self.progress_at_start else self.without_progress + 1
        )
        if code not in (0, UNFIT, INTERRUPTED, -signal.SIGKILL):
            self.log.unexpected.append(
                f"the driver ended with {code}: {' '.join(self.driver.output.split())[-500:]}"
            )
            print_event(f"the driver ended with {code}:\n{self.driver.output[-3000:]}")
        if self.without_progress >= MAX_WITHOUT_PROGRESS:
            raise SystemExit(
                f"the driver ended {self.without_progress} times without an epoch, last with "
                f"{code}:\n{self.driver.output}"
            )
        found = load_sweep(self.store)
        return self.start(len(found.trials) + TRIALS if code == 0 and found else None)

    def end_driver(self) -> None:
        """Send SIGKILL to the driver."""
        if self.driver and self.driver.process.poll() is None:
            self.driver.kill()

    def watch(
        self, seconds: float, until: Callable[[], bool] = lambda: False, every_s: float = 0.03
    ) -> bool:
        """Wait while outages end; return whether the condition became true."""
        end = time.monotonic() + seconds
        while not until():
            now = time.monotonic()
            if now >= end:
                return False
            self.progress.look()
            for due in [each for each in self.pending if each[0] <= now]:
                self.pending.remove(due)
                due[1]()
            time.sleep(every_s)
        return True

    def end_outages(self) -> None:
        """End all pending outages."""
        while self.pending:
            self.pending.pop()[1]()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Run an action after a time."""
        self.pending.append((time.monotonic() + seconds, action))

    # one failure

    def make(self, failure: Failure) -> None:
        """Cause a failure, and record its consequences."""
        self.watch(failure.after_s)
        # finding a process takes a while
        if not self.watch(LIMIT_S, lambda: self.strike(failure), every_s=0.3):
            print_event(
                f"{failure.seed}/{failure.number} {failure.kind} is left out: not possible "
                f"within {LIMIT_S:g} s"
            )
            return
        made = Made(failure.seed, failure.number, failure.kind)
        struck, before, driver = time.monotonic(), self.progress.look(), self.running()
        if failure.waits:
            ends = failure.action == "SIGTERM"
            limit_s = STOP_TIMEOUT_S if ends else LIMIT_S
            over = self.watch(
                limit_s,
                lambda: (
                    driver.process.poll() is not None
                    or (not ends and self.progress.look() > before + 1)
                ),
            )
            made.recovery_s = time.monotonic() - struck
            if not over:
                made.exceeded = True
                print_event(
                    f"nothing was finished for {limit_s:g} s after "
                    f"{failure.kind}:\n{driver.output[-3000:]}"
                )
                self.end_driver()
        code = driver.process.poll()
        made.ended = code if code != -signal.SIGKILL else None
        self.log.failures.append(made)
        self.log.save()
        print_event(
            f"{failure.seed}/{failure.number} {failure.kind}: {made.recovery_s or 0:.1f} s, "
            f"{made.ended}"
        )

    def strike(self, failure: Failure) -> bool:
        """Cause the failure if its target exists; return whether it was caused."""
        driver = self.running()
        self.repaired = self.repaired or self.progress.finished > self.progress_at_start
        if failure.kind in OFFLINE:
            return self._damage_offline(failure)
        if failure.target == "disk":
            ballast = self.store / "ballast"
            fill(ballast)
            self.later(failure.outage_s, lambda: ballast.unlink(missing_ok=True))
            return True
        if failure.action == "MLflow":
            self._outage(failure)
            return True
        if failure.action.startswith("SIG"):
            return self._signal(driver, failure)
        path = damaged_file(self.store, failure)
        if path is None or not damage(path, failure):
            return False
        if failure.target == "checkpoint":  # it is read after the death of its worker
            for process in processes(driver, "worker"):
                process.kill()
        return True

    def _signal(self, driver: DriverProcess, failure: Failure) -> bool:
        number = signal.Signals[failure.action]
        if failure.target == "driver":
            driver.process.send_signal(number)
            if number == signal.SIGSTOP:
                self.later(failure.outage_s, lambda: driver.process.send_signal(signal.SIGCONT))
            if number == signal.SIGKILL:
                driver.process.wait()
                self.start()
            return True
        if number == signal.SIGSTOP and self.progress.finished <= self.progress_at_start:
            return False  # a group that is stopped during its start has a timeout of two minutes
        found = processes(driver, failure.target)
        if found:
            found[int(failure.choice * len(found))].send_signal(number)
        return bool(found)

    def _damage_offline(self, failure: Failure) -> bool:
        """Damage the study or the records, never both: each can restore the other."""
        path = damaged_file(self.store, failure)
        if not self.repaired or path is None or not path.exists():
            return False
        self.end_driver()
        damage(path, failure)
        self.repaired = False
        self.start()
        return True

    def _outage(self, failure: Failure) -> None:
        if failure.target == "killed":
            self.server.stop()
            self.later(failure.outage_s, self.server.begin)
        else:
            self.server.signal(signal.SIGSTOP)
            self.later(failure.outage_s, lambda: self.server.signal(signal.SIGCONT))

    def finish(self) -> Sweep:
        """End all outages, wait for the end of the sweep, and return its record."""
        self.watch(60.0, lambda: not self.pending)
        while True:
            driver = self.running()
            self.watch(LIMIT_S * 4, lambda driver=driver: driver.process.poll() is not None)  # type: ignore[misc]
            found = load_sweep(self.store)
            if (
                driver.process.poll() == 0
                and found
                and found.state == "finished"
                and "were not sent" not in driver.output
            ):
                return found
            if driver.process.poll() == 0:
                self.start()


def undisturbed(store: Path, trials: int) -> tuple[Sweep, float]:
    """Return the same sweep without failures, and its wall time (s).

    It is run if it does not exist, and extended if it has fewer trials.
    """
    found, file = load_sweep(store), store.parent / "undisturbed.json"
    seconds = json.loads(file.read_text()) if file.exists() else 0.0
    if found is None or len(found.trials) < trials:
        started = time.monotonic()
        new = (*SETTINGS, f"search.trials={trials}")
        with (
            start_sweep(store, *new)
            if found is None
            else resume_sweep(store, "--trials", str(trials)) as driver
        ):
            assert driver.wait_until_ended(3600.0) == 0, driver.output
        seconds += time.monotonic() - started
        file.write_text(json.dumps(seconds))
    found = load_sweep(store)
    assert found is not None
    return found, seconds


def differences(found: Sweep, expected: Sweep, server: Server) -> list[str]:
    """Return the differences from the undisturbed sweep; MLflow is read from its database."""
    checks: dict[str, Callable[[], object]] = {
        "results": lambda: compare(found, expected),
        "study": lambda: check_study(found),
        "MLflow": lambda: check_runs(found, f"sqlite:///{server.database}"),
    }
    missed = []
    for name, check in checks.items():
        try:
            check()
        except AssertionError as error:
            missed.append(f"{name}: {' '.join(str(error).split())[:300]}")
    return missed


def run(
    folder: Path, failures: int, seed: int, minutes: float, pause: bool, only: frozenset[str]
) -> dict[str, object]:
    """Cause failures, finish the sweep, compare it, and return the report.

    Args:
        folder: Folder of the sweep, which is continued if it exists.
        failures: Number of the seed's failures.
        seed: Seed of the schedule.
        minutes: Time limit for new failures.
        pause: Leave the sweep unfinished, for a later run to continue.
        only: Kinds of failures to draw; empty for all kinds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, port = Log.open(folder / "failures.json"), folder / "port"
    server = Server(folder / "mlflow", int(port.read_text()) if port.exists() else None)
    port.write_text(str(server.port))
    chaos = Chaos(folder, log, server)
    without = frozenset(WEIGHTS) - (only or frozenset(WEIGHTS)) | (
        frozenset() if mount(chaos.store) else {"full disk"}
    )
    started, patience_s = time.monotonic(), 0.0
    try:
        server.begin()  # the first outage: it answers after some seconds
        for failure in schedule(seed, without):
            if failure.number > failures or time.monotonic() - started > 60 * minutes:
                break
            if failure.number > log.reached(seed):
                chaos.make(failure)
        found = load_sweep(chaos.store) if pause else chaos.finish()
        log.seconds += time.monotonic() - started
        log.repeated += chaos.progress.repeated
        log.save()
        patience_s = 5.0 if pause else LEFTOVER_TIMEOUT_S
    finally:
        chaos.end_driver()
        chaos.end_outages()
        server.stop()
        left = kill_leftovers(patience_s)
    assert found is not None
    if pause:
        return summary(log, len(found.trials), 0, 0.0, [])
    expected, seconds = undisturbed(folder / "undisturbed" / "store", len(found.trials))
    missed = [
        *log.unexpected,
        *differences(found, expected, server),
        *(f"still running: {each}" for each in left),
    ]
    epochs = sum(trial.epochs for trial in found.trials.values())
    return summary(log, len(found.trials), epochs, seconds, missed)


def main() -> int:
    """Run the command line; return 1 if anything differs or waited too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--failures", type=int, default=50, help="how many of the seed's failures are made"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="make no more failures after this time"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir(), "chaos"),
        help="continued where it exists",
    )
    parser.add_argument(
        "--only",
        choices=list(WEIGHTS),
        action="append",
        default=[],
        help="draw only this kind; repeatable",
    )
    parser.add_argument(
        "--pause", action="store_true", help="leave the sweep unfinished: nothing is compared yet"
    )
    parser.add_argument("--json", action="store_true", help="the report for programs")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    report = run(
        given.folder.resolve(),
        given.failures,
        given.seed,
        given.minutes,
        given.pause,
        frozenset(given.only),
    )
    print(json.dumps(report, indent=1) if given.json else table(report))
    return int(bool(report["differences"] or report["exceeded"]))


if __name__ == "__main__":
    sys.exit(main())
