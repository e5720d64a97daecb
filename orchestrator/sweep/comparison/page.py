"""Format a comparison as tables and sentences, in Markdown and for a terminal."""

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.reporting.statistics import LEVEL, Mean
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.sweep.comparison._equivalence import NO, YES
from orchestrator.sweep.comparison._published_table import Published
from orchestrator.sweep.comparison.record import InferenceCost
from orchestrator.sweep.comparison.result import Against, Cost, Result, Row, TeacherRow

RATE = 1 - LEVEL  # of false claims
NONE = "–"
TEACHER_METRICS = {"accuracy", "nll", "ece"}
Titles = list[str]
Rows = list[list[str]]


def quality(result: Result) -> tuple[Titles, Rows]:
    """Return the table of the students' quality on the test part."""
    accuracies = list_accuracies(result)
    over = [
        title
        for reference in result.references
        for title in (
            f"over {reference}, points",
            f"within {result.margin:g} points of {reference}",
        )
    ]
    titles = [
        "method",
        *(f"accuracy, {title}, %" for title in accuracies.values()),
        *over,
        "NLL",
        "ECE",
        *(["published, %"] if result.published else []),
    ]
    rows, unit = [], "study" if result.studies > 1 else "seed"
    for row in result.rows:
        differences = [
            text
            for reference in result.references
            for text in (_format_difference(row, reference, unit), _format_within(row, reference))
        ]
        means = [_format_mean(row, "nll", 1, 3), _format_mean(row, "ece", 1, 3)]
        published = [_format_published(result.published, row.method)] if result.published else []
        reached = [_format_mean(row, name, 100, 2) for name in accuracies]
        rows.append([row.method, *reached, *differences, *means, *published])
    if teacher := result.teacher_row:
        rows.insert(0, _format_teacher(result, teacher, len(titles)))
    return titles, rows


def list_accuracies(result: Result) -> dict[str, str]:
    """Return the names of the test accuracies that a result has, each with the chosen epoch."""
    titles = {
        "accuracy": "last epoch",
        "best_accuracy": "best epoch",
        "best_test_accuracy": "best test epoch",
    }
    known = {name for row in result.rows for name in row.means}
    return {name: title for name, title in titles.items() if name == "accuracy" or name in known}


def published(result: Result) -> tuple[Titles, Rows]:
    """Return the table of the published accuracies of the compared methods, with their protocols.

    It has no rows if there are none.
    """
    titles = ["method", "published, %", "epochs", "views", "epoch", "protocol", "source", "note"]
    rows = [
        [
            method,
            one.text,
            NONE if one.epochs is None else str(one.epochs),
            *(one.views, one.chosen, one.protocol, one.source, one.note),
        ]
        for method, one in (result.published.accuracies if result.published else {}).items()
    ]
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
    if teacher := result.teacher_row:
        unknown = [NONE] * (len(titles) - 4)
        rows.append([_name_teacher(teacher), *_format_inference(teacher.cost), *unknown])
    for row in result.rows:
        student_cost = _format_inference(row.student)
        compute_cost = [_format_cost(cost.cpu_s, cost) for cost in (row.search, row.over_seeds)]
        compute_cost += (
            [_format_cost(cost.gpu_s, cost) for cost in (row.search, row.over_seeds)] if gpu else []
        )
        rows.append([row.method, *student_cost, *compute_cost])
    return titles, rows


def list_conclusions(result: Result) -> list[str]:
    """Return the conclusions as sentences: significant differences, and methods left out."""
    unfinished = f"unfinished: {result.unfinished}; no conclusions before all have ended"
    claims = [unfinished] if result.unfinished else _claims(result)
    return [*claims, *(f"{row.method}: {row.message}" for row in result.rows if row.message)]


def conditions(result: Result) -> list[str]:
    """Return the experimental conditions as sentences."""
    trials = result.trials
    sizes = ", ".join(f"{size:,} {part}" for part, size in result.sizes.items())
    if result.teacher_accuracy is None:
        accuracy_note = ""
    else:
        accuracy_note = f" (validation accuracy {result.teacher_accuracy:.4f})"
    lines = [
        f"data {result.data} ({sizes}); teacher {result.teacher}{accuracy_note}; student "
        f"{result.student}; {result.epochs} epochs",
        _describe_seeds(result),
        f"differences, NLL and ECE are those of the last epoch on the test part, mean ± standard "
        f"error over the {_units(result)}; the best epoch is that of the highest validation "
        f"accuracy, also evaluated on the test part",
    ]
    if fewer := [
        f"{row.method} with {row.searched}"
        for row in result.rows
        if row.searched is not None and row.searched < trials
    ]:
        lines.insert(2, f"searches that ended with fewer trials: {', '.join(fewer)}")
    if trials and (removed := [row.method for row in result.rows if row.searched is None]):
        lines.insert(
            2,
            f"searches that are no longer in the store, so that their cost is unknown: "
            f"{', '.join(removed)}",
        )
    lines += _describe_tests(result)
    lines.append(
        "multiply-adds are those of one image; latency is the median for one image on one CPU "
        "thread in float32, measured once on the machine that ran the comparison"
    )
    lines.append(
        "cost is that of the training processes up to each trial's last report, without the "
        "training of the teacher, which all methods share, and without the processes that "
        "decode images of a folder; the first trials include costs that arise once: the start "
        "of a worker, and the teacher's pass over a view"
    )
    if "," in result.student:
        lines.append(
            "several students train together: accuracy is aggregated as in search.students, and "
            "the inference cost is that of student a"
        )
    if result.published:
        lines.append(
            "published numbers: mean ± standard deviation; ? was not verified in the source, * has "
            "another protocol than the other rows"
        )
    return [*lines, *result.remarks]


