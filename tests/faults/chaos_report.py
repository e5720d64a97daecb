"""Report a chaos run: failures by kind, repeated epochs, wall time against an undisturbed run."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.chaos_schedule import WEIGHTS


@dataclass
class Made:
    """A failure that was caused.

    Attributes:
        recovery_s: Seconds until the next finished epoch; None if the run did not wait for it.
        ended: Exit code of a driver that ended by itself before that.
    """

    seed: int
    number: int
    kind: str
    recovery_s: float | None = None
    ended: int | None = None
    exceeded: bool = False


@dataclass
class Log:
    """All failures of one sweep, in a file, so that a later run continues it."""

    file: Path
    failures: list[Made] = field(default_factory=list)
    seconds: float = 0.0
    repeated: int = 0
    drivers: int = 0
    unexpected: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, file: Path) -> "Log":
        """Load the failures so far."""
        if not file.exists():
            return cls(file)
        plain = json.loads(file.read_text())
        return cls(file, [Made(**each) for each in plain.pop("failures")], **plain)

    def save(self) -> None:
        """Write the file."""
        plain = {key: value for key, value in asdict(self).items() if key != "file"}
        self.file.write_text(json.dumps(plain, indent=1))

    def reached(self, seed: int) -> int:
        """Return the number of the last failure of a seed."""
        return max((made.number for made in self.failures if made.seed == seed), default=0)


@dataclass(frozen=True)
class Row:
    """All failures of one kind."""

    kind: str
    made: int
    waited_for: int
    median_s: float | None
    longest_s: float | None
    drivers_ended: int
    exceeded: int


def rows(failures: Iterable[Made]) -> list[Row]:
    """Return one row per occurring kind, in the order of the schedule."""
    found: dict[str, list[Made]] = defaultdict(list)
    for each in failures:
        found[each.kind].append(each)
    return [_row(kind, found[kind]) for kind in WEIGHTS if kind in found]


def _row(kind: str, made: Sequence[Made]) -> Row:
    waited = sorted(each.recovery_s for each in made if each.recovery_s is not None)
    return Row(
        kind,
        len(made),
        len(waited),
        waited[len(waited) // 2] if waited else None,
        waited[-1] if waited else None,
        sum(each.ended is not None for each in made),
        sum(each.exceeded for each in made),
    )


def summary(
    log: Log, trials: int, epochs: int, undisturbed_s: float, differences: Sequence[str]
) -> dict[str, Any]:
    """Return the report as plain values.

    Args:
        log: The failures.
        trials: Number of trials.
        epochs: Number of epochs.
        undisturbed_s: Wall time (s) of the undisturbed sweep.
        differences: Differences from the undisturbed sweep.
    """
    return {
        "failures": len(log.failures),
        "seeds": sorted({made.seed for made in log.failures}),
        "trials": trials,
        "epochs": epochs,
        "epochs_repeated": log.repeated,
        "driver_starts": log.drivers,
        "exceeded": sum(made.exceeded for made in log.failures),
        "seconds": round(log.seconds, 1),
        "undisturbed_seconds": round(undisturbed_s, 1),
        "differences": list(differences),
        "kinds": [asdict(row) for row in rows(log.failures)],
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the report as text, with a Markdown table of the kinds."""
    ratio = (
        report["seconds"] / report["undisturbed_seconds"]
        if report["undisturbed_seconds"]
        else float("nan")
    )
    lines = [
        f"{report['failures']} failures (seeds {', '.join(map(str, report['seeds']))}) in one "
        f"sweep of {report['trials']} trials",
        f"epochs repeated: {report['epochs_repeated']} of {report['epochs']}; drivers started: "
        f"{report['driver_starts']}",
        f"wall time: {report['seconds']:.0f} s, undisturbed "
        f"{report['undisturbed_seconds']:.0f} s ({ratio:.1f} times)",
        f"waits beyond their limit: {report['exceeded']}",
        f"differences from the undisturbed sweep: {'; '.join(report['differences']) or 'none'}",
        "",
        "| failure | made | waited for | median (s) | longest (s) | ended the driver | beyond "
        "the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["kinds"]:
        seconds = [
            f"{row[key]:.1f}" if row[key] is not None else "-" for key in ("median_s", "longest_s")
        ]
        cells = [
            row["kind"],
            row["made"],
            row["waited_for"],
            *seconds,
            row["drivers_ended"],
            row["exceeded"],
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
