"""Write the card of an exported student, as model hubs read it: YAML, then Markdown.

The card depends on settings.json alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from orchestrator.export.settings import ExportSettings, Source, Values

TEMPLATES = Path(__file__).with_name("templates")
METRICS = ("accuracy", "nll", "ece", "entropy", "agreement")


def model_card(settings: ExportSettings) -> str:
    """Return the text of README.md for the content of settings.json."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["one_line"] = _one_line
    over_seeds = settings.over_seeds
    return environment.get_template("model_card.md.jinja").render(
        {"teachers": [], "ensemble": {}} | settings.plain(),
        front=_front(settings),
        tested=_tested(settings.source),
        metrics=_table(settings.source.metrics, lambda value: f"{value:.4f}"),
        means=over_seeds
        and _table(over_seeds.metrics, lambda value: f"{value['mean']:.4f} ± {value['error']:.4f}"),
    )


def _front(settings: ExportSettings) -> str:
    data, source = settings.data, settings.source
    part = "test" if _tested(source) else "validation"
    value = source.metrics[f"{part}/{source.weights}/accuracy"]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": data.name, "type": data.name, "split": part},
        "metrics": [{"type": "accuracy", "name": f"{part} accuracy", "value": value}],
    }
    uses_others = settings.teacher or settings.teachers or settings.uses_peers
    distilled = ["knowledge-distillation"] if uses_others else []
    values = {
        "tags": ["image-classification", *distilled, settings.method.name, settings.network.name],
        "pipeline_tag": "image-classification",
        "metrics": ["accuracy"],
        "model-index": [{"name": settings.name, "results": [result]}],
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _table(metrics: Values, format_value: Callable[[Any], str]) -> str:
    """Return a table of the available metrics by part and weights."""
    columns = [(part, which) for part in ("validation", "test") for which in ("best", "last")]
    columns = [
        pair for pair in columns if any(name.startswith("/".join(pair) + "/") for name in metrics)
    ]
    heads = [f"{part}, {which} weights" for part, which in columns]
    rows = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(columns)}"]
    for metric in METRICS:
        values = [metrics.get(f"{part}/{which}/{metric}") for part, which in columns]
        if any(value is not None for value in values):
            rows.append(
                f"| {metric} | "
                f"{' | '.join('' if value is None else format_value(value) for value in values)} |"
            )
    return "\n".join(rows)


def _tested(source: Source) -> bool:
    return any(name.startswith("test/") for name in source.metrics)


def _one_line(values: Values, *without: str) -> str:
    """Return the values in one line, without those that are null or empty, or named."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
        if name not in without and value not in (None, [], {})
    )
