"""Print tables of the importance of settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def importance_tables(found: Mapping[str, Any], least: int, console: Console) -> None:
    """Print a table for each group of trials.

    Args:
        found: The result of `Importance.plain()`.
        least: The least number of trials of a group with a table.
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
    which = "complete trials alone: what a trial that was stopped early reached is of fewer epochs"
    if found["epoch"] is not None:
        which = (
            f"all trials that reached epoch {found['epoch']}, by their value there, also "
            f"those that were stopped early later"
        )
    _say(console, f"counted: {which}")
    _say(
        console,
        f"PED-ANOVA: what tells the best trials from the others, by {found['objective']} "
        f"({found['direction']})",
    )
    _say(
        console,
        "chance: how often PED-ANOVA finds as much in shuffled values; a share whose chance is "
        "above 0.05 may be noise",
    )
    _say(console, "fANOVA: what explains the spread of all values")
    if found["changed"]:
        why = "population based training gave them other settings while they trained"
        _say(console, f"left out: {found['changed']} trials, as {why}")
    if found["too_few"]:
        _say(console, f"too few trials (under {least}): {'; '.join(found['too_few'])}")
    if found["alike"]:
        _say(
            console,
            f"nothing to compare (fewer than two settings differ, or no value does): "
            f"{'; '.join(found['alike'])}",
        )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
