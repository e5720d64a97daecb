"""Summarize a sweep in sentences: search, best trial, lead, cost and next steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.objectives import Goal
from orchestrator.reporting.html._chart import number
from orchestrator.reporting.html._sweep_view import Facts, measure
from orchestrator.reporting.html._teacher_gain import teacher_gain
from orchestrator.store.records import Trial
from orchestrator.teacher.quality import read_quality

FEW = 0.05  # share of failed trials from which the reasons should be checked


@dataclass(frozen=True)
class Commands:
    """Command lines for the next steps, each a whole line; "" if one does not apply."""

    resume: str
    export: str
    again: str
    once: str
    ui: str
    compare: str = ""


def glance(facts: Facts) -> list[tuple[str, str]]:
    """Return a few key numbers with their names."""
    sweep, best = facts.sweep, facts.sweep.best()
    found = [("state", facts.state)]
    if best is not None and best.value is not None:
        found += [("best", facts.label(best)), (facts.objective, number(best.value))]
        tested = measure(best, "test/best/accuracy")
        found += [("its test accuracy", f"{tested:.4f}")] if tested is not None else []
    found += [
        ("trials that ended", f"{sum(trial.ended for trial in facts.trials)} of {_total(facts)}")
    ]
    return [*found, ("epochs trained", f"{_trained(facts):,}"), ("took", duration(sweep.seconds))]


def banner(facts: Facts, commands: Commands) -> list[str]:
    """Return the warnings of the page: unfinished sweep, no complete trial, and recent notes."""
    said = []
    waits = f" The rest is trained by: {commands.resume}" if commands.resume else ""
    if facts.state == "running":
        said.append("Unfinished: this sweep still runs. All numbers are of what it has so far.")
    elif facts.state != "finished":
        said.append(
            f"Unfinished: this {facts.sweep.kind} is {facts.state}. All numbers are of what it "
            f"has so far.{waits}"
        )
    if not facts.complete:
        what = (
            "those below were stopped early and are judged by fewer epochs"
            if facts.sweep.ranked()
            else "so nothing can be ranked"
        )
        said.append(
            f"No trial has trained all its {facts.epochs} epochs: {what}; the test part was "
            f"not read."
        )
    return said + [note["text"] for note in facts.sweep.status()["notes"][-5:]]


def sentences(facts: Facts) -> list[tuple[str, str]]:
    """Return the sentences of the summary, each with its topic."""
    told = [
        ("Searched" if facts.searched else "Trained", _searched(facts)),
        ("Won", _won(facts)),
        ("By how much", _lead(facts)),
    ]
    told += [("Gain from the teacher", teacher_gain(facts)), ("Cost", _cost(facts))]
    return [(what, said) for what, said in told if said]


def _searched(facts: Facts) -> str:
    configuration, search = facts.sweep.configuration, facts.sweep.configuration.search
    data = facts.data.get("name", configuration.data.name)
    parts = ", ".join(
        f"{facts.samples(part)} {part}"
        for part in ("train", "validation", "test")
        if facts.samples(part)
    )
    networks = " and ".join(student.network.name for student in configuration.students.values())
    taught = (
        f", taught by the teacher {configuration.teacher.network.name}"
        if configuration.teacher
        else ""
    )
    if quality := read_quality(facts.sweep.folder):
        taught = f", taught by the teacher {quality.words}"
    what = f"{data} ({parts})" if parts else str(data)
    what += f"{taught}, seed {configuration.seed}"
    if not facts.searched:
        return (
            f"The student {networks} with {configuration.method.name} on {what}, for "
            f"{facts.epochs} epochs."
        )
    methods = ", ".join(search.methods or (configuration.method.name,))
    if search.configurations:
        seeds = f", each with the seeds {', '.join(map(str, search.seeds))}" if search.seeds else ""
        return (
            f"Nothing: {len(search.configurations)} settings of {methods} were given, for the "
            f"student {networks} on {what}{seeds}. "
            f"{_counts(facts)}"
        )
    how = (
        "no trial is stopped early"
        if search.scheduler == "none"
        else f"{search.scheduler} decides who goes on"
    )
    return (
        f"The settings of {methods} for the student {networks} on {what}: {_total(facts)} "
        f"trials of at most {facts.epochs} epochs, "
        f"drawn by {search.sampler}; {how}. {_counts(facts)} Looked for: "
        f"{facts.goal.direction} {facts.objective} of the last "
        f"epoch{_also(facts)}."
    )


def _also(facts: Facts) -> str:
    others = facts.sweep.configuration.search.objectives[1:]
    return f", with {', '.join(others)} beside it" if others else ""


def _counts(facts: Facts) -> str:
    states = [facts.state_of(trial) for trial in facts.trials]
    names = ("complete", "stopped_early", "failed", "running", "waiting")
    told = [f"{states.count(name)} {name.replace('_', ' ')}" for name in names if name in states]
    return (
        f"{'' if facts.state == 'finished' else 'So far '}{', '.join(told)}."
        if told
        else "None has begun."
    )


def _won(facts: Facts) -> str:
    best = facts.sweep.best()
    if best is None or best.value is None:
        return "Nothing yet: no trial has ended with a value."
    said = (
        f"{facts.label(best)} with {facts.objective} {number(best.value)} after "
        f"{best.epochs} epochs: {facts.settings(best)}."
    )
    said += f" It {best.taken_over}." if best.taken_over else ""
    tested = [(name, measure(best, f"test/{name}/accuracy")) for name in ("best", "last")]
    if all(value is not None for _, value in tested):
        error = facts.standard_error(float(tested[0][1] or 0), "test")
        about = f" (standard error {error:.4f})" if error is not None else ""
        said += (
            f" On the test part, which chose nothing, it reaches {tested[0][1]:.4f}{about} "
            f"with its weights that were best on "
            f"validation and {tested[1][1]:.4f} with its last ones."
        )
    front = facts.sweep.front() if facts.searched else []
    if facts.sweep.configuration.search.objectives and front:
        numbers = ", ".join(str(trial.number) for trial in front)
        said += f" On the Pareto front are trials {numbers}; the best is so by the first objective."
    return said[0].upper() + said[1:]


def _lead(facts: Facts) -> str:
    others = [trial for trial in facts.best_of_methods() if trial.value is not None]
    if len(others) < 2:
        return _lead_in_method(facts)
    best = others[0]
    gaps = [
        f"{_better(facts, best, other)} the best {facts.method(other)} (trial "
        f"{other.number}{_less(other)})"
        for other in others[1:]
    ]
    return f"In {facts.objective}: {', '.join(gaps)}. {_doubt(facts, best, others[1])}".strip()


def _less(trial: Trial) -> str:
    return "" if trial.state == "complete" else ", stopped early"


def _better(facts: Facts, one: Trial, other: Trial) -> str:
    """Return by how much a trial is better or worse than another, by the objective's direction.

    A trial of fewer epochs may be better than the best one.
    """
    gap = -facts.goal.sign * ((one.value or 0) - (other.value or 0))
    return f"{abs(gap):.4f} {'better' if gap > 0 else 'worse'} than" if gap else "equal to"


def _lead_in_method(facts: Facts) -> str:
    ranked = facts.complete
    if len(ranked) < 2:
        return ""
    one, two = ranked[:2]
    return (
        f"In {facts.objective}: {_better(facts, one, two)} the second best, trial "
        f"{two.number}. {_doubt(facts, one, two)}"
    ).strip()


def _doubt(facts: Facts, best: Trial, other: Trial) -> str:
    """Return how much of a lead may be chance, if the objective is an accuracy."""
    proof = (
        "these are two trainings"
        if facts.sweep.configuration.search.seeds
        else "each is one training with one seed"
    )
    error = facts.standard_error(best.value or 0.0, "validation")
    if (
        facts.goal != Goal("validation/accuracy", "maximize")
        or best.value is None
        or other.value is None
        or error is None
    ):
        return f"{proof[0].upper()}{proof[1:]}: this is no proof of a difference."
    lead = best.value - other.value
    verdict = "less than that" if lead < error else f"{lead / error:.1f} times that"
    return (
        f"One standard error of such an accuracy on {facts.samples('validation')} validation "
        f"samples is {error:.4f}; the lead over "
        f"the next is {verdict}; {proof}, and the best of many looks better than it is."
    )


def _cost(facts: Facts) -> str:
    trained = _trained(facts)
    whole = len(facts.trials) * facts.epochs
    saved = (
        f", {1 - trained / whole:.0%} less than {len(facts.trials)} whole trials"
        if facts.searched and trained < whole
        else ""
    )
    return (
        f"{duration(facts.sweep.seconds)} of the driver's time, the teacher's fitting "
        f"included; {trained:,} epochs trained{saved}."
    )


def steps(facts: Facts, commands: Commands, edges: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the next steps, each with its command if there is one.

    `edges` are the best trial's settings at an end of their range.
    """
    told = [("Go on with it:", commands.resume)] if commands.resume else []
    failed = sum(trial.state == "failed" for trial in facts.trials)
    if failed and failed >= FEW * len(facts.trials):
        told.append((f"Look why {failed} trials failed: it stands below the table of trials.", ""))
    if edges:
        told.append(
            (
                f"Search a wider space: the best trial is at the end of what was searched, "
                f"{'; '.join(edges)}.",
                "",
            )
        )
    if commands.export:
        told.append(("Take the best student with you:", commands.export))
    if (
        facts.searched
        and not facts.sweep.configuration.search.configurations
        and len(facts.complete) > 1
    ):
        told.append(
            (
                "Train the best settings of each with several seeds before one is called the "
                "better.",
                "",
            )
        )
    if commands.compare:
        told.append(
            (
                f"With the configuration below as {facts.sweep.name}.yaml, that is done for "
                f"the methods by:",
                commands.compare,
            )
        )
    return told


def _trained(facts: Facts) -> int:
    return sum(trial.epochs for trial in facts.trials)


def _total(facts: Facts) -> int:
    return max(facts.sweep.configuration.search.trials, len(facts.trials)) if facts.searched else 1


def duration(seconds: float) -> str:
    """Return a duration such as `1 h 2 min`, `3 min 4 s` or `5.6 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {seconds % 60:.0f} s"
    )
