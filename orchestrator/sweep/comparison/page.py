"""Format a comparison as tables and sentences, in Markdown and for a terminal."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.reporting.statistics import LEVEL, Mean
from orchestrator.sweep.comparison._published import Published
from orchestrator.sweep.comparison.result import Against, Cost, Result, Row

RATE = 1 - LEVEL  # of false claims
NONE = "–"
Titles = list[str]
Rows = list[list[str]]


def quality(result: Result) -> tuple[Titles, Rows]:
    """Return the table of the students' quality on the test part."""
    over = [f"over {reference}, points" for reference in result.references]
    titles = [
        "method",
        "accuracy, %",
        *over,
        "accuracy, best weights, %",
        "NLL",
        "ECE",
        *(["published, %"] if result.beside else []),
    ]
    rows = []
    for row in result.rows:
        differences = [_against(row, reference) for reference in result.references]
        means = [
            _mean(row, "best_accuracy", 100, 2),
            _mean(row, "nll", 1, 3),
            _mean(row, "ece", 1, 3),
        ]
        beside = [_published(result.beside, row.method)] if result.beside else []
        rows.append([row.method, _mean(row, "accuracy", 100, 2), *differences, *means, *beside])
    return titles, rows


def costs(result: Result) -> tuple[Titles, Rows]:
    """Return the table of the students' inference cost, and of the search and training cost."""
    gpu = any(cost.gpu_s for row in result.rows for cost in (row.search, row.over_seeds))
    titles = [
        "method",
        "parameters",
        "multiply-adds",
        "latency, ms",
        "CPU s, search",
        "CPU s, seeds",
    ]
    titles += ["GPU s, search", "GPU s, seeds"] if gpu else []
    rows = []
    for row in result.rows:
        student = row.student
        own = (
            [f"{student.parameters:,}", f"{student.multiply_adds:,}", f"{student.latency_ms:.3f}"]
            if student
            else [NONE] * 3
        )
        spent = [_spent(cost.cpu_s, cost) for cost in (row.search, row.over_seeds)]
        spent += [_spent(cost.gpu_s, cost) for cost in (row.search, row.over_seeds)] if gpu else []
        rows.append([row.method, *own, *spent])
    return titles, rows


def said(result: Result) -> list[str]:
    """Return the conclusions as sentences: what differs, what does not, and what was left out."""
    unfinished = f"unfinished: {result.unfinished}; nothing is claimed before the last one"
    claims = [unfinished] if result.unfinished else _claims(result)
    return [*claims, *(f"{row.method}: {row.message}" for row in result.rows if row.message)]


def conditions(result: Result) -> list[str]:
    """Return how the numbers were obtained, as sentences."""
    seeds, trials = result.seeds, result.trials
    sizes = ", ".join(f"{size:,} {part}" for part, size in result.sizes.items())
    reached = (
        ""
        if result.teacher_accuracy is None
        else f" (validation accuracy {result.teacher_accuracy:.4f})"
    )
    lines = [
        f"data {result.data} ({sizes}); teacher {result.teacher}{reached}; student "
        f"{result.student}; {result.epochs} epochs",
        f"for each method a search of {trials} trials on the validation part, then its best "
        f"settings with the seeds "
        f"{seeds[0]} to {seeds[-1]}, which no search saw: equal seeds have the same first "
        f"weights, batches and views",
        "accuracy, NLL and ECE are of the last weights, on the test part: mean ± standard "
        "error over the seeds; "
        "best weights are of the epoch that was best on validation, and judged on the test "
        "part too",
    ]
    if fewer := [
        f"{row.method} with {row.searched}"
        for row in result.rows
        if row.searched is not None and row.searched < trials
    ]:
        lines.insert(2, f"searches that ended with fewer trials: {', '.join(fewer)}")
    if gone := [row.method for row in result.rows if row.searched is None]:
        lines.insert(
            2,
            f"searches that are not in the store any more, so that nothing is known of their "
            f"cost: {', '.join(gone)}",
        )
    if len(seeds) > 1:
        lines.append(
            f"differences are of pairs with the same seed: mean [{LEVEL:.0%} t interval, of "
            f"each by itself] and the p of a paired "
            "t-test, corrected by Holm for all differences of the table"
        )
    else:
        lines.append(
            "one seed has no interval and no p: nothing is said of how much another one would "
            "differ"
        )
    lines.append(
        "multiply-adds of one image; latency of one image on one CPU thread of the machine "
        "that compared, float32, a median"
    )
    lines.append(
        "cost up to each trial's last report, of the processes that train, without the fitting "
        "of the teacher, which all share, "
        "and without the processes that decode the pictures of a folder; "
        "what trains first also pays for what is paid once: the start of a worker, the "
        "teacher's pass over a view"
    )
    if "," in result.student:
        lines.append(
            "several students train together: accuracy is as search.students says, and the "
            "student that costs is a"
        )
    if result.beside:
        beside = result.beside
        lines.append(
            f"published: {beside.source}; {beside.conditions}; its teacher reached "
            f"{beside.teacher_accuracy:g} %"
        )
    return lines


