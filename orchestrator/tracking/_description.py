"""Describe a sweep for MLflow: a description in Markdown, tags to filter by, and its data.

MLflow shows the description above the parent run. It lists the best trials, the settings of the
best one, and commands that show more.
"""

import json

from orchestrator.config.objectives import describe_objective, list_objectives
from orchestrator.config.schema import Configuration
from orchestrator.core.program import program_name
from orchestrator.data.dataset import DataSummary
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.teacher.quality import read_qualities

NOTE = "mlflow.note.content"  # the tag that MLflow's interface shows as a description
# Placeholder in a description for the address of its run in MLflow's interface; sending fills it in
RUN = "run:here"
LONGEST = 4500  # characters: the limit of a tag is 5,000
DIGEST = 36  # characters of a fingerprint that MLflow accepts
ROWS = 10  # trials in the table
SETTINGS = 20  # of the best trial
STATES = {"complete": "complete", "stopped_early": "stopped early", "failed": "failed"}


def tags(configuration: Configuration, methods: str) -> dict[str, str]:
    """Return the tags that runs are filtered by, as in `tags.method = 'kd'`."""
    return {
        "method": methods,
        "student": configuration.student.name,
        "teacher": configuration.teacher_names or "none",
        "data": configuration.data.name,
    }


def searched_methods(configuration: Configuration) -> str:
    """Return the methods of a sweep in one line."""
    return ", ".join(configuration.search.methods or (configuration.method.name,))


def description(store: Store, sweep: Sweep, state: str, model: str = "") -> str:
    """Return the Markdown description of the parent run.

    Links begin with `RUN`, except for a running sweep: its run may not exist yet.

    Args:
        store: The store, for its command-line option.
        sweep: The sweep.
        state: The state of the sweep.
        model: The name of its registered model, if it has one.
    """
    best = sweep.best()
    parts = [_summary(sweep, state, best)]
    if best:
        parts += [_table(sweep), _settings(best)]
    parts += [_next(store, sweep, best, model, linked=state != "running")]
    text = "\n\n".join(parts)
    return (
        text if len(text) <= LONGEST else text[: text.rindex("\n", 0, LONGEST)] + "\n\n(truncated)"
    )


def dataset(configuration: Configuration, summary: DataSummary) -> dict[str, str]:
    """Return the data as MLflow's dataset entity.

    Returns:
        Name, digest (the fingerprint), source, schema and profile. The last three are JSON.
    """
    shape, classes = summary.shape, summary.classes
    keys = (
        "sizes",
        "class_sizes",
        "shape",
        "mean",
        "std",
        "labelled",
        "label_noise",
        "validation_in_training",
    )
    plain = summary.plain()
    profile = {key: plain[key] for key in keys if key in plain} | {"classes": len(classes)}
    features = [
        {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, *shape[1:], shape[0]]}}
    ]
    labels = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
    schema = {
        "mlflow_tensorspec": {"features": json.dumps(features), "targets": json.dumps(labels)}
    }
    path = configuration.data.path
    return {
        "name": summary.name,
        "digest": summary.fingerprint[:DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": str(path) if path else summary.name}),
        "schema": json.dumps(schema),
        "profile": json.dumps(profile),
    }


def _summary(sweep: Sweep, state: str, best: Trial | None) -> str:
    configuration, many = sweep.configuration, len(sweep.trials)
    teachers = configuration.named_teachers.values()
    qualities = read_qualities(sweep.folder, len(teachers))
    parts = [
        f"`{teacher.network.name}`" + (f" ({quality.accuracy_in_words})" if quality else "")
        for teacher, quality in zip(teachers, qualities, strict=True)
    ]
    teacher = f", teacher{'s' * (len(parts) > 1)} {', '.join(parts)}" if parts else ", no teacher"
    trials = "1 trial" if many == 1 else f"{many} trials"
    summary = (
        f"**{state}**: {trials} of {searched_methods(configuration)} on {configuration.data.name}, "
        f"student `{configuration.student.name}`{teacher}, at most {configuration.training.epochs} "
        f"epochs each."
    )
    if not best or best.value is None:
        return summary + " No trial has completed yet."
    test = _test(best)
    tested = f", test accuracy {test:.4f}" if test is not None else ""
    objective = describe_objective(configuration, list_objectives(configuration.search)[0])
    return f"{summary} The best is trial {best.number}: {objective} {best.value:.4f}{tested}."


def _table(sweep: Sweep) -> str:
    objective = list_objectives(sweep.configuration.search)[0]
    ranked = sweep.ranked()
    rows = [
        "## Trials",
        "",
        f"| trial | method | state | epochs | {objective} | test accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for trial in ranked[:ROWS]:
        method = trial.settings.get("method.name", sweep.configuration.method.name)
        value, test = (
            "" if number is None else f"{number:.4f}" for number in (trial.value, _test(trial))
        )
        rows.append(
            f"| {trial.number} | {method} | {STATES[trial.state]} | {trial.epochs} | {value} | "
            f"{test} |"
        )
    failed = sum(trial.state == "failed" for trial in sweep.trials.values())
    more = [f"{len(ranked) - ROWS} more"] if len(ranked) > ROWS else []
    more += [f"{failed} failed"] if failed else []
    return "\n".join(rows) + (f"\n\nNot shown: {', '.join(more)}." if more else "")


def _settings(best: Trial) -> str:
    settings = list(best.settings.items())
    if not settings:
        return (
            "## Best settings\n\nThe settings in `configuration.json`: no settings were searched."
        )
    rows = [
        f"| {name} | {f'{value:.4g}' if isinstance(value, float) else value} |"
        for name, value in settings[:SETTINGS]
    ]
    if len(settings) > SETTINGS:
        more = f"\n\n{len(settings) - SETTINGS} more settings are in its run."
    else:
        more = ""
    return "## Best settings\n\n| setting | value |\n|---|---|\n" + "\n".join(rows) + more


def _next(store: Store, sweep: Sweep, best: Trial | None, model: str, linked: bool) -> str:
    if linked:
        ran = f"[`configuration.json`]({RUN}/artifacts/configuration.json)"
    else:
        ran = "`configuration.json`"
    lines = [
        "- Its trials are the runs below it: `tags.sweep = '"
        + sweep.name
        + "'`; the best one has `tags.best = 'true'`.",
        f"- *Artifacts*: {ran} is the configuration that ran; the best trials have "
        f"figures (`tracking.figures`); `report` adds its page here.",
    ]
    if model:
        lines.append(
            f"- The best student is the registered model [{model}](#/models/{model}), alias `best`."
        )
    commands = [f"{program_name()} {command}{store.option}" for command in _commands(sweep, best)]
    return "## Next steps\n\n" + "\n".join(lines) + "\n\n```\n" + "\n".join(commands) + "\n```"


def _commands(sweep: Sweep, best: Trial | None) -> list[str]:
    if sweep.kind != "sweep":
        return [f"export {sweep.name}"] if best else []
    return [
        f"status {sweep.name}",
        *([f"{what} {sweep.name}" for what in ("report", "importance", "export")] if best else []),
    ]


def _test(trial: Trial) -> float | None:
    return trial.metrics.get("test/best/accuracy")
