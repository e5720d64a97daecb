"""Summarize a sweep in sentences: search, best trial, lead, cost and next steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.config.objectives import Goal
from orchestrator.reporting.html._format import number
from orchestrator.reporting.html._sweep_view import SweepView, measure
from orchestrator.reporting.html._teacher_gain import teacher_gain
from orchestrator.store.records import Trial
from orchestrator.teacher.quality import describe_teachers, read_qualities, select_ensemble

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


def key_numbers(view: SweepView) -> list[tuple[str, str]]:
    """Return a few key numbers with their names."""
    sweep, best = view.sweep, view.sweep.best()
    numbers = [("state", view.state)]
    if best is not None and best.value is not None:
        numbers += [("best trial", view.label(best)), (view.objective, number(best.value))]
        tested = measure(best, "test/best/accuracy")
        numbers += [("test accuracy of the best", f"{tested:.4f}")] if tested is not None else []
    numbers += [("trials ended", f"{sum(trial.ended for trial in view.trials)} of {_total(view)}")]
    return [
        *numbers,
        ("epochs trained", f"{_trained(view):,}"),
        ("duration", duration(sweep.seconds)),
    ]


def warnings_of(view: SweepView, commands: Commands) -> list[str]:
    """Return the warnings of the page: unfinished sweep, no complete trial, and recent notes."""
    warnings = []
    advice = f" To train the rest, run: {commands.resume}" if commands.resume else ""
    if view.state == "running":
        warnings.append("Unfinished: this sweep is still running. All numbers are preliminary.")
    elif view.state != "finished":
        warnings.append(
            f"Unfinished: this {view.sweep.kind} is {view.state}. All numbers are "
            f"preliminary.{advice}"
        )
    if not view.complete:
        if view.sweep.ranked():
            ranking = "the ranked trials were stopped early and are compared after fewer epochs"
        else:
            ranking = "there is no ranking"
        warnings.append(
            f"No trial has trained all its {view.epochs} epochs: {ranking}; the test part was "
            f"not read."
        )
    return warnings + [note["text"] for note in view.sweep.status()["notes"][-5:]]


def summarize_sweep(view: SweepView) -> list[tuple[str, str]]:
    """Return the sentences of the summary, each with its topic."""
    sentences = [
        ("Search" if view.searched else "Training", _searched(view)),
        ("Best trial", _best_trial(view)),
        ("Lead", _lead(view)),
    ]
    sentences += _teachers(view)
    sentences += [("Gain from the teacher", teacher_gain(view)), ("Cost", _cost(view))]
    return [(topic, sentence) for topic, sentence in sentences if sentence]


def _teachers(view: SweepView) -> list[tuple[str, str]]:
    """Return a sentence on each of several teachers, and one on their average in the best trial."""
    configuration, best = view.sweep.configuration, view.sweep.best()
    if not configuration.teachers:
        return []
    qualities = read_qualities(view.sweep.folder, len(configuration.teachers))
    rows = [
        (f"Teacher {number}", f"{quality.words}.")
        for number, quality in enumerate(qualities)
        if quality is not None
    ]
    ensemble = select_ensemble(best.metrics) if best else {}
    if best is None or not ensemble:
        return rows
    shown = ", ".join(f"{value:.4f}" for name, value in ensemble.items() if name != "accuracy")
    averaged = f"; mean weights {shown}" if shown else ""
    words = f"validation accuracy {ensemble['accuracy']:.4f} in trial {best.number}{averaged}."
    return [*rows, ("Average of the teachers", words)]


def _searched(view: SweepView) -> str:
    configuration, search = view.sweep.configuration, view.sweep.configuration.search
    data = view.data.name if view.data else configuration.data.name
    parts = ", ".join(
        f"{view.samples(part)} {part}"
        for part in ("train", "validation", "test")
        if view.samples(part)
    )
    networks = " and ".join(student.network.name for student in configuration.students.values())
    teacher = ""
    if names := configuration.teacher_names:
        lines = describe_teachers(view.sweep.folder, len(configuration.named_teachers))
        single = configuration.teacher is not None
        teacher = (
            f", with the teacher {''.join(lines) or names}"
            if single
            else (f", with the teachers {names}")
        )
    setup = f"{data} ({parts})" if parts else str(data)
    setup += f"{teacher}, seed {configuration.seed}"
    if not view.searched:
        return (
            f"The student {networks} with {configuration.method.name} on {setup}, for "
            f"{view.epochs} epochs."
        )
    methods = ", ".join(search.methods or (configuration.method.name,))
    if search.configurations:
        seeds = f", each with the seeds {', '.join(map(str, search.seeds))}" if search.seeds else ""
        return (
            f"None: {len(search.configurations)} fixed configurations of {methods} were trained, "
            f"for the student {networks} on {setup}{seeds}. {_counts(view)}"
        )
    how = "no early stopping" if search.scheduler == "none" else f"scheduler {search.scheduler}"
    return (
        f"The settings of {methods} for the student {networks} on {setup}: {_total(view)} trials "
        f"of at most {view.epochs} epochs, sampler {search.sampler}, {how}. {_counts(view)} "
        f"Objective: {view.goal.direction} {view.objective} of the last "
        f"epoch{list_other_objectives(view)}."
    )


def list_other_objectives(view: SweepView) -> str:
    further = view.sweep.configuration.search.objectives[1:]
    return f"; further objectives: {', '.join(further)}" if further else ""


def _counts(view: SweepView) -> str:
    states = [view.state_of(trial) for trial in view.trials]
    names = ("complete", "stopped_early", "failed", "running", "waiting")
    counts = [f"{states.count(name)} {name.replace('_', ' ')}" for name in names if name in states]
    if counts:
        return f"{'' if view.state == 'finished' else 'So far '}{', '.join(counts)}."
    return "No trial has started."


def _best_trial(view: SweepView) -> str:
    best = view.sweep.best()
    if best is None or best.value is None:
        return "None yet: no trial has ended with a value."
    text = (
        f"{view.label(best)} with {view.objective} {number(best.value)} after "
        f"{best.epochs} epochs: {view.settings(best)}."
    )
    text += f" It {best.taken_over}." if best.taken_over else ""
    tested = [(name, measure(best, f"test/{name}/accuracy")) for name in ("best", "last")]
    if all(value is not None for _, value in tested):
        error = view.standard_error(float(tested[0][1] or 0), "test")
        about = f" (standard error {error:.4f})" if error is not None else ""
        text += (
            f" Its test accuracy is {tested[0][1]:.4f}{about} with the weights that were best on "
            f"validation, and {tested[1][1]:.4f} with the last weights. The test part was not used "
            f"for selection."
        )
    front = view.sweep.front() if view.searched else []
    if view.sweep.configuration.search.objectives and front:
        numbers = ", ".join(str(trial.number) for trial in front)
        text += f" On the Pareto front: trials {numbers}; trials are ranked by the first objective."
    return text[0].upper() + text[1:]


def _lead(view: SweepView) -> str:
    ranked = [trial for trial in view.best_of_methods() if trial.value is not None]
    if len(ranked) < 2:
        return _lead_in_method(view)
    best = ranked[0]
    gaps = [
        f"{_better(view, best, other)} the best {view.method(other)} (trial "
        f"{other.number}{_stopped_mark(other)})"
        for other in ranked[1:]
    ]
    return f"In {view.objective}: {', '.join(gaps)}. {_doubt(view, best, ranked[1])}".strip()


def _stopped_mark(trial: Trial) -> str:
    return "" if trial.state == "complete" else ", stopped early"


def _better(view: SweepView, one: Trial, other: Trial) -> str:
    """Return by how much a trial is better or worse than another, by the objective's direction.

    A trial of fewer epochs may be better than the best one.
    """
    gap = -view.goal.sign * ((one.value or 0) - (other.value or 0))
    return f"{abs(gap):.4f} {'better' if gap > 0 else 'worse'} than" if gap else "equal to"


def _lead_in_method(view: SweepView) -> str:
    ranked = view.complete
    if len(ranked) < 2:
        return ""
    one, two = ranked[:2]
    return (
        f"In {view.objective}: {_better(view, one, two)} the second best, trial "
        f"{two.number}. {_doubt(view, one, two)}"
    ).strip()


def _doubt(view: SweepView, best: Trial, other: Trial) -> str:
    """Return how much of a lead may be chance, if the objective is an accuracy."""
    if view.sweep.configuration.search.seeds:
        proof = "this compares two trainings"
    else:
        proof = "each is one training with one seed"
    error = view.standard_error(best.value or 0.0, "validation")
    if (
        view.goal != Goal("validation/accuracy", "maximize")
        or best.value is None
        or other.value is None
        or error is None
    ):
        return f"{proof[0].upper()}{proof[1:]}, which does not show a significant difference."
    lead = best.value - other.value
    size = "smaller" if lead < error else f"{lead / error:.1f} standard errors"
    return (
        f"The standard error of such an accuracy on {view.samples('validation')} validation "
        f"samples is {error:.4f}; the lead is {size}; {proof}, and the best value of many "
        f"trials is optimistically biased."
    )


def _cost(view: SweepView) -> str:
    trained = _trained(view)
    whole = len(view.trials) * view.epochs
    if view.searched and trained < whole:
        saved = f", {1 - trained / whole:.0%} less than {len(view.trials)} complete trials"
    else:
        saved = ""
    return (
        f"{duration(view.sweep.seconds)} of wall-clock time, including the training of the "
        f"teacher; {trained:,} epochs trained{saved}."
    )


def next_steps(
    view: SweepView, commands: Commands, edges: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return the next steps, each with its command if there is one.

    `edges` are the best trial's settings at an end of their range.
    """
    steps = [("Continue the sweep:", commands.resume)] if commands.resume else []
    failed = sum(trial.state == "failed" for trial in view.trials)
    if failed and failed >= FEW * len(view.trials):
        steps.append(
            (
                f"Check why {failed} {'trial' if failed == 1 else 'trials'} failed: the reasons "
                f"are below the table of trials.",
                "",
            )
        )
    if edges:
        steps.append(
            (
                f"Search a wider space: the best trial is at an end of a searched range, "
                f"{'; '.join(edges)}.",
                "",
            )
        )
    if commands.export:
        steps.append(("Export the best student:", commands.export))
    if (
        view.searched
        and not view.sweep.configuration.search.configurations
        and len(view.complete) > 1
    ):
        steps.append(
            (
                "Train the best settings of each method with several seeds before you call one "
                "better.",
                "",
            )
        )
    if commands.compare:
        steps.append(
            (
                f"To compare the methods, save the configuration below as "
                f"{view.sweep.name}.yaml and run:",
                commands.compare,
            )
        )
    return steps


def _trained(view: SweepView) -> int:
    return sum(trial.epochs for trial in view.trials)


def _total(view: SweepView) -> int:
    return max(view.sweep.configuration.search.trials, len(view.trials)) if view.searched else 1


def duration(seconds: float) -> str:
    """Return a duration such as `1 h 2 min`, `3 min 4 s` or `5.6 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60:.0f} s"