def markdown(result: Result) -> str:
    """Return the whole page in Markdown."""
    settings = [
        [
            f"{row.method}{f', study {number}' if result.studies > 1 else ''}",
            ", ".join(f"{key} = {_format_value(value)}" for key, value in each.items()),
        ]
        for row in result.rows
        for number, each in (row.study_settings or {1: row.settings}).items()
    ]
    parts = [
        f"# {result.name}: {', '.join(row.method for row in result.rows)}",
        "\n".join(f"- {' '.join(line.split())}" for line in list_conclusions(result)),
        _markdown_table(*quality(result)),
        _markdown_table(*published(result)) if published(result)[1] else "",
        _markdown_table(*costs(result)),
        _markdown_table(
            ["method", "settings chosen by its search" if result.trials else "settings"], settings
        ),
        "\n".join(f"- {line}" for line in conditions(result)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def show(result: Result, console: Console) -> None:
    """Print the tables and sentences in a terminal."""
    name = f"{result.name} (unfinished)" if result.unfinished else result.name
    tables = {"test part": quality(result), "published": published(result), "cost": costs(result)}
    for title, (titles, rows) in tables.items():
        if not rows:
            continue
        table = Table(title=f"{name}: {title}")
        for index, each in enumerate(titles):
            table.add_column(each, justify="right" if index else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in (*list_conclusions(result), *conditions(result)):
        print_line(console, line)


def metrics(result: Result) -> dict[str, float]:
    """Return the numbers by name, for MLflow."""
    values: dict[str, float] = {}
    if result.teacher_row:
        for name in TEACHER_METRICS & result.teacher_row.metrics.keys():
            values[f"comparison/teacher/{name}"] = result.teacher_row.metrics[name]
    for row in result.rows:
        for name, mean in row.means.items():
            values[f"comparison/{row.method}/{name}"] = mean.value
            values |= (
                {f"comparison/{row.method}/{name}_error": mean.error}
                if mean.error is not None
                else {}
            )
        for reference, against in row.against.items():
            name = f"comparison/{row.method}/over_{reference}"
            values[name] = against.difference.mean
            values |= {f"{name}_p": against.corrected} if against.corrected is not None else {}
            if against.within and against.within.corrected_within is not None:
                values[f"comparison/{row.method}/within_{reference}_p"] = (
                    against.within.corrected_within
                )
    return values


def _claims(result: Result) -> Iterator[str]:
    """Yield for each reference which methods are better, worse or not significantly different."""
    for reference in result.references:
        others = {
            row.method: row.against[reference] for row in result.rows if reference in row.against
        }
        comparisons: dict[str, Callable[[Against], bool]] = {
            "better than": lambda one: one.difference.mean > 0,
            "worse than": lambda one: one.difference.mean < 0,
        }
        significant = {
            name: one
            for name, one in others.items()
            if one.corrected is not None and one.corrected < RATE
        }
        for kind, matches in comparisons.items():
            if names := [name for name, one in significant.items() if matches(one)]:
                yield (
                    f"{kind} {reference} on the test part, with a corrected p below "
                    f"{RATE:.2g}: {', '.join(names)}"
                )
        if not_significant := [name for name in others if name not in significant]:
            yield (
                f"no significant difference to {reference} with {_count_units(result)}: "
                f"{', '.join(not_significant)}"
            )
        if equivalent := [
            name for name, one in others.items() if one.within and one.within.verdict == YES
        ]:
            yield (
                f"within {result.margin:g} points of {reference} on the test part, with a "
                f"corrected p below {RATE:.2g}: {', '.join(equivalent)}"
            )


def _units(result: Result) -> str:
    """Return what the variation between trainings is computed over."""
    return "means of the studies" if result.studies > 1 else "seeds"


def _count_units(result: Result) -> str:
    count, unit = (
        (result.studies, "studies") if result.studies > 1 else (len(result.seeds), "seeds")
    )
    return f"{count} {unit if count > 1 else 'seed'}"


def _describe_seeds(result: Result) -> str:
    """Return how the seeds of the searches and of the trainings are chosen."""
    search = (
        f"for each method a search of {result.trials} trial{'s' * (result.trials != 1)} on the "
        f"validation part, then its best settings"
    )
    reason = "equal seeds give the same initial weights, batches and views"
    if not result.trials:
        return (
            f"no search: each method has the settings listed for it, or else the first initial "
            f"point of its search space, with the seeds {result.seeds[0]} to {result.seeds[-1]}: "
            f"{reason}"
        )
    if result.studies > 1:
        each = len(result.seeds) // result.studies
        return (
            f"{result.studies} studies, each with other seeds: {search} with {each} seeds that no "
            f"other part uses; {reason}"
        )
    return (
        f"{search} with the seeds {result.seeds[0]} to {result.seeds[-1]}, which no search used: "
        f"{reason}"
    )


def _describe_tests(result: Result) -> list[str]:
    """Return how the differences are tested."""
    if len(result.seeds) == 1:
        return ["one seed gives no interval and no p: the variation between seeds is unknown"]
    studies = result.studies > 1
    averaged = ", and averaged within each study" if studies else ""
    tests = (
        f"differences are paired by seed{averaged}: mean [{LEVEL:.0%} t interval, not corrected] "
        f"and the p of a paired t-test with Holm's correction for all differences of the table"
    )
    scope = (
        f"intervals include the variation of the search: they are those of {result.studies} study "
        f"means, with {result.studies - 1} degree{'s' * (result.studies > 2)} of freedom"
        if studies
        else "intervals hold for the settings that were found: another search may find others "
        "(--studies repeats it)"
        if result.trials
        else "intervals hold for the listed settings"
    )
    return [
        tests,
        scope,
        f"within {result.margin:g} points: yes if two one-sided t-tests show it, no if a t-test "
        f"shows a larger difference, else not known; both with Holm's correction for all "
        f"differences of the table",
    ]


def _format_mean(row: Row, name: str, times: float, digits: int) -> str:
    mean: Mean | None = row.means.get(name)
    if mean is None:
        return NONE
    return f"{times * mean.value:.{digits}f}" + (
        f" ± {times * mean.error:.{digits}f}" if mean.error is not None else ""
    )


def _format_difference(row: Row, reference: str, unit: str = "seed") -> str:
    """Format a difference as `+1.20 [+0.40, +2.00] p = 0.01`, without missing parts."""
    if reference not in row.against:
        return "0" if row.method == reference else NONE
    difference, corrected = row.against[reference].difference, row.against[reference].corrected
    text = f"{100 * difference.mean:+.2f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    elif difference.pairs > 1:
        text += f" in every {unit}"
    return text + (f" p = {corrected:.2g}" if corrected is not None else "")


def _format_within(row: Row, reference: str) -> str:
    """Format a verdict as `yes, p = 0.01`; "not known" has no p."""
    within = row.against[reference].within if reference in row.against else None
    if within is None:
        return NONE
    p = {YES: within.corrected_within, NO: within.corrected_outside}.get(within.verdict)
    return within.verdict + (f", p = {p:.2g}" if p is not None else "")


def _name_teacher(teacher: TeacherRow) -> str:
    return f"teacher ({teacher.network})"


def _format_teacher(result: Result, teacher: TeacherRow, columns: int) -> list[str]:
    """Return the teacher's row of the table of quality; it has one network and no seeds."""
    published = [f"{result.published.teacher_accuracy:.2f}"] if result.published else []
    accuracy, nll, ece = (
        f"{times * teacher.metrics[name]:.{digits}f}" if name in teacher.metrics else NONE
        for name, times, digits in (("accuracy", 100, 2), ("nll", 1, 3), ("ece", 1, 3))
    )
    unknown = [NONE] * (columns - 4 - len(published))
    return [_name_teacher(teacher), accuracy, *unknown, nll, ece, *published]


def _format_inference(cost: InferenceCost | None) -> list[str]:
    """Return parameters, multiply-adds and latency."""
    if cost is None:
        return [NONE] * 3
    return [f"{cost.parameters:,}", f"{cost.multiply_adds:,}", f"{cost.latency_ms:.3f}"]


def _format_published(published: Published, method: str) -> str:
    if method not in published.accuracies:
        return NONE
    return published.accuracies[method].text


def _format_cost(seconds: float | None, cost: Cost) -> str:
    return (
        f"{seconds:,.1f} ({cost.trials} trial{'s' * (cost.trials != 1)})"
        if seconds is not None
        else NONE
    )


def _format_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        "| " + " | ".join(map(_markdown_cell, row)) + " |"
        for row in (titles, ["---"] * len(titles), *rows)
    )


def _markdown_cell(text: str) -> str:
    """Return text that stays in its cell: in one line, and without column separators."""
    return " ".join(text.split()).replace("|", "\\|")