def markdown(result: Result) -> str:
    """Return the whole page in Markdown."""
    settings = [
        [row.method, ", ".join(f"{key} = {_short(value)}" for key, value in row.settings.items())]
        for row in result.rows
    ]
    parts = [
        f"# {result.name}: {', '.join(row.method for row in result.rows)}",
        "\n".join(f"- {line}" for line in said(result)),
        _lines(*quality(result)),
        _lines(*costs(result)),
        _lines(["method", "settings that its search chose"], settings),
        "\n".join(f"- {line}" for line in conditions(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def show(result: Result, console: Console) -> None:
    """Print the tables and sentences in a terminal."""
    name = f"{result.name} (unfinished)" if result.unfinished else result.name
    for title, (titles, rows) in (("test part", quality(result)), ("cost", costs(result))):
        table = Table(title=f"{name}: {title}")
        for place, each in enumerate(titles):
            table.add_column(each, justify="right" if place else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in (*said(result), *conditions(result)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def metrics(result: Result) -> dict[str, float]:
    """Return the numbers by name, for MLflow."""
    found: dict[str, float] = {}
    for row in result.rows:
        for name, mean in row.means.items():
            found[f"comparison/{row.method}/{name}"] = mean.value
            found |= (
                {f"comparison/{row.method}/{name}_error": mean.error}
                if mean.error is not None
                else {}
            )
        for reference, against in row.against.items():
            name = f"comparison/{row.method}/over_{reference}"
            found[name] = against.difference.mean
            found |= {f"{name}_p": against.corrected} if against.corrected is not None else {}
    return found


def _claims(result: Result) -> Iterator[str]:
    """Yield sentences for each reference: methods that are better, worse or indistinguishable."""
    for reference in result.references:
        others = {
            row.method: row.against[reference] for row in result.rows if reference in row.against
        }
        kinds: dict[str, Callable[[Against], bool]] = {
            "better than": lambda one: one.difference.mean > 0,
            "worse than": lambda one: one.difference.mean < 0,
        }
        sure = {
            name: one
            for name, one in others.items()
            if one.corrected is not None and one.corrected < RATE
        }
        for kind, holds in kinds.items():
            if names := [name for name, one in sure.items() if holds(one)]:
                yield (
                    f"{kind} {reference} on the test part, with a corrected p below "
                    f"{RATE:.2g}: {', '.join(names)}"
                )
        if open_ := [name for name in others if name not in sure]:
            yield (
                f"not told apart from {reference} by {len(result.seeds)} "
                f"seed{'s' * (len(result.seeds) > 1)}: {', '.join(open_)}"
            )


def _mean(row: Row, name: str, times: float, digits: int) -> str:
    mean: Mean | None = row.means.get(name)
    if mean is None:
        return NONE
    return f"{times * mean.value:.{digits}f}" + (
        f" ± {times * mean.error:.{digits}f}" if mean.error is not None else ""
    )


def _against(row: Row, reference: str) -> str:
    """Format a difference as `+1.20 [+0.40, +2.00] p = 0.01`, without missing parts."""
    if reference not in row.against:
        return "0" if row.method == reference else NONE
    difference, corrected = row.against[reference].difference, row.against[reference].corrected
    text = f"{100 * difference.mean:+.2f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    elif difference.pairs > 1:
        text += " in every seed"
    return text + (f" p = {corrected:.2g}" if corrected is not None else "")


def _published(beside: Published, method: str) -> str:
    if method not in beside.accuracies:
        return NONE
    accuracy, deviation = beside.accuracies[method]
    return f"{accuracy:.2f}" + (f" ± {deviation:.2f}" if deviation is not None else "")


def _spent(seconds: float | None, cost: Cost) -> str:
    return f"{seconds:,.1f} ({cost.trials} trials)" if seconds is not None else NONE


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (titles, ["---"] * len(titles), *rows)
    )
