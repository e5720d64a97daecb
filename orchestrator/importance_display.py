"""Tables of the importance of settings, as a person reads them. Knows no study."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def importance_tables(found: Mapping[str, Any], console: Console) -> None:
    """A table for the whole study and one for each branch; `found` is `Importance.plain()`."""
    rankings: Sequence[Mapping[str, Any]] = found["rankings"]
    for ranking in rankings:
        table = Table(title=f"{ranking['branch']}: {ranking['trials']} trials")
        for column in ("setting", "PED-ANOVA", "fANOVA"):
            table.add_column(column, justify="left" if column == "setting" else "right", overflow="fold")
        for name, share in ranking["ped_anova"].items():
            spread = ranking["fanova"].get(name)
            table.add_row(name, f"{share:.3f}", "-" if spread is None else f"{spread:.3f}")
        console.print(table)
    which = "complete trials alone: what a trial that was stopped early reached is of fewer epochs"
    if found["epoch"] is not None:
        which = f"all trials that reached epoch {found['epoch']}, by their value there, also those that were stopped early later"
    _say(console, f"counted: {which}")
    _say(console, f"PED-ANOVA: what tells the best trials from the others, by {found['objective']} ({found['direction']})")
    partial = any(len(ranking["fanova"]) < len(ranking["ped_anova"]) for ranking in rankings)
    _say(
        console,
        "fANOVA: what explains the spread of all values" + ("; it knows only settings that all trials have" if partial else ""),
    )
    if found["left_out"]:
        _say(console, f"branches without a table: {'; '.join(found['left_out'])}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
