"""Show a run: live progress in a terminal, plain lines elsewhere, and tables at the end."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.config.objectives import describe_objective, describe_students, list_objectives
from orchestrator.config.plan import count_planned_epochs
from orchestrator.config.schema import PAUSING
from orchestrator.config.trial import apply
from orchestrator.core.privacy import sanitize
from orchestrator.reporting.peer_gain import peer_gains, uses_peers
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.reporting.terminal.notebook import NotebookFrame
from orchestrator.store.records import Sweep, Trial
from orchestrator.teacher.quality import describe_teachers, select_ensemble
from orchestrator.training.metric_names import STOPPED_EPOCH

COSTS = ("seconds/", "cache/")
MAX_RUNNING = 8  # running trials that a frame lists
# Metrics of a trial so far, not of an epoch
TOTALS = ("seconds/total", "seconds/cpu_total", "seconds/gpu_total")
NOTES = 10  # newest notes of a sweep that are shown
TESTED = ("test/last/accuracy", "test/best/accuracy", "best_epoch")  # metrics of a complete trial
LOST = "its test accuracy was lost with the record and the checkpoint"
STATES = ("complete", "running", "stopped_early", "failed")


class Display:
    """Listener that displays a run, which may have started `elapsed_s` seconds ago."""

    def __init__(self, sweep: Sweep, console: Console, elapsed_s: float = 0.0) -> None:
        self.sweep, self.console = sweep, console
        self.first = time.monotonic()
        self.start = self.first - elapsed_s
        self.step = ""
        self.before = sum(trial.ended for trial in sweep.trials.values())  # ended in an earlier run
        self.epochs_before = sum(trial.epochs for trial in sweep.trials.values())
        self.best: Trial | None = None
        # Number of notes already shown, by trial
        self.noted = {trial.number: len(trial.notes) for trial in sweep.trials.values()}
        self.costs: dict[str, float] = {}
        self.live: Live | NotebookFrame | None = None
        if console.is_terminal:
            self.live = Live(self.frame(), console=console, refresh_per_second=4, transient=True)
        elif console.is_jupyter:
            self.live = NotebookFrame(self.frame())

    def __enter__(self) -> "Display":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def leave_terminal(self) -> None:
        """Show plain lines from now on, because another program uses the terminal."""
        if self.live:
            self.live.stop()
            self.live = None

    def preparing(self, what: str) -> None:
        """Show a step before the first trial."""
        self.step = what
        self._print(what)

    def teacher_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show the progress of the teacher's training."""
        self.step = (
            f"fitting the teacher: epoch {epoch}, validation accuracy "
            f"{metrics['validation/accuracy']:.4f}"
        )
        teachers = self.sweep.configuration.named_teachers.values()
        last = {teacher.training.epochs for teacher in teachers}
        if self.live or epoch in last or STOPPED_EPOCH in metrics:
            self._print(self.step)

    def teacher_ready(self, words: str) -> None:
        """Show that the teacher is ready. Unlike a step, this line remains in a terminal."""
        print_line(self.console, words)

    def note(self, text: str) -> None:
        """Show a note about the run as a whole."""
        print_line(self.console, f"note: {text}")

    def trial_started(self, trial: Trial) -> None:
        """Show that a trial starts."""
        if self.step:
            self.step, self.first = "", time.monotonic()
        self._refresh()

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Show a finished epoch.

        A single training prints its metrics, a sweep updates its counts.
        """
        for note in trial.notes[self.noted.get(trial.number, 0) :]:
            print_line(self.console, f"note: {note}")
        self.noted[trial.number] = len(trial.notes)
        for name, value in metrics.items():
            if name.startswith(COSTS) and name not in TOTALS:
                self.costs[name] = self.costs.get(name, 0.0) + value
        if self.sweep.kind == "train":
            shown = ("train/loss", "validation/accuracy", "validation/nll")
            line = ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)
            if self.sweep.configuration.peers:
                per_student = [
                    f"{letter}/validation/accuracy" for letter in self.sweep.configuration.students
                ]
                line += f" ({describe_students(self.sweep.configuration)}); " + ", ".join(
                    f"{name} {metrics[name]:.4f}" for name in per_student
                )
            self._print(f"epoch {epoch}: {line}")
        self._refresh()

    def trial_changed(self, trial: Trial) -> None:
        """Show that a trial continues from the weights of another one."""
        change = trial.changes[-1]
        self._print(
            f"trial {trial.number} copies the weights of trial {change['source']} after epoch "
            f"{change['epoch']}: {settings(trial)}"
        )

    def trial_ended(self, trial: Trial) -> None:
        """Show that a trial ended.

        A terminal gets a line only if the trial has a message. Other outputs always get one.
        """
        whole = f" of {self._epochs(trial)}" if STOPPED_EPOCH in trial.metrics else ""
        text = f"trial {trial.number} {trial.state} after {trial.epochs}{whole} epochs"
        if trial.value is not None:
            text += f", {_describe_objective(self.sweep)} {trial.value:.4f}"
        text += f": {trial.message}" if trial.message else ""
        if self.live and trial.message:
            print_line(self.console, text)
        elif not self.live:
            self._print(f"{text} [{self._counts()}]")
            self._print_best()
        self._refresh()

    def _print_best(self) -> None:
        best = self.sweep.best()
        if (
            best is not None
            and best != self.best
            and best.value is not None
            and self.sweep.kind == "sweep"
        ):
            self._print(f"best so far{_by_first(self.sweep)}: {_best_line(self.sweep, best)}")
        self.best = best

    def _print(self, text: str) -> None:
        if self.live:
            self._refresh()
        else:
            print_line(self.console, text)

    def _refresh(self) -> None:
        if self.live:
            self.live.update(self.frame())

    def _counts(self) -> str:
        states = [trial.state for trial in self.sweep.trials.values()]
        counted = ", ".join(f"{states.count(state)} {state.replace('_', ' ')}" for state in STATES)  # type: ignore[arg-type]
        return f"{counted}, of {self.total}; {self._times()}"

    @property
    def total(self) -> int:
        """Return the number of trials of the run."""
        return 1 if self.sweep.kind == "train" else self.sweep.configuration.search.trials

    def _times(self) -> str:
        elapsed = time.monotonic() - self.start
        ended = sum(trial.ended for trial in self.sweep.trials.values())
        budget = self.sweep.configuration.search.time_budget
        done, total = ended, float(self.total)
        search, before = self.sweep.configuration.search, self.before
        if search.scheduler in PAUSING and self.sweep.kind == "sweep":  # trials end together
            done = sum(trial.epochs for trial in self.sweep.trials.values())
            before = self.epochs_before
            total = max(
                count_planned_epochs(search, self.sweep.configuration.training.epochs), done
            )
        progress = done - before
        remaining = (
            (time.monotonic() - self.first) / progress * (total - done) if progress else None
        )
        if remaining is not None and budget:
            remaining = min(remaining, max(budget - elapsed, 0))
        return f"{elapsed:.0f} s elapsed" + (
            f", about {remaining:.0f} s left" if remaining is not None else ""
        )

    def frame(self) -> Text:
        """Return the current frame: counts, the best trial, and the running trials."""
        text = Text(f"{self.sweep.name}: {self._counts()}")
        if self.step:
            text.append(f"\n{self.step}")
        ranked = self.sweep.ranked()
        if ranked and ranked[0].value is not None:
            text.append(f"\nbest{_by_first(self.sweep)}: {_best_line(self.sweep, ranked[0])}")
        if running := self._running_trials():
            text.append(f"\nrunning: {running}")
        return text

    def _epochs(self, trial: Trial) -> Any:
        return trial.settings.get("training.epochs", self.sweep.configuration.training.epochs)

    def _running_trials(self) -> str:
        """Return the running trials in one line, with epochs and the last objective value."""
        running = [
            trial for _, trial in sorted(self.sweep.trials.items()) if trial.state == "running"
        ]
        lines = [
            f"trial {trial.number}, {trial.epochs} of {self._epochs(trial)} epochs"
            + (f" ({trial.value:.4f})" if trial.value is not None else "")
            for trial in running[:MAX_RUNNING]
        ]
        if len(running) > MAX_RUNNING:
            lines.append(f"and {len(running) - MAX_RUNNING} more")
        return "; ".join(lines)


def settings(trial: Trial) -> str:
    """Return the parameters in force of a trial in one line."""
    return (
        ", ".join(f"{name}={_shorten(value)}" for name, value in trial.settings.items())
        or "the configured settings"
    )


def _describe_objective(sweep: Sweep) -> str:
    """Return the description of the metric that trials are compared by."""
    return describe_objective(sweep.configuration, list_objectives(sweep.configuration.search)[0])


def _by_first(sweep: Sweep) -> str:
    """Return the objective that ranks trials, if there are several; else ""."""
    if sweep.configuration.search.objectives and sweep.kind == "sweep":
        return f" by {_describe_objective(sweep)}"
    return ""


def _best_line(sweep: Sweep, best: Trial) -> str:
    """Return the best trial in one line, with a trial that was ahead but stopped early.

    Values of fewer epochs are not comparable.
    """
    line = f"trial {best.number} at {best.value:.4f} with {settings(best)}"
    if best.state == "stopped_early":
        return (
            f"{line}; it was stopped after {best.epochs} epochs, and a complete trial will "
            f"rank above it"
        )
    if ahead := sweep.stopped_ahead():
        stopped = (
            f"trial {ahead.number} had {ahead.value:.4f} when it was stopped after "
            f"{ahead.epochs} epochs"
        )
        return f"{line}; {stopped}, which is not comparable"
    return line


def _shorten(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def summary(sweep: Sweep, console: Console, commands: dict[str, str]) -> None:
    """Print the end of a run.

    It contains the best trials, the Pareto front, the test accuracy of the best students, and the
    next commands.

    Args:
        sweep: The sweep.
        console: The console.
        commands: Command lines by purpose; `status` is printed only for failed trials.
    """
    table = Table(title=f"{sweep.name}: {sweep.state} after {sweep.seconds:.0f} s")
    for column in ("trial", "state", _describe_objective(sweep), "epochs", "settings"):
        table.add_column(column, overflow="fold")
    for trial in _shown(sweep):
        table.add_row(
            str(trial.number), trial.state, f"{trial.value:.4f}", str(trial.epochs), settings(trial)
        )
    console.print(table)
    if sweep.configuration.search.objectives and sweep.kind == "sweep":
        console.print(_front(sweep))
    best = sweep.best()
    if best and best.state == "complete" and sweep.configuration.peers:
        for line in students(sweep, best):
            print_line(console, line)
    elif best and best.metrics.keys() >= set(TESTED):
        last, chosen, epoch = (best.metrics[name] for name in TESTED)
        print_line(
            console,
            f"best student{_by_first(sweep)}: trial {best.number}, test accuracy {last:.4f} "
            f"with its last weights, "
            f"{chosen:.4f} with the weights of epoch {epoch:.0f}, best on validation",
        )
    elif best and best.state == "complete":
        print_line(console, f"best student{_by_first(sweep)}: trial {best.number}; {LOST}")
    elif best:
        if sweep.state == "finished":
            advice = "increase search.time_budget or reduce training.epochs"
        else:
            advice = "resume the sweep"
        console.print(
            f"no trial has trained all its epochs, so the test part was not read: {advice}",
            soft_wrap=True,
        )
    for line in describe_teachers(sweep.folder, len(sweep.configuration.named_teachers)):
        print_line(console, f"teacher {line}")
    if best and (ensemble := select_ensemble(best.metrics)):
        accuracy = f"validation accuracy {ensemble['accuracy']:.4f}"
        print_line(console, f"ensemble of trial {best.number}: {accuracy}")
    waiting = sum(trial.state == "waiting" for trial in sweep.trials.values())
    if waiting and sweep.state != "interrupted":
        print_line(
            console,
            f"{waiting} trials did not start: increase search.time_budget or resume the sweep",
        )
    failed = sum(trial.state == "failed" for trial in sweep.trials.values())
    if failed:
        print_line(
            console,
            f"{failed} of {len(sweep.trials)} trials failed: run `{commands['status']}` to see the "
            f"reasons",
        )
    for what, command in commands.items():
        if what != "status":
            print_line(console, f"{what}: {command}")


def _front(sweep: Sweep) -> Table:
    objectives = [
        describe_objective(sweep.configuration, name)
        for name in list_objectives(sweep.configuration.search)
    ]
    table = Table(title="Pareto front")
    for column in ("trial", *objectives, "settings"):
        table.add_column(column, overflow="fold")
    for trial in sweep.front():
        table.add_row(
            str(trial.number),
            *(_objective_text(value) for value in trial.values or ()),
            settings(trial),
        )
    return table


def _objective_text(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"


def students(sweep: Sweep, trial: Trial) -> list[str]:
    """Return a line for each student of a complete trial.

    A line has the test accuracies, and the gain over single-student KD if it is known.
    """
    gains, configuration = peer_gains(sweep, trial), apply(sweep.configuration, trial.settings)
    if sweep.kind == "sweep":
        lines = [f"best trial{_by_first(sweep)}: {trial.number} ({configuration.method.name})"]
    else:
        lines = []
    for letter, student in configuration.students.items():
        if any(f"{letter}/{name}" not in trial.metrics for name in TESTED):
            lines.append(f"student {letter} ({student.network.name}): {LOST}")
            continue
        last, chosen, epoch = (trial.metrics[f"{letter}/{name}"] for name in TESTED)
        gain = gains.get(letter)
        over = f", {gain.test:+.4f} over single-student KD (trial {gain.baseline})," if gain else ""
        lines.append(
            f"student {letter} ({student.network.name}): test accuracy {last:.4f}{over} with its "
            f"last weights, {chosen:.4f} with the weights of epoch {epoch:.0f}, best on validation"
        )
    alone = [letter for letter in configuration.students if letter not in gains]
    if sweep.kind == "sweep" and alone and uses_peers(sweep, trial):
        lines.append(
            f"no gain from peer learning for student {' and '.join(alone)}: no kd trial with the "
            f"same network is complete; add kd to search.methods"
        )
    return lines


def costs(display: Display, console: Console) -> None:
    """Print the time of each part of a training, and the hits and misses of the teacher's cache."""
    seconds = {
        name.removeprefix("seconds/"): value
        for name, value in display.costs.items()
        if name.startswith("seconds/")
    }
    total = seconds.pop("epoch", 0.0) + seconds.get("report", 0.0)
    if not total:
        return
    seconds["rest"] = total - sum(seconds.values())
    table = Table(title="training time by part")
    for column in ("part", "seconds", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, value in sorted(seconds.items(), key=lambda pair: -pair[1]):
        table.add_row(part, f"{value:.2f}", f"{value / total:.0%}")
    console.print(table)
    if "cache/hits" in display.costs:
        hits, misses = (display.costs[f"cache/{name}"] for name in ("hits", "misses"))
        console.print(f"teacher cache: {hits:.0f} hits, {misses:.0f} misses", highlight=False)


def _shown(sweep: Sweep) -> list[Trial]:
    """Return the five best trials and the best one of every other method.

    A student is compared with its baselines.
    """
    ranked = sweep.ranked()
    best_of: dict[Any, Trial] = {}
    for trial in ranked:
        best_of.setdefault(trial.settings.get("method.name"), trial)
    return [trial for place, trial in enumerate(ranked) if place < 5 or trial in best_of.values()]


def show_damage(sweep: Sweep, option: str) -> None:
    """Print the damaged files of a sweep to standard error.

    `option` is the command-line option that selects the store.
    """
    damage = sweep.damage(option)
    for text in [
        *damage[:NOTES],
        *([f"{len(damage) - NOTES} more files are damaged"] if len(damage) > NOTES else []),
    ]:
        print(sanitize(f"note: {text}"), file=sys.stderr)


def sweeps_table(sweeps: Sequence[Sweep], console: Console) -> None:
    """Print a line for each sweep of a store: state, counts of its trials, and best value."""
    table = Table(title=None if sweeps else "this store has no sweeps yet")
    for column in ("sweep", "state", "trials", "best", "objective"):
        table.add_column(column, overflow="fold")
    for sweep in sweeps:
        status = sweep.status()
        counts = Counter(trial["state"] for trial in status["trials"])
        best = status["best"]
        if best and best["value"] is not None:
            value = f"{best['value']:.4f}, trial {best['number']}"
        else:
            value = ""
        trials = ", ".join(f"{count} {state}" for state, count in counts.items())
        table.add_row(
            sweep.name,
            status["state"],
            trials,
            value,
            describe_objective(sweep.configuration, status["objective"]),
        )
    console.print(table)


def status_table(sweep: Sweep, console: Console) -> None:
    """Print every trial of a sweep with its state and, if it failed, the reason."""
    status = sweep.status()
    objectives = ", ".join(
        f"{goal.direction} {describe_objective(sweep.configuration, goal.name)}"
        for goal in sweep.goals
    )
    table = Table(title=f"{sweep.name}: {status['state']}, {objectives}")
    for column in ("trial", "state", "value", "epochs", "settings", "message"):
        table.add_column(column, overflow="fold")
    for summary_ in status["trials"]:
        trial = sweep.trials[summary_["number"]]
        value = f"{trial.value:.4f}" if trial.value is not None else ""
        table.add_row(
            str(trial.number),
            summary_["state"],
            value,
            str(trial.epochs),
            settings(trial),
            Text(trial.remarks),
        )
    console.print(table)
    for note in sweep.notes[-NOTES:]:
        print_line(console, f"{datetime.fromtimestamp(note['time']):%Y-%m-%d %H:%M} {note['text']}")
