"""Print tables of the importance of settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.reporting.terminal.lines import print_line


def importance_tables(found: Mapping[str, Any], least: int, console: Console) -> None:
    """Print a table for each group of trials.

    Args:
        found: The result of `Importance.plain()`.
        least: The smallest number of trials of a group with a table.
        console: The console.
    """
    rankings: Sequence[Mapping[str, Any]] = found["rankings"]
    for ranking in rankings:
        table = Table(title=f"{ranking['branch']}: {ranking['trials']} trials")
        for column in ("setting", "PED-ANOVA", "chance", "fANOVA"):
            table.add_column(
                column, justify="left" if column == "setting" else "right", overflow="fold"
            )
        for name, share in ranking["ped_anova"].items():
            table.add_row(
                name,
                f"{share:.3f}",
                f"{ranking['chance'][name]:.2f}",
                f"{ranking['fanova'][name]:.3f}",
            )
        console.print(table)
    trials = "complete trials only, because trials that were stopped early trained fewer epochs"
    if found["epoch"] is not None:
        trials = (
            f"all trials that reached epoch {found['epoch']}, by their value after it, including "
            f"trials that were stopped early later"
        )
    print_line(console, f"compared: {trials}")
    print_line(
        console,
        f"PED-ANOVA: separates the best trials from the others, by {found['objective']} "
        f"({found['direction']})",
    )
    print_line(
        console,
        "chance: how often PED-ANOVA finds at least this share in shuffled values; above 0.05 the "
        "share may be noise",
    )
    print_line(console, "fANOVA: explains the variance of all values")
    if found["changed"]:
        reason = "population based training changed their settings during training"
        print_line(console, f"omitted: {found['changed']} trials, because {reason}")
    if found["too_few"]:
        print_line(console, f"too few trials (fewer than {least}): {'; '.join(found['too_few'])}")
    if found["alike"]:
        print_line(
            console,
            f"nothing to compare (fewer than two settings differ, or all values are equal): "
            f"{'; '.join(found['alike'])}",
        )
